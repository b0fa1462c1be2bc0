-- docs/catalog-schema.md explains the tables.

CREATE TABLE catalog_state (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    epoch     TEXT    NOT NULL,
    revision  BIGINT  NOT NULL,
    floor     BIGINT  NOT NULL
);
INSERT INTO catalog_state VALUES (1, left(replace(gen_random_uuid()::text, '-', ''), 12), 0, 0);

-- Writers take turns (the number is "catalog" in ASCII), and each keeps its turn until its commit is visible:
-- that makes the order of revisions the order of commits. A statement that
-- has taken its turn before it locks a row cannot deadlock with another.
CREATE FUNCTION catalog_take_turn() RETURNS void LANGUAGE sql
    AS 'SELECT pg_advisory_xact_lock(27973175172951911)';

CREATE FUNCTION catalog_take_turn_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(27973175172951911);
    RETURN NULL;
END $$;

-- A wake-up only: readers read the events.
CREATE FUNCTION catalog_wake_readers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('catalog_changes', '');
    RETURN NULL;
END $$;
CREATE TRIGGER catalog_moved AFTER UPDATE ON catalog_state
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_wake_readers();

-- The owners' part.

CREATE TABLE services (
    id        TEXT COLLATE "C" PRIMARY KEY,
    name      TEXT   NOT NULL,
    namespace TEXT   NOT NULL,
    labels    TEXT   NOT NULL,
    record    TEXT   NOT NULL,
    revision  BIGINT NOT NULL
);

CREATE TABLE service_versions (
    id            TEXT COLLATE "C" NOT NULL,
    from_revision BIGINT NOT NULL,
    to_revision   BIGINT NOT NULL DEFAULT 9223372036854775807,
    namespace     TEXT   NOT NULL,
    labels        TEXT   NOT NULL,
    record        TEXT   NOT NULL,
    PRIMARY KEY (id, from_revision)
);
CREATE INDEX service_versions_by_end ON service_versions (to_revision);

CREATE TABLE events (
    revision   BIGINT PRIMARY KEY,
    type       TEXT   NOT NULL,
    service_id TEXT   NOT NULL,
    data       TEXT   NOT NULL,
    at         BIGINT NOT NULL
);

-- What clusters report.

CREATE TABLE report_clusters (
    cluster  TEXT   PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    sequence BIGINT NOT NULL
);

CREATE TABLE health_reports (
    service_id TEXT COLLATE "C" NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    cluster    TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    sequence   BIGINT NOT NULL,
    health     TEXT   NOT NULL CHECK (health IN ('Healthy', 'Degraded', 'Unhealthy', 'Unknown')),
    healthy    BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    PRIMARY KEY (service_id, cluster)
);

CREATE TABLE endpoint_reports (
    service_id TEXT COLLATE "C" NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    cluster    TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    sequence   BIGINT NOT NULL,
    endpoints  TEXT   NOT NULL,
    PRIMARY KEY (service_id, cluster)
);

CREATE TRIGGER take_turn BEFORE INSERT OR UPDATE OR DELETE ON services
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_take_turn_first();
CREATE TRIGGER take_turn BEFORE INSERT OR UPDATE OR DELETE ON report_clusters
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_take_turn_first();
CREATE TRIGGER take_turn BEFORE INSERT OR UPDATE OR DELETE ON health_reports
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_take_turn_first();
CREATE TRIGGER take_turn BEFORE INSERT OR UPDATE OR DELETE ON endpoint_reports
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_take_turn_first();

-- A change of health makes its event whoever wrote it. With the definer's
-- rights, so that a role that may write reports needs no right on the rest.
CREATE FUNCTION catalog_health_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    next BIGINT;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.health = NEW.health THEN
        RETURN NULL;
    END IF;
    UPDATE catalog_state SET revision = revision + 1 RETURNING revision INTO next;
    INSERT INTO events
    SELECT next, 'HealthChanged', s.id,
           json_build_object('id', s.id, 'name', s.name, 'namespace', s.namespace, 'revision', next,
                             'writer', json_build_object('cluster', NEW.cluster, 'epoch', NEW.epoch,
                                                         'sequence', NEW.sequence))::text,
           (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM services s WHERE s.id = NEW.service_id;
    RETURN NULL;
END $$;
CREATE TRIGGER health_changed AFTER INSERT OR UPDATE ON health_reports
    FOR EACH ROW EXECUTE FUNCTION catalog_health_changed();
