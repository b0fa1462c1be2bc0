//! Where the catalog is and what we authenticate with, as the mounted files
//! say now. Reads files.
//!
//! The kubelet replaces the files of a Secret while we run. Their content is
//! read again before each request: they are small, and a comparison of times
//! and lengths could miss a replacement.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::error::CatalogError;
use super::files::{Files, Text, content};
use super::postgres::url::names_database;

/// How long files that cannot be used, or are gone, are taken for a moment in
/// the midst of a replacement.
const BELIEVED_AFTER: Duration = Duration::from_secs(1);

/// Where the URL of the catalog is found: the part before `/api/v1` of one
/// that serves the Catalog API, or the database that keeps it.
#[derive(Clone, Debug)]
pub enum ApiUrl {
    /// The URL itself.
    Given(String),
    /// A file that holds it, such as `api-url` of the mounted Secret.
    File(PathBuf),
}

/// Where the catalog is, and which files hold the credentials for it.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// The catalog's URL.
    pub api_url: ApiUrl,
    /// File whose content is another URL, for reports, where the catalog's names
    /// a database. Where it is missing who reads reports, too.
    pub report_url_file: Option<PathBuf>,
    /// File whose content is sent as `X-API-Key`. Where it is missing nothing
    /// is sent: the Secret may come later, or hold no key.
    pub api_key_file: Option<PathBuf>,
    /// File whose content is sent as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
}

/// What one reading of the files gave.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) base: Url,
    pub(super) api_key: Option<HeaderValue>,
    pub(super) bearer: Option<HeaderValue>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |secret: &Option<HeaderValue>| secret.as_ref().map(|_| "[redacted]");
        f.debug_struct("Access")
            .field("base", &self.base.as_str())
            .field("api_key", &shown(&self.api_key))
            .field("bearer", &shown(&self.bearer))
            .finish()
    }
}

impl Access {
    /// Somebody's text without what we authenticate with.
    pub(super) fn redacted(&self, text: &str) -> String {
        let sent = self.api_key.iter().chain(&self.bearer);
        sent.filter_map(|secret| secret.to_str().ok())
            .map(|secret| secret.strip_prefix("Bearer ").unwrap_or(secret))
            .fold(text.to_owned(), |text, secret| {
                text.replace(secret, "[redacted]")
            })
    }

    /// The URL of a path below the catalog's own. Segments are escaped.
    pub(super) fn url(&self, segments: &[&str]) -> Result<Url, CatalogError> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| CatalogError::unavailable("api-url cannot carry a path"))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(segments);
        Ok(url)
    }
}

/// The URLs of a database: of who reads, and of who reports. They carry
/// passwords.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct DatabaseAccess {
    pub(super) reader: String,
    pub(super) reporter: String,
}

impl fmt::Debug for DatabaseAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseAccess([redacted])")
    }
}

/// Which kind of catalog the URL names.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// One that serves the Catalog API.
    Http(Arc<Access>),
    /// The database of one.
    Database(Arc<DatabaseAccess>),
}

impl Place {
    /// Whether both are the same catalog, reached in the same way. Another key
    /// for it is no other place.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one), Self::Http(two)) => one.base == two.base,
            (Self::Database(one), Self::Database(two)) => one.reader == two.reader,
            _ => false,
        }
    }
}

type Reading = Result<Place, CatalogError>;

/// Reads the files.
pub(super) struct AccessReader {
    config: AccessConfig,
    last: Mutex<Last>,
    warned_of_clear_text: AtomicBool,
}

/// What the files said before.
#[derive(Default)]
struct Last {
    /// The latest, and what it means.
    read: Option<(Arc<Files>, Reading)>,
    /// The latest that could be used.
    good: Option<(Arc<Files>, Place)>,
    /// Since when they have said less than that.
    worse_since: Option<Instant>,
}

impl Last {
    /// What to go by: for a moment what was good, where there is less of it now.
    fn heed(&mut self, files: Arc<Files>, reading: Reading) -> Reading {
        self.read = Some((Arc::clone(&files), reading.clone()));
        let is_worse = |(good, _): &(Arc<Files>, Place)| reading.is_err() || files.lost_of(good);
        if let Some(good) = self.good.as_ref().filter(|good| is_worse(good)) {
            let since = *self.worse_since.get_or_insert_with(Instant::now);
            if since.elapsed() < BELIEVED_AFTER {
                return Ok(good.1.clone());
            }
        }
        if let Ok(place) = &reading {
            self.worse_since = None;
            self.good = Some((files, place.clone()));
        }
        reading
    }
}

