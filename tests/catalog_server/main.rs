//! The reference catalog server, as its own process, on SQLite and on a real
//! PostgreSQL: what docs/catalog-api.yaml promises and a schema cannot say.
// Clippy knows the tests themselves, but not what they call.
#![allow(clippy::unwrap_used)]

#[path = "../support/catalog.rs"]
mod catalog;
#[path = "../support/private_postgres.rs"]
mod private_postgres;

/// Makes a test on each of the two databases of every behaviour.
macro_rules! on_both_databases {
    ($($behaviour:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::catalog::Database::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::catalog::Database::postgres()).await;
            })*
        }
    };
}

mod commit_order;
mod events;
mod lists;
mod operation;
mod reports;
mod services;
