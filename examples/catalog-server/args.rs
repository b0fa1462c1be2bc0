//! The command line. No IO.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::duration::milliseconds;

/// The reference service catalog of Catalog-Mesh.
///
/// Serves the Catalog API (docs/catalog-api.yaml) over PostgreSQL or an SQLite
/// file. The tables are made, and brought to this version, at start.
#[derive(Debug, Parser)]
#[command(name = "catalog-server", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) serve: Serve,

    /// Where the catalog is kept: sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(
        long,
        global = true,
        env = "CATALOG_DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://catalog.db",
        value_name = "URL"
    )]
    pub(crate) database_url: String,

    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Plain)]
    pub(crate) log_format: LogFormat,
}

/// What else to do than to serve.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Begin a new epoch; run it after a backup was restored
    ///
    /// A restored catalog counts its revisions from the backup on and would
    /// give numbers out again that followers have seen. In a new epoch no old
    /// position is valid: every follower is told to list again. A server that
    /// is running takes notice by itself.
    RestoreEpoch,
}

/// How the server serves.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Address to listen on; port 0 takes a free one and logs it
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,

    /// JSON list of services to register where they are not there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) seed: Option<PathBuf>,

    /// File with the key that clients send as X-API-Key; read at start
    ///
    /// The environment variable CATALOG_API_KEY can hold the key itself. There
    /// is no flag for it, since other users can read command lines.
    #[arg(long, env = "CATALOG_API_KEY_FILE", value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// The key itself.
    #[arg(skip = std::env::var_os("CATALOG_API_KEY"))]
    pub(crate) api_key: Option<OsString>,

    /// Accept tokens of service accounts that are for this audience
    ///
    /// Clients send them as `Authorization: Bearer`. Each is reviewed by the
    /// Kubernetes API server that KUBECONFIG, or the Pod's own account, leads
    /// to; that account needs the ClusterRole system:auth-delegator. Where
    /// there is a key too, either opens.
    #[arg(long, value_name = "AUDIENCE", requires = "token_account")]
    pub(crate) token_audience: Option<String>,

    /// Service account whose tokens are accepted; repeated for several
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "token_audience", value_parser = account)]
    pub(crate) token_account: Vec<String>,

    /// Time for which a token that was accepted is not reviewed again, at most
    /// 1m: one that is revoked opens for so long
    #[arg(long, default_value = "10s", value_parser = short, value_name = "DURATION")]
    pub(crate) token_trusted_for: Duration,

    /// Changes that can be replayed to a follower
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1..), value_name = "NUMBER")]
    pub(crate) retention_revisions: i64,

    /// Age up to which changes can be replayed, in Go's syntax
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "DURATION")]
    pub(crate) retention_age: Duration,

    /// Time after which an event stream is ended; its client resumes
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub(crate) stream_age: Duration,

    /// Requests worked on at once; more are answered 503
    #[arg(long, default_value_t = 256, value_parser = at_least_one, value_name = "NUMBER")]
    pub(crate) max_requests: usize,

    /// Event streams open at once; more are answered 503
    #[arg(long, default_value_t = 1024, value_parser = at_least_one, value_name = "NUMBER")]
    pub(crate) max_streams: usize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    milliseconds(text)
        .map(Duration::from_millis)
        .ok_or("must be a duration such as 30s, 1h30m or 500ms")
}

fn short(text: &str) -> Result<Duration, &'static str> {
    let duration = duration(text)?;
    (duration <= Duration::from_secs(60))
        .then_some(duration)
        .ok_or("must be at most 1m")
}

/// The user that a service account is to the API server.
fn account(text: &str) -> Result<String, &'static str> {
    let label = |part: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        !part.is_empty() && part.bytes().all(good)
    };
    match text.split_once('/') {
        Some((namespace, name)) if label(namespace) && label(name) => {
            Ok(format!("system:serviceaccount:{namespace}:{name}"))
        }
        _ => Err("must be NAMESPACE/NAME"),
    }
}

fn at_least_one(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number),
        _ => Err("must be a whole number from 1 to 1000000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
    #[test]
    fn an_account_is_named_by_namespace_and_name() {
        assert_eq!(
            account("infra/my.app-1").as_deref(),
            Ok("system:serviceaccount:infra:my.app-1")
        );
        for text in [
            "", "infra", "infra/", "/x", "a:b/c", "a/b/c", "A/b", "system:x",
        ] {
            assert!(account(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_accepted_of_named_accounts_for_a_named_audience_only() {
        let parsed = |flags: &[&str]| Args::try_parse_from(["x"].iter().chain(flags)).is_ok();
        assert!(parsed(&["--token-audience=catalog", "--token-account=a/b"]));
        assert!(!parsed(&["--token-audience=catalog"]));
        assert!(!parsed(&["--token-account=a/b"]));
        assert!(!parsed(&["--token-trusted-for=61s"]));
    }
}
