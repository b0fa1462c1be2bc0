//! Why a call to the catalog failed, classified where it arose.

use std::time::Duration;

use crate::domain::record::BadRecord;

/// Why a call to the catalog failed. Messages carry no credential and no
/// unescaped byte of an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CatalogError {
    /// No usable answer: unreachable, too slow, too large, a 5xx, a redirect,
    /// or a body that is not the contract's.
    #[error("the catalog is unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// The catalog asked to be left alone for a while (429, or 503 with
    /// Retry-After).
    #[error("the catalog asks to wait {} s: {message}", retry_after.as_secs())]
    RateLimited {
        /// How long to wait, bounded by the client.
        retry_after: Duration,
        /// What the catalog said.
        message: String,
    },
    /// The credential was refused (401, 403).
    #[error("the catalog refused the credential: {message}")]
    Unauthorized {
        /// What the catalog said.
        message: String,
    },
    /// The catalog answered that there is no such service.
    #[error("the catalog has no such service")]
    NotFound,
    /// The record is there, but cannot be understood.
    #[error("bad record: {0}")]
    BadRecord(BadRecord),
}
