-- docs/catalog-schema.md explains the tables.

CREATE TABLE catalog_state (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    epoch     TEXT    NOT NULL,
    revision  INTEGER NOT NULL,
    floor     INTEGER NOT NULL
);
INSERT INTO catalog_state VALUES (1, lower(hex(randomblob(6))), 0, 0);

-- The owners' part.

CREATE TABLE services (
    id        TEXT    PRIMARY KEY,
    name      TEXT    NOT NULL,
    namespace TEXT    NOT NULL,
    labels    TEXT    NOT NULL,
    record    TEXT    NOT NULL,
    revision  INTEGER NOT NULL
);

CREATE TABLE service_versions (
    id            TEXT    NOT NULL,
    from_revision INTEGER NOT NULL,
    to_revision   INTEGER NOT NULL DEFAULT 9223372036854775807,
    namespace     TEXT    NOT NULL,
    labels        TEXT    NOT NULL,
    record        TEXT    NOT NULL,
    PRIMARY KEY (id, from_revision)
);
CREATE INDEX service_versions_by_end ON service_versions (to_revision);

CREATE TABLE events (
    revision   INTEGER PRIMARY KEY,
    type       TEXT    NOT NULL,
    service_id TEXT    NOT NULL,
    data       TEXT    NOT NULL,
    at         INTEGER NOT NULL
);

-- What clusters report.

CREATE TABLE report_clusters (
    cluster  TEXT    PRIMARY KEY,
    epoch    INTEGER NOT NULL,
    sequence INTEGER NOT NULL
);

CREATE TABLE health_reports (
    service_id TEXT    NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    cluster    TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    health     TEXT    NOT NULL CHECK (health IN ('Healthy', 'Degraded', 'Unhealthy', 'Unknown')),
    healthy    INTEGER NOT NULL,
    total      INTEGER NOT NULL,
    PRIMARY KEY (service_id, cluster)
);

CREATE TABLE endpoint_reports (
    service_id TEXT    NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    cluster    TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    endpoints  TEXT    NOT NULL,
    PRIMARY KEY (service_id, cluster)
);

-- A change of health makes its event whoever wrote it.

CREATE TRIGGER health_reported AFTER INSERT ON health_reports
BEGIN
    UPDATE catalog_state SET revision = revision + 1;
    INSERT INTO events
    SELECT c.revision, 'HealthChanged', s.id,
           json_object('id', s.id, 'name', s.name, 'namespace', s.namespace, 'revision', c.revision,
                       'writer', json_object('cluster', NEW.cluster, 'epoch', NEW.epoch, 'sequence', NEW.sequence)),
           CAST(unixepoch('subsec') * 1000 AS INTEGER)
    FROM services s, catalog_state c WHERE s.id = NEW.service_id;
END;

CREATE TRIGGER health_changed AFTER UPDATE OF health ON health_reports WHEN OLD.health <> NEW.health
BEGIN
    UPDATE catalog_state SET revision = revision + 1;
    INSERT INTO events
    SELECT c.revision, 'HealthChanged', s.id,
           json_object('id', s.id, 'name', s.name, 'namespace', s.namespace, 'revision', c.revision,
                       'writer', json_object('cluster', NEW.cluster, 'epoch', NEW.epoch, 'sequence', NEW.sequence)),
           CAST(unixepoch('subsec') * 1000 AS INTEGER)
    FROM services s, catalog_state c WHERE s.id = NEW.service_id;
END;
