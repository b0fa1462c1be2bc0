//! Which authorities may sign the catalog's certificate? Those of a PEM file,
//! as it is now. Reads the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Certificate;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::HttpCatalogError;
use super::error::CatalogError;

const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A bundle of all public authorities has a fifth of this.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The content of the file; none where no file is named.
pub(super) type Pem = Option<Arc<Vec<u8>>>;

/// Reads the file, at most once a second.
pub(super) struct CaFile {
    path: Option<PathBuf>,
    last: Mutex<Option<(Instant, Pem)>>,
}

impl CaFile {
    /// Reads the file for the first time: one that cannot be used then is a
    /// fault of the command line.
    pub(super) fn new(path: Option<PathBuf>) -> Result<(Self, Pem), HttpCatalogError> {
        let read = |path: &PathBuf| {
            let read = std::fs::read(path).map_err(|error| error.to_string());
            let checked = read.and_then(|pem| authorities(&pem).map(|_| Arc::new(pem)));
            checked.map_err(|message| HttpCatalogError::CaFile {
                path: path.clone(),
                message,
            })
        };
        let pem = path.as_ref().map(read).transpose()?;
        let last = Mutex::new(Some((Instant::now(), pem.clone())));
        Ok((Self { path, last }, pem))
    }

    /// The content as of a second ago at most. The very same `Arc` is given as
    /// long as the content is the same.
    pub(super) async fn current(&self) -> Result<Pem, CatalogError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let mut last = self.last.lock().await;
        if let Some((read_at, pem)) = last.as_ref()
            && read_at.elapsed() < READ_AGAIN_AFTER
        {
            return Ok(pem.clone());
        }
        let pem = content(path).await.map_err(|message| {
            CatalogError::unavailable(format!("CA file {}: {message}", path.display()))
        })?;
        let pem = match last.take() {
            Some((_, Some(same))) if *same == pem => same,
            _ => Arc::new(pem),
        };
        *last = Some((Instant::now(), Some(Arc::clone(&pem))));
        Ok(Some(pem))
    }
}

/// The certificates of a bundle; at least one.
pub(super) fn authorities(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let authorities = Certificate::from_pem_bundle(pem)
        .map_err(|error| format!("is not a PEM bundle: {error}"))?;
    if authorities.is_empty() {
        return Err("holds no certificate in PEM form".to_owned());
    }
    Ok(authorities)
}

async fn content(path: &Path) -> Result<Vec<u8>, String> {
    use tokio::io::AsyncReadExt as _;
    let cannot = |error: std::io::Error| format!("cannot be read: {}", error.kind());
    let file = tokio::fs::File::open(path).await.map_err(cannot)?;
    let mut pem = Vec::new();
    let mut file = file.take(LARGEST_FILE + 1);
    file.read_to_end(&mut pem).await.map_err(cannot)?;
    if pem.len() as u64 > LARGEST_FILE {
        return Err(format!("is larger than {LARGEST_FILE} bytes"));
    }
    authorities(&pem)?;
    Ok(pem)
}
