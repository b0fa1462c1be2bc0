//! One request to one Alertmanager, and what its answer means. Connects to it
//! and to nobody else.

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::AUTHORIZATION;
use reqwest::{Response, StatusCode, Url};
use tokio::time::timeout;

use super::ledger::Posting;
use super::wire;
use crate::catalog::answer::no_answer;
use crate::catalog::client::Clients;
use crate::catalog::credentials::secret;
use crate::catalog::error::{CatalogError, one_line};

/// Of the answer to what was refused so much is read, for the log, and for so
/// long.
const LARGEST_REASON: usize = 4 * 1024;
const LONGEST_REASON: Duration = Duration::from_secs(1);

/// Why alerts were not taken. Messages carry no credential, and of an answer
/// one line at most.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Trouble {
    /// Some of them will never be; the others were.
    #[error("{0}")]
    Refused(String),
    /// None was, this time.
    #[error("{0}")]
    Failed(String),
}

/// Takes alerts to one Alertmanager.
pub(super) trait Post: Send + Sync {
    /// Once; nothing is tried again.
    fn post<'a>(&'a self, alerts: &'a [Posting]) -> BoxFuture<'a, Result<(), Trouble>>;
}

/// The API of an Alertmanager.
pub(super) struct Http {
    pub(super) url: Url,
    pub(super) clients: Clients,
    pub(super) token_file: Option<PathBuf>,
    pub(super) deadline: Duration,
}

/// Where the alerts of an Alertmanager go, by the URL that it has for people.
pub(super) fn endpoint(base: &Url) -> Option<Url> {
    let mut url = base.clone();
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .extend(["api", "v2", "alerts"]);
    Some(url)
}

impl Post for Http {
    fn post<'a>(&'a self, alerts: &'a [Posting]) -> BoxFuture<'a, Result<(), Trouble>> {
        let deadline = self.deadline;
        let exchange = timeout(deadline, self.exchange(alerts));
        async move {
            let late = || Trouble::Failed(format!("no answer within {deadline:?}"));
            exchange.await.unwrap_or_else(|_| Err(late()))
        }
        .boxed()
    }
}

impl Http {
    async fn exchange(&self, alerts: &[Posting]) -> Result<(), Trouble> {
        let token = secret(self.token_file.as_deref(), "Bearer ").await;
        let token = token.map_err(failed)?;
        let client = self.clients.current().await.map_err(failed)?;
        let mut request = client.post(self.url.clone()).json(&wire::body(alerts));
        if let Some(token) = &token {
            request = request.header(AUTHORIZATION, token);
        }
        let response = request.send().await.map_err(no_answer).map_err(failed)?;
        let status = response.status();
        // What comes with a success is not read, however much it is.
        if status.is_success() {
            return Ok(());
        }
        let token = token.as_ref().and_then(|token| token.to_str().ok());
        Err(refusal(status, reason(response, token).await))
    }
}

/// The words of another edge, whose client this is.
fn failed(error: CatalogError) -> Trouble {
    Trouble::Failed(match error {
        CatalogError::Unavailable { message }
        | CatalogError::Unauthorized { message }
        | CatalogError::RateLimited { message, .. } => message,
        other => other.to_string(),
    })
}

fn refusal(status: StatusCode, reason: Option<String>) -> Trouble {
    let mut message = format!("status {status}");
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        message.push_str(": ");
        message.push_str(&reason);
    }
    match status {
        // Alertmanager takes those that it can, and says so of the others.
        StatusCode::BAD_REQUEST => Trouble::Refused(message),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Trouble::Failed(format!(
            "{message}; check that the URL is the part before /api/v2/alerts"
        )),
        _ if status.is_redirection() => Trouble::Failed(format!(
            "{message}: redirects are not followed; give the final address"
        )),
        _ => Trouble::Failed(message),
    }
}

/// What a client's fault is about, in the server's words, on one line. Whoever
/// refuses a credential may repeat it, so that is not read.
async fn reason(mut response: Response, token: Option<&str>) -> Option<String> {
    let status = response.status();
    let of_the_credential = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    ];
    if !status.is_client_error() || of_the_credential.contains(&status) {
        return None;
    }
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() >= LARGEST_REASON {
                break;
            }
        }
    };
    // One that does not end says what it has said until then.
    let _ = timeout(LONGEST_REASON, read).await;
    bytes.truncate(LARGEST_REASON);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    for secret in token.iter().flat_map(|token| [*token, bare(token)]) {
        text = text.replace(secret, "[redacted]");
    }
    // Alertmanager puts its reason into a JSON string.
    let text = serde_json::from_str::<String>(&text).unwrap_or(text);
    Some(one_line(&text))
}

fn bare(token: &str) -> &str {
    token.strip_prefix("Bearer ").unwrap_or(token)
}

#[cfg(test)]
mod tests;