impl AccessReader {
    pub(super) fn new(config: AccessConfig) -> Self {
        Self {
            config,
            last: Mutex::default(),
            warned_of_clear_text: AtomicBool::new(false),
        }
    }

    /// Where the catalog is, by the files as they are at this moment.
    pub(super) async fn place(&self) -> Reading {
        let mut last = self.last.lock().await;
        let before = last.read.as_ref().map(|(files, _)| Arc::clone(files));
        let config = self.config.clone();
        let files = spawn_blocking(move || Files::read(&config, before.as_ref()));
        let files = files.await.map_err(|_| {
            CatalogError::unavailable("the files of the catalog's credentials were not read")
        })?;
        let reading = match &last.read {
            Some((same, reading)) if *same == files => reading.clone(),
            _ => self.meaning(&files),
        };
        last.heed(files, reading)
    }

    /// What to send the next request to the Catalog API with.
    pub(super) async fn current(&self) -> Result<Arc<Access>, CatalogError> {
        match self.place().await? {
            Place::Http(access) => Ok(access),
            Place::Database(_) => Err(CatalogError::unavailable(
                "api-url has just become that of a database",
            )),
        }
    }

    /// What to connect to the database with.
    pub(super) async fn database(&self) -> Result<Arc<DatabaseAccess>, CatalogError> {
        match self.place().await? {
            Place::Database(access) => Ok(access),
            Place::Http(_) => Err(CatalogError::unavailable(
                "api-url has just become that of a Catalog API",
            )),
        }
    }

    /// Whether to warn of a credential that is not safe on its way: once.
    pub(super) fn warns_of_clear_text(&self) -> bool {
        !self.warned_of_clear_text.swap(true, Ordering::Relaxed)
    }

    fn meaning(&self, files: &Files) -> Reading {
        let unavailable =
            |path: &Path, why| CatalogError::unavailable(format!("{} {why}", path.display()));
        let text = match (&self.config.api_url, files.api_url.clone()) {
            (ApiUrl::Given(text), _) => text.clone(),
            (ApiUrl::File(path), text) => text
                .unwrap_or_else(|| Err("was not read".to_owned()))
                .map_err(|why| unavailable(path, why))?,
        };
        if names_database(&text) {
            let reporter = match (&self.config.report_url_file, files.report_url.clone()) {
                (Some(path), Some(text)) => text.map_err(|why| unavailable(path, why))?,
                _ => text.clone(),
            };
            return Ok(Place::Database(Arc::new(DatabaseAccess {
                reader: text,
                reporter,
            })));
        }
        let base = base_url(&text).map_err(|why| match &self.config.api_url {
            ApiUrl::Given(_) => CatalogError::unavailable(format!("api-url {why}")),
            ApiUrl::File(path) => unavailable(path, why),
        })?;
        self.http(base, files)
            .map(|access| Place::Http(Arc::new(access)))
    }

    fn http(&self, base: Url, files: &Files) -> Result<Access, CatalogError> {
        let given = |path: &Option<PathBuf>, text: &Text, prefix| match (path, text) {
            (Some(path), Some(text)) => sendable(path, text, prefix).map(Some),
            _ => Ok(None),
        };
        let api_key = given(&self.config.api_key_file, &files.api_key, "")?;
        let bearer = given(&self.config.token_file, &files.token, "Bearer ")?;
        if base.scheme() == "http"
            && (api_key.is_some() || bearer.is_some())
            && self.warns_of_clear_text()
        {
            tracing::warn!(
                "the credential for the catalog travels in clear: its URL is plain http; use https outside a trusted network"
            );
        }
        Ok(Access {
            base,
            api_key,
            bearer,
        })
    }
}

/// Checks a URL of the catalog. The message never repeats the text, which may
/// hold a password.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(
            "must begin with http:// or https://, or postgres:// for a database, and name a host"
                .to_owned(),
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user or password; put the credential in its file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not carry a query or fragment; give the part before /api/v1".to_owned());
    }
    // Every path below would be unknown to the catalog, and its 404 might be
    // taken for a service that is gone.
    if url.path().trim_end_matches('/').ends_with("/api/v1") {
        return Err("must be the part before /api/v1".to_owned());
    }
    Ok(url)
}

