-- Temporary tables are looked for first unless the path names them: whoever may
-- write reports could have had a table of his own taken for one of these, and run
-- triggers of his with the definer's rights.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION catalog_health_changed() SET search_path TO %I, pg_temp',
                   current_schema());
END $$;
