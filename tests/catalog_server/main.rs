//! The reference catalog server, as its own process, on SQLite and on a real
//! PostgreSQL: what docs/catalog-api.yaml promises and a schema cannot say.
// Clippy knows the tests themselves, but not what they call.
#![allow(clippy::unwrap_used)]

/// Makes a test on each of the two databases of every behaviour.
macro_rules! on_both_databases {
    ($($behaviour:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::server::Database::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::server::Database::postgres()).await;
            })*
        }
    };
}

mod commit_order;
mod events;
mod follower;
mod lists;
mod openapi;
mod operation;
#[allow(dead_code, reason = "shared with tests/catalog_sources")]
mod postgres;
mod reports;
#[allow(dead_code, reason = "shared with tests/catalog_sources")]
mod server;
mod services;
mod tokens;
mod write_back;
