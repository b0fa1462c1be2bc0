//! A catalog over its API and in its database: the same behaviours of both,
//! and what only one of them can do. The server and PostgreSQL are real.
// Clippy knows the tests themselves, but not what they call.
#![allow(clippy::unwrap_used)]

/// Makes a test over the API and in the database of every behaviour.
macro_rules! over_both {
    ($($behaviour:ident),* $(,)?) => {
        mod over_the_api {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::source::Source::api().await).await;
            })*
        }
        mod in_the_database {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::source::Source::database().await).await;
            })*
        }
    };
}

mod events;
mod failures;
#[path = "../support/pki.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "part of the rig, of which this needs little"
)]
mod pki;
#[path = "../catalog_server/postgres.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod postgres;
mod reading;
mod reports;
mod rights;
#[path = "../catalog_server/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod server;
mod source;
mod tls;