/// What a file holds, to be sent after the prefix.
pub(crate) async fn secret(
    path: Option<&Path>,
    prefix: &str,
) -> Result<Option<HeaderValue>, CatalogError> {
    let Some(path) = path else { return Ok(None) };
    let file = path.to_owned();
    let text = spawn_blocking(move || content(&file)).await;
    let text = text.unwrap_or_else(|_| Err("was not read".to_owned()));
    sendable(path, &text, prefix).map(Some)
}

fn sendable(
    path: &Path,
    text: &Result<String, String>,
    prefix: &str,
) -> Result<HeaderValue, CatalogError> {
    let refused =
        |why: &str| CatalogError::unauthorized(format!("credential file {} {why}", path.display()));
    let text = text.as_ref().map_err(|why| refused(why))?;
    if text.is_empty() {
        return Err(refused("is empty"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused(
            "holds a character that a header cannot carry, such as a line break",
        ));
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{text}"))
        .map_err(|_| refused("cannot be sent as a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(key: &Path) -> AccessReader {
        AccessReader::new(AccessConfig {
            api_url: ApiUrl::Given("http://catalog.test/base/".to_owned()),
            report_url_file: None,
            api_key_file: Some(key.to_owned()),
            token_file: None,
        })
    }

    async fn key_sent(reader: &AccessReader) -> String {
        let access = reader.current().await.unwrap();
        access
            .api_key
            .as_ref()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[tokio::test]
    async fn a_replaced_file_is_what_the_next_request_goes_by() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let reader = reader(file.path());
        assert_eq!(key_sent(&reader).await, "first");
        // Same length, so that only the content tells them apart.
        std::fs::write(file.path(), "other\n").unwrap();
        assert_eq!(key_sent(&reader).await, "other");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unusable_or_gone_for_a_moment_is_used_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        std::fs::write(&path, "first").unwrap();
        let reader = reader(&path);
        assert_eq!(key_sent(&reader).await, "first");
        for (round, key) in ["second", "third"].into_iter().enumerate() {
            let before = key_sent(&reader).await;
            match round {
                0 => std::fs::write(&path, "half\nof").unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            for _ in 0..9 {
                assert_eq!(key_sent(&reader).await, before);
                tokio::time::advance(BELIEVED_AFTER / 10).await;
            }
            std::fs::write(&path, key).unwrap();
            assert_eq!(key_sent(&reader).await, key);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_unusable_or_gone_is_not_used_any_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        std::fs::write(&path, "first").unwrap();
        let reader = reader(&path);
        assert_eq!(key_sent(&reader).await, "first");
        std::fs::write(&path, "").unwrap();
        assert_eq!(key_sent(&reader).await, "first");
        tokio::time::advance(BELIEVED_AFTER).await;
        for _ in 0..2 {
            let refused = reader.current().await;
            assert!(matches!(refused, Err(CatalogError::Unauthorized { .. })));
        }
        std::fs::write(&path, "second").unwrap();
        assert_eq!(key_sent(&reader).await, "second");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(key_sent(&reader).await, "second");
        tokio::time::advance(BELIEVED_AFTER).await;
        for _ in 0..2 {
            assert!(reader.current().await.unwrap().api_key.is_none());
        }
    }

    #[tokio::test]
    async fn a_key_that_goes_with_its_catalog_is_gone_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("api-url"), "http://old.test").unwrap();
        std::fs::write(file("api-key"), "old").unwrap();
        let mut reader = reader(&file("api-key"));
        reader.config.api_url = ApiUrl::File(file("api-url"));
        assert_eq!(key_sent(&reader).await, "old");
        std::fs::remove_file(file("api-key")).unwrap();
        std::fs::write(file("api-url"), "http://new.test").unwrap();
        let access = reader.current().await.unwrap();
        assert!(access.api_key.is_none() && access.base.host_str() == Some("new.test"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_reports_has_an_own_url_also_where_the_flag_names_the_database() {
        const READER: &str = "postgres://reader@db.test/catalog";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report-url");
        let mut reader = reader(Path::new("/nonexistent/api-key"));
        reader.config.api_url = ApiUrl::Given(READER.to_owned());
        reader.config.report_url_file = Some(path.clone());
        let reporter = async || {
            let access = reader.database().await.unwrap();
            assert_eq!(access.reader, READER);
            access.reporter.clone()
        };
        assert_eq!(reporter().await, READER);
        for role in ["first", "other"] {
            let url = format!("postgres://{role}@db.test/catalog");
            std::fs::write(&path, format!("{url}\n")).unwrap();
            assert_eq!(reporter().await, url);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reporter().await, "postgres://other@db.test/catalog");
        tokio::time::advance(BELIEVED_AFTER).await;
        assert_eq!(reporter().await, READER);
    }

    #[tokio::test]
    async fn a_token_is_replaced_as_the_kubelet_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |version: &str, token: &str| {
            let data = folder.path().join(version);
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("token"), token).unwrap();
            let link = folder.path().join("..new");
            std::os::unix::fs::symlink(version, &link).unwrap();
            std::fs::rename(link, folder.path().join("..data")).unwrap();
        };
        mount("..1", "first");
        std::os::unix::fs::symlink("..data/token", folder.path().join("token")).unwrap();
        let mut reader = reader(Path::new("/nonexistent/api-key"));
        reader.config.token_file = Some(folder.path().join("token"));
        let sent = async || {
            let access = reader.current().await.unwrap();
            access.bearer.as_ref().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(sent().await, "Bearer first");
        mount("..2", "other");
        assert_eq!(sent().await, "Bearer other");
    }

    #[tokio::test]
    async fn a_key_whose_file_comes_later_is_sent_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        let reader = reader(&path);
        assert!(reader.current().await.unwrap().api_key.is_none());
        std::fs::write(&path, "late").unwrap();
        assert_eq!(key_sent(&reader).await, "late");
    }

    #[tokio::test]
    async fn a_token_whose_file_is_missing_is_an_error() {
        let mut reader = reader(Path::new("/nonexistent/api-key"));
        reader.config.token_file = Some("/nonexistent/token".into());
        let Err(CatalogError::Unauthorized { message }) = reader.current().await else {
            panic!("it is none")
        };
        assert!(message.contains("/nonexistent/token"), "{message}");
    }

    #[tokio::test]
    async fn a_credential_that_cannot_be_sent_is_refused_by_the_name_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-key");
        let refusal = async |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            match reader(&path).current().await {
                Err(CatalogError::Unauthorized { message }) => message,
                other => panic!("{other:?}"),
            }
        };
        let too_large = vec![b'a'; 64 * 1024 + 1];
        for (content, why) in [
            (&b" \n"[..], "is empty"),
            (b"hunter2\nhunter3", "cannot carry"),
            ("hunter2\u{e9}".as_bytes(), "cannot carry"),
            (b"hunter2\xff", "cannot be read: invalid data"),
            (&too_large, "is larger than"),
        ] {
            let message = refusal(content).await;
            assert!(message.contains(why), "{message}");
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(!message.contains("hunter"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_secret_is_not_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2").unwrap();
        let printed = format!("{:?}", reader(file.path()).current().await);
        assert!(
            printed.contains("[redacted]") && !printed.contains("hunter2"),
            "{printed}"
        );
    }

    // The flag is what keeps the warning to one; the line itself would have to
    // be caught from a logger that all tests of this process share.
    #[tokio::test]
    async fn a_credential_over_plain_http_is_warned_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k").unwrap();
        let warned = async |url: &str, key: bool| {
            let mut reader = reader(file.path());
            reader.config.api_url = ApiUrl::Given(url.to_owned());
            reader.config.api_key_file.take_if(|_| !key);
            reader.current().await.unwrap();
            reader.warned_of_clear_text.load(Ordering::Relaxed)
        };
        assert!(warned("http://catalog.test", true).await);
        assert!(!warned("http://catalog.test", false).await);
        assert!(!warned("https://catalog.test", true).await);
    }

    #[test]
    fn a_url_that_is_no_plain_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "hunter2",
            "ftp://hunter2",
            "http://",
            "http://me:hunter2@host",
            "https://hunter2@host",
            "http://host/?key=hunter2",
            "http://host/#hunter2",
            "http://hunter2/api/v1",
            "http://host/hunter2/api/v1/",
        ] {
            let why = base_url(text).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[tokio::test]
    async fn the_path_of_the_url_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k").unwrap();
        let access = reader(file.path()).current().await.unwrap();
        let url = access.url(&["services", "a:b~c"]).unwrap();
        assert_eq!(
            url.as_str(),
            "http://catalog.test/base/api/v1/services/a:b~c"
        );
    }
}
