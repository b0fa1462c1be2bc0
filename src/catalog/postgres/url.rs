//! Which database does a URL name, and how is the connection to it protected?
//! Parses; no IO but that sqlx looks at libpq's environment variables.
//!
//! No message repeats any of the text, which holds a password.

use std::net::IpAddr;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Parameters that are understood. Others are refused: sqlx would pass over
/// one that asks for more protection, and log its value.
const PARAMETERS: [&str; 10] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "user",
];

/// How one database is reached.
pub(super) struct Target {
    pub(super) options: PgConnectOptions,
    /// Host and port, for messages.
    pub(super) at: String,
    /// Why a credential is not safe on the way there.
    pub(super) danger: Option<&'static str>,
}

/// Whether a text is meant as the URL of a database.
pub(in crate::catalog) fn names_database(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        ["postgres", "postgresql"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

/// Whether a URL can be used at all.
pub(in crate::catalog) fn check(text: &str) -> Result<(), String> {
    target(text, None).map(|_| ())
}

/// Reads a URL. `ca` are authorities, as PEM, that are trusted besides the
/// platform's.
pub(super) fn target(text: &str, ca: Option<&[u8]>) -> Result<Target, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !names_database(text) {
        return Err("must begin with postgres:// or postgresql://".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not carry a fragment; write # in a password as %23".to_owned());
    }
    let parameter = |name: &str| {
        let mut pairs = url.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    if url
        .query_pairs()
        .any(|(key, _)| !PARAMETERS.contains(&key.as_ref()))
    {
        return Err(format!(
            "carries a parameter that is not known; known are {}; authorities go into --catalog-ca-file",
            PARAMETERS.join(", ")
        ));
    }
    let host = parameter("host").unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned());
    if host.is_empty() {
        return Err("must name a host".to_owned());
    }
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .replace("%2F", "/")
        .replace("%2f", "/");
    let near = is_near(&host);
    let mode = mode(parameter("sslmode").as_deref(), near, ca.is_some())?;

    // Its messages may repeat a value.
    let mut options = PgConnectOptions::from_url(&url)
        .map_err(|_| "cannot be used: check its port and what is written as %".to_owned())?
        .ssl_mode(mode)
        .disable_statement_logging();
    if !host.starts_with('/') {
        options = options.host(&host);
    }
    if parameter("application_name").is_none() {
        options = options.application_name(env!("CARGO_PKG_NAME"));
    }
    if let Some(ca) = ca {
        options = options.ssl_root_cert_from_pem(ca.to_vec());
    }
    let at = match options.get_port() {
        _ if host.starts_with('/') => host,
        port if host.contains(':') => format!("[{host}]:{port}"),
        port => format!("{host}:{port}"),
    };
    let danger = danger(mode).filter(|_| !near);
    Ok(Target {
        options,
        at,
        danger,
    })
}

/// Whether nothing leaves the machine on the way there.
fn is_near(host: &str) -> bool {
    host == "localhost"
        || host.starts_with('/')
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// What the URL asks for, and where it does not, the full check. TLS without
/// a check is no protection, so `require` checks: as libpq does where it has
/// authorities of its own, and in full otherwise. sqlx takes `allow` for
/// `disable`.
fn mode(asked: Option<&str>, near: bool, has_ca: bool) -> Result<PgSslMode, String> {
    Ok(match asked {
        None if near => PgSslMode::Prefer,
        None => PgSslMode::VerifyFull,
        Some("disable") => PgSslMode::Disable,
        Some("allow" | "prefer") => PgSslMode::Prefer,
        Some("require") if has_ca => PgSslMode::VerifyCa,
        Some("verify-ca") => PgSslMode::VerifyCa,
        Some("require" | "verify-full") => PgSslMode::VerifyFull,
        Some(_) => {
            let modes = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(format!("has an sslmode that is none of {modes}"));
        }
    })
}

fn danger(mode: PgSslMode) -> Option<&'static str> {
    match mode {
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::Require => Some(
            "the credential for the catalog's database may travel in clear: sslmode in its URL allows that; use verify-full outside a trusted network",
        ),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection(text: &str, ca: Option<&[u8]>) -> (String, bool) {
        let target = target(text, ca).unwrap();
        let mode = format!("{:?}", target.options.get_ssl_mode());
        (mode, target.danger.is_some())
    }

    #[test]
    fn the_certificate_is_checked_in_full_unless_the_url_says_otherwise() {
        let ca = Some(&b"pem"[..]);
        for (sslmode, ca, mode, danger) in [
            ("", None, "VerifyFull", false),
            ("?sslmode=verify-full", None, "VerifyFull", false),
            ("?sslmode=verify-ca", None, "VerifyCa", false),
            ("?sslmode=require", ca, "VerifyCa", false),
            ("?sslmode=require", None, "VerifyFull", false),
            ("?sslmode=prefer", None, "Prefer", true),
            ("?sslmode=allow", None, "Prefer", true),
            ("?sslmode=disable", ca, "Disable", true),
        ] {
            let url = format!("postgres://me:hunter2@db.test/catalog{sslmode}");
            assert_eq!(protection(&url, ca), (mode.to_owned(), danger), "{url}");
        }
    }

    #[test]
    fn what_stays_on_the_machine_is_not_warned_of() {
        for host in ["localhost", "127.0.0.1:5433", "[::1]", "%2Frun%2Fpg"] {
            let url = format!("postgresql://me@{host}/catalog");
            assert_eq!(protection(&url, None), ("Prefer".to_owned(), false));
            let url = format!("{url}?sslmode=disable");
            assert_eq!(protection(&url, None), ("Disable".to_owned(), false));
        }
        // Resolved by somebody else.
        let url = "postgres://me@localhost.test/catalog?sslmode=disable";
        assert!(protection(url, None).1);
    }

    #[test]
    fn messages_name_host_and_port() {
        for (url, at) in [
            ("postgres://me:hunter2@db.test/catalog", "db.test:5432"),
            ("postgres://me@[::1]:7/catalog", "[::1]:7"),
            ("postgres://me@x/catalog?host=/run/pg", "/run/pg"),
            ("postgres://me@%2Frun%2Fpg/catalog", "/run/pg"),
        ] {
            assert_eq!(target(url, None).unwrap().at, at);
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_repeating_it() {
        for url in [
            "postgres",
            "postgres://",
            "postgres:///catalog",
            "mysql://me:hunter2@db",
            "postgres://me:hunter2@db:port/catalog",
            "postgres://me:hunter2@db/catalog#hunter2",
            "postgres://me:hunter2@db/catalog?sslmode=hunter2",
            "postgres://me@db/catalog?sslpassword=hunter2",
            "postgres://me@db/catalog?hunter2=1",
            "postgres://me@db/catalog?port=hunter2",
            "postgres://me:%ffhunter2@db/catalog",
        ] {
            let Err(why) = target(url, None) else {
                panic!("{url}")
            };
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_database_is_told_by_its_scheme() {
        for text in ["postgres://a", "PostgreSQL://a", "postgres:"] {
            assert!(names_database(text), "{text}");
        }
        for text in ["http://postgres:1", "postgres", "postgresx://a", ""] {
            assert!(!names_database(text), "{text}");
        }
    }
}
