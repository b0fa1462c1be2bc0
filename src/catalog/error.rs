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
    /// The credential was refused (401, 403), or there is none to send.
    #[error("no valid credential for the catalog: {message}")]
    Unauthorized {
        /// What the catalog said, or which file holds no credential.
        message: String,
    },
    /// The catalog answered that there is no such service.
    #[error("the catalog has no such service")]
    NotFound,
    /// The record is there, but cannot be understood.
    #[error("bad record: {0}")]
    BadRecord(BadRecord),
}

impl CatalogError {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
        }
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::Unauthorized {
            message: message.into(),
        }
    }
}

/// Text from outside as it may stand in a message: on one line, and at most
/// 300 characters of it.
pub(crate) fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let mut line = String::new();
    let mut taken = 0;
    for c in text.trim().chars() {
        // Quotes stay readable; everything that could break the line, hide or
        // reorder text is written as its escape.
        match c {
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
        taken += 1;
        if taken == MOST {
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_on_one_line_and_is_bounded() {
        assert_eq!(one_line(" a \"b\" c\\d \n"), "a \"b\" c\\d");
        assert_eq!(
            one_line("a\nb\u{1b}[31m\u{202e}c"),
            "a\\nb\\u{1b}[31m\\u{202e}c"
        );
        let long = one_line(&"\0".repeat(10_000));
        assert!(long.len() < 301 * 4 && long.ends_with('…'), "{long}");
    }
}
