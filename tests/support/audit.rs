//! Who asked the API server for what? Reads its audit log.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::wait;

/// One finished request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    pub stage: String,
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub user_agent: String,
    pub user: User,
    pub object_ref: Option<ObjectRef>,
    pub response_status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct User {
    pub username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    pub api_group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub code: u16,
}

/// What RBAC was asked for by a request, its object's name aside.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Right {
    pub api_group: String,
    /// With its subresource, as a role names it: `pods/status`.
    pub resource: String,
    pub verb: String,
}

impl Entry {
    /// Whether it asked for a change, successful or not.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    pub fn right(&self) -> Option<Right> {
        let object = self.object_ref.as_ref()?;
        let resource = if object.subresource.is_empty() {
            object.resource.clone()
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        Some(Right {
            api_group: object.api_group.clone(),
            resource,
            verb: self.verb.clone(),
        })
    }
}

/// How much of the log is read at once, from its end, in bytes.
const CHUNK: u64 = 4096;

/// A place in the log: where a line begins.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Mark {
    /// The beginning of the run.
    pub const START: Self = Self(0);
}

/// The log of one API server.
pub struct AuditLog {
    path: PathBuf,
    sentinels: AtomicU32,
}

impl AuditLog {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            sentinels: AtomicU32::new(0),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A mark after everything that the server has answered so far.
    pub async fn mark(&self, client: &kube::Client) -> Result<Mark> {
        // The server answers first and writes its log then: a request of our
        // own that has reached the log says that those before it have too.
        let number = self.sentinels.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/version?sentinel={number}");
        let before = self.end()?;
        client
            .request_text(http::Request::get(&uri).body(Vec::new())?)
            .await?;
        wait::until(
            "the audit log's sentinel",
            Duration::from_secs(10),
            async || {
                let seen = self
                    .read(before)?
                    .iter()
                    .any(|entry| entry.request_uri == uri);
                if seen {
                    Ok(())
                } else {
                    bail!("{uri} is not in the log yet")
                }
            },
        )
        .await?;
        self.end()
    }

    /// All finished requests since a mark.
    pub async fn since(&self, mark: Mark, client: &kube::Client) -> Result<Vec<Entry>> {
        self.mark(client).await?;
        self.read(mark)
    }

    /// The changes that this user asked for since a mark.
    pub async fn writes_by(
        &self,
        user: &str,
        mark: Mark,
        client: &kube::Client,
    ) -> Result<Vec<Entry>> {
        let mut entries = self.since(mark, client).await?;
        entries.retain(|entry| entry.is_write() && entry.user.username == user);
        Ok(entries)
    }

    /// The rights that this user made use of since a mark.
    pub async fn rights_used_by(
        &self,
        user: &str,
        mark: Mark,
        client: &kube::Client,
    ) -> Result<BTreeSet<Right>> {
        let entries = self.since(mark, client).await?;
        Ok(entries
            .iter()
            .filter(|entry| entry.user.username == user)
            .filter_map(Entry::right)
            .collect())
    }

    /// A mark at the end of what is written: of the last whole line, for the
    /// server may be writing the next one.
    pub fn end(&self) -> Result<Mark> {
        let mut file = std::fs::File::open(&self.path)?;
        let mut end = file.metadata()?.len();
        let mut chunk = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(CHUNK);
            file.seek(SeekFrom::Start(start))?;
            chunk.clear();
            file.by_ref().take(end - start).read_to_end(&mut chunk)?;
            if let Some(newline) = chunk.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Mark(start + u64::try_from(newline)? + 1));
            }
            end = start;
        }
        Ok(Mark::START)
    }

    /// What the log says of finished requests since a mark, so far.
    pub fn read(&self, from: Mark) -> Result<Vec<Entry>> {
        let mut file = std::fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(from.0))?;
        let mut reader = BufReader::new(file);
        let mut entries = Vec::new();
        let mut line = String::new();
        // A last line without its end is still being written.
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let entry: Entry = serde_json::from_str(&line)
                .with_context(|| format!("an audit record that is none: {line}"))?;
            // A watch is logged when it starts as well: count it then, once.
            let long_running = entry.verb == "watch";
            let counts = if long_running {
                "ResponseStarted"
            } else {
                "ResponseComplete"
            };
            if entry.stage == counts {
                entries.push(entry);
            }
            line.clear();
        }
        Ok(entries)
    }
}
