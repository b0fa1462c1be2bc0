//! Where alerts go: flags of `run`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, Error};
use url::Url;

/// Where alerts go.
#[derive(Args, Clone, Debug)]
pub struct AlertArgs {
    /// URL of an Alertmanager that is told which endpoints and services are
    /// unhealthy: the part before `/api/v2`. Give the flag once for each member
    /// of an Alertmanager cluster, or all of them separated by commas.
    #[arg(
        long,
        env = "CATALOG_MESH_ALERTMANAGER_URL",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ',',
        value_parser = UrlParser
    )]
    pub alertmanager_url: Vec<Url>,

    /// File with a token that Alertmanagers get as a bearer token; read for
    /// each request.
    #[arg(
        long,
        env = "CATALOG_MESH_ALERTMANAGER_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub alertmanager_token_file: Option<PathBuf>,

    /// PEM file of the authorities that may sign an Alertmanager's
    /// certificate, instead of the system's; read again when it changes.
    #[arg(long, env = "CATALOG_MESH_ALERTMANAGER_CA_FILE", value_name = "FILE")]
    pub alertmanager_ca_file: Option<PathBuf>,
}

/// Reads a URL. Other than clap's own parsers it never repeats the text, which
/// may hold a password.
#[derive(Clone)]
struct UrlParser;

impl TypedValueParser for UrlParser {
    type Value = Url;

    fn parse_ref(&self, cmd: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Url, Error> {
        let text = value.to_str().ok_or("is not UTF-8");
        text.map_err(str::to_owned)
            .and_then(base_url)
            .map_err(|why| {
                let message = format!("a URL of --alertmanager-url {why}\n");
                Error::raw(ErrorKind::ValueValidation, message).with_cmd(cmd)
            })
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not one: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with http:// or https:// and name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "must not carry a user or password; put a token in the file of --alertmanager-token-file"
                .to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not carry a query or fragment".to_owned());
    }
    if url
        .path_segments()
        .is_some_and(|mut parts| parts.any(|part| part == "api"))
    {
        return Err("must be the part before /api/v2".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    fn urls(flags: &[&str]) -> Result<Vec<String>, String> {
        let words = ["x", "run"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(super::super::Command::Run(args)) = cli.command else {
            panic!("it does not run");
        };
        let urls = args.alert.alertmanager_url;
        Ok(urls.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn several_are_given_one_by_one_or_separated_by_commas() {
        assert_eq!(urls(&[]).unwrap(), Vec::<String>::new());
        let expected = ["http://a:9093/", "https://b/am", "http://[::1]:1/"];
        let flags = [
            "--alertmanager-url=http://a:9093,https://b/am",
            "--alertmanager-url=http://[::1]:1",
        ];
        assert_eq!(urls(&flags).unwrap(), expected);
    }

    #[test]
    fn a_url_that_is_no_plain_address_is_refused_by_the_flags_name_and_not_repeated() {
        for text in [
            "",
            "hunter2",
            "ftp://hunter2",
            "http://",
            "http://me:hunter2@host",
            "https://hunter2@host",
            "http://host/?key=hunter2",
            "http://host/#hunter2",
            "http://hunter2/api/v2",
            "http://host/hunter2/api/v2/alerts",
            "http://good,http://me:hunter2@host",
            "http://good,",
        ] {
            let why = urls(&["--alertmanager-url", text]).unwrap_err();
            assert!(why.contains("--alertmanager-url"), "{text}: {why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
