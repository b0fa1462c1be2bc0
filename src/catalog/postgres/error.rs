//! What does a failure of the database mean for a call? Pure.
//!
//! Messages come out the same for the same fault, and carry no credential:
//! PostgreSQL names the user at most.

use std::error::Error as _;

use sqlx::Error;

use crate::catalog::error::{CatalogError, one_line};

const TABLES: &str = "docs/catalog-schema.md";

/// Classifies a failure at the database `at` (host and port).
pub(super) fn classify(at: &str, error: &Error) -> CatalogError {
    match error {
        Error::Database(refusal) => {
            let code = refusal.code().unwrap_or_default();
            refused(at, &code, refusal.message())
        }
        Error::Io(io) => CatalogError::unavailable(one_line(&match io.kind() {
            // This is how rustls refuses a certificate.
            std::io::ErrorKind::InvalidData => format!(
                "no safe connection to PostgreSQL at {at}: {io}; check --catalog-ca-file and the host in the URL"
            ),
            _ => format!("no connection to PostgreSQL at {at}: {io}"),
        })),
        Error::Tls(cause) => CatalogError::unavailable(one_line(&format!(
            "no TLS with PostgreSQL at {at}: {cause}"
        ))),
        Error::RowNotFound => CatalogError::unavailable(format!(
            "the catalog's table catalog_state in PostgreSQL at {at} is empty; see {TABLES}"
        )),
        Error::PoolTimedOut => {
            CatalogError::unavailable(format!("no connection to PostgreSQL at {at} in time"))
        }
        Error::ColumnDecode { source, .. } => CatalogError::unavailable(one_line(&format!(
            "the catalog's tables in PostgreSQL at {at} are not those of {TABLES}: {source}"
        ))),
        other => {
            let cause = other
                .source()
                .map_or_else(|| other.to_string(), ToString::to_string);
            CatalogError::unavailable(one_line(&format!("PostgreSQL at {at} failed: {cause}")))
        }
    }
}

/// The SQLSTATE decides; the text may be in any language.
fn refused(at: &str, code: &str, message: &str) -> CatalogError {
    match code {
        // A wrong password, or no entry in pg_hba.conf.
        "28P01" | "28000" => {
            CatalogError::unauthorized(one_line(&format!("PostgreSQL at {at}: {message}")))
        }
        // A role without a right.
        "42501" => CatalogError::unauthorized(one_line(&format!(
            "PostgreSQL at {at}: {message}; {TABLES} lists the rights of each role"
        ))),
        // A table, column, function or schema that is not there.
        "42P01" | "42703" | "42883" | "3F000" => CatalogError::unavailable(one_line(&format!(
            "PostgreSQL at {at}: {message}; run the migrations of the catalog's tables, see {TABLES}"
        ))),
        _ => CatalogError::unavailable(one_line(&format!("PostgreSQL at {at}: {message}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_what_a_refusal_means() {
        let message = |code| refused("db:1", code, "no\nway").to_string();
        for (code, kind, hint) in [
            ("28P01", "no valid credential", "no\\nway"),
            ("28000", "no valid credential", "no\\nway"),
            ("42501", "no valid credential", "rights of each role"),
            ("42P01", "unavailable", "run the migrations"),
            ("42883", "unavailable", "docs/catalog-schema.md"),
            ("53300", "unavailable", "db:1: no\\nway"),
            ("57P01", "unavailable", "db:1: no\\nway"),
        ] {
            let message = message(code);
            assert!(message.contains(kind), "{code}: {message}");
            assert!(message.contains(hint), "{code}: {message}");
        }
    }
}
