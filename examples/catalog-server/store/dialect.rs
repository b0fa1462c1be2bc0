//! What differs between the two databases. No IO.

use sqlx::migrate::Migrator;

static SQLITE: Migrator = sqlx::migrate!("examples/catalog-server/migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("examples/catalog-server/migrations/postgres");

/// The database behind the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dialect {
    /// A file, made when it is not there.
    Sqlite,
    /// A server that several processes may share.
    Postgres,
}

/// One page of a list. Lists of labels and IDs come as JSON.
macro_rules! page {
    ($labels:literal, $ids:literal) => {
        concat!(
            "SELECT id, from_revision, record FROM service_versions
             WHERE from_revision <= $1 AND to_revision > $1 AND id > $2
               AND ($3 = '' OR namespace = $3)
               AND ($4 = '{}' OR ",
            $labels,
            ") AND ($5 = '[]' OR id IN (",
            $ids,
            ")) ORDER BY id LIMIT $6"
        )
    };
}

/// Stores one report per element of a JSON list; an older row gives way.
macro_rules! store_health {
    ($elements:literal) => {
        concat!(
            "INSERT INTO health_reports (service_id, cluster, epoch, sequence, health, healthy, total) ",
            $elements,
            " ON CONFLICT (service_id, cluster) DO UPDATE SET
                epoch = excluded.epoch, sequence = excluded.sequence,
                health = excluded.health, healthy = excluded.healthy, total = excluded.total"
        )
    };
}

/// The services of a JSON list of IDs that exist, with the position of the
/// last report of a cluster.
macro_rules! known_positions {
    ($ids:literal) => {
        concat!(
            "SELECT s.id, coalesce(h.epoch, -1), coalesce(h.sequence, -1) FROM services s
             LEFT JOIN health_reports h ON h.service_id = s.id AND h.cluster = $1
             WHERE s.id IN (",
            $ids,
            ")"
        )
    };
}

impl Dialect {
    /// The database that a URL names.
    pub(crate) fn of(url: &str) -> Option<Self> {
        match url.split_once(':')?.0 {
            "sqlite" => Some(Self::Sqlite),
            "postgres" | "postgresql" => Some(Self::Postgres),
            _ => None,
        }
    }

    pub(crate) fn connect_url(self, url: &str) -> String {
        match self {
            Self::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
            _ => url.to_owned(),
        }
    }

    pub(crate) fn migrator(self) -> &'static Migrator {
        match self {
            Self::Sqlite => &SQLITE,
            Self::Postgres => &POSTGRES,
        }
    }

    /// Run on each new connection: no statement may wait for ever, nor keep others
    /// waiting, and what was told is not lost with the power.
    pub(crate) fn session_settings(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;"
            }
            Self::Postgres => {
                "SET statement_timeout = '8s'; SET lock_timeout = '8s';
                 SET idle_in_transaction_session_timeout = '8s';"
            }
        }
    }

    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// The statement that waits for this writer's turn; SQLite has waited
    /// when the transaction began.
    pub(crate) fn take_turn(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some("SELECT catalog_take_turn()"),
        }
    }

    pub(crate) fn new_epoch(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "UPDATE catalog_state SET epoch = lower(hex(randomblob(6))), floor = revision
                 RETURNING epoch, revision"
            }
            Self::Postgres => {
                "UPDATE catalog_state
                 SET epoch = left(replace(gen_random_uuid()::text, '-', ''), 12), floor = revision
                 RETURNING epoch, revision"
            }
        }
    }

    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::Sqlite => page!(
                "NOT EXISTS (SELECT 1 FROM json_each($4) wanted WHERE NOT EXISTS (
                    SELECT 1 FROM json_each(labels) had
                    WHERE had.key = wanted.key AND had.value = wanted.value))",
                "SELECT value FROM json_each($5)"
            ),
            Self::Postgres => {
                page!(
                    "labels::jsonb @> $4::jsonb",
                    "SELECT jsonb_array_elements_text($5::jsonb)"
                )
            }
        }
    }

    pub(crate) fn known_positions(self) -> &'static str {
        match self {
            Self::Sqlite => known_positions!("SELECT value FROM json_each($2)"),
            Self::Postgres => known_positions!("SELECT jsonb_array_elements_text($2::jsonb)"),
        }
    }

    pub(crate) fn store_health(self) -> &'static str {
        match self {
            Self::Sqlite => store_health!(
                "SELECT value ->> 'serviceId', $1, $2, $3,
                        value ->> 'health', value ->> 'healthy', value ->> 'total'
                 FROM json_each($4) WHERE true"
            ),
            Self::Postgres => store_health!(
                "SELECT \"serviceId\", $1, $2, $3, health, healthy, total
                 FROM jsonb_to_recordset($4::jsonb)
                      AS item(\"serviceId\" text, health text, healthy bigint, total bigint)"
            ),
        }
    }
}
