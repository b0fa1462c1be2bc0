//! What does an answer of the catalog mean? Reads the body from the
//! connection, within its bound.
//!
//! Messages come out the same for the same fault, so that a condition that
//! carries one is not written again at every attempt: no position in a body,
//! and of a server's own fault only the title, which names the kind of fault
//! and not the occurrence.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::credentials::Access;
use super::error::{CatalogError, one_line};

const LARGEST_PROBLEM: usize = 64 * 1024;
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Where a 429 does not say how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// An answer that is not a fault by itself.
pub(super) enum Answer {
    /// 200.
    Body {
        etag: Option<HeaderValue>,
        bytes: Vec<u8>,
    },
    /// 304.
    NotModified,
    /// 410: a cursor is no longer good.
    Gone,
}

/// Reads the answer to a request with this access, whose body may have `cap`
/// bytes.
pub(super) async fn read(
    response: Response,
    cap: usize,
    access: &Access,
) -> Result<Answer, CatalogError> {
    match response.status() {
        StatusCode::OK => {
            if let Some(encoding) = text_header(response.headers(), CONTENT_ENCODING)
                && !encoding.eq_ignore_ascii_case("identity")
            {
                let encoding = one_line(encoding);
                return Err(CatalogError::unavailable(format!(
                    "the answer is encoded ({encoding}), which was not asked for"
                )));
            }
            let etag = response
                .headers()
                .get(ETAG)
                .filter(|etag| etag.len() <= 256)
                .cloned();
            let bytes = body(response, cap).await?;
            Ok(Answer::Body { etag, bytes })
        }
        StatusCode::NOT_MODIFIED => Ok(Answer::NotModified),
        StatusCode::GONE => Ok(Answer::Gone),
        status => {
            let headers = response.headers().clone();
            let mut problem = problem(response, &headers).await;
            // Whoever refuses a credential may repeat it.
            for part in ["title", "detail"] {
                let part = problem.as_mut().and_then(|problem| problem.get_mut(part));
                if let Some(Value::String(text)) = part {
                    *text = access.redacted(text);
                }
            }
            Err(refusal(
                status,
                &headers,
                problem.as_ref(),
                Timestamp::now(),
            ))
        }
    }
}

/// A status that the call at hand has no use for.
pub(super) fn unexpected(status: StatusCode) -> CatalogError {
    CatalogError::unavailable(format!("unexpected status {status}"))
}

/// Why no answer came: from where, and the causes that reqwest knows of.
pub(crate) fn no_answer(error: reqwest::Error) -> CatalogError {
    let from = error.url().map_or_else(String::new, |url| {
        format!(" from {}", url.origin().ascii_serialization())
    });
    let error = error.without_url();
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Many an error repeats its cause in its own text.
        if !causes.iter().any(|told| told.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    if causes.is_empty() {
        causes.push(error.to_string());
    }
    CatalogError::unavailable(one_line(&format!("no answer{from}: {}", causes.join(": "))))
}

/// A body that is not what the contract says.
pub(super) fn not_the_contract(what: &str, error: &serde_json::Error) -> CatalogError {
    let why = match error.classify() {
        serde_json::error::Category::Eof => "ends early".to_owned(),
        serde_json::error::Category::Data => format!("does not fit: {}", reason(error)),
        _ => "is not JSON; check that api-url names a Catalog API".to_owned(),
    };
    CatalogError::unavailable(format!("the answer to {what} {why}"))
}

/// A serde message without the position in the body.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    one_line(
        text.rfind(" at line ")
            .map_or(text.as_str(), |at| &text[..at]),
    )
}

async fn body(mut response: Response, cap: usize) -> Result<Vec<u8>, CatalogError> {
    let too_large = || CatalogError::unavailable(format!("the answer is larger than {cap} bytes"));
    let announced = response.content_length().unwrap_or(0);
    if announced > cap as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if bytes.len() + chunk.len() > cap {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The problem document, where the answer really is one and speaks of the
/// status that it came with.
async fn problem(response: Response, headers: &HeaderMap) -> Option<Value> {
    let response_status = response.status().as_u16();
    let media_type = text_header(headers, CONTENT_TYPE)?
        .split(';')
        .next()?
        .trim();
    if !media_type.eq_ignore_ascii_case("application/problem+json") {
        return None;
    }
    let bytes = body(response, LARGEST_PROBLEM).await.ok()?;
    let problem: Value = serde_json::from_slice(&bytes).ok()?;
    (problem.get("status")? == response_status).then_some(problem)
}

fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    problem: Option<&Value>,
    now: Timestamp,
) -> CatalogError {
    let message = said(status, problem);
    let retry_after = retry_after(headers, now);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CatalogError::Unauthorized { message },
        StatusCode::NOT_FOUND if problem.is_some() => CatalogError::NotFound,
        StatusCode::NOT_FOUND => CatalogError::unavailable(format!(
            "{message}, not from a Catalog API; check that api-url is the part before /api/v1"
        )),
        StatusCode::TOO_MANY_REQUESTS => CatalogError::RateLimited {
            retry_after: retry_after.unwrap_or(DEFAULT_WAIT),
            message,
        },
        StatusCode::SERVICE_UNAVAILABLE if let Some(retry_after) = retry_after => {
            CatalogError::RateLimited {
                retry_after,
                message,
            }
        }
        _ if status.is_redirection() => CatalogError::unavailable(format!(
            "{message}: redirects are not followed; set api-url to the final address"
        )),
        _ => CatalogError::Unavailable { message },
    }
}

fn said(status: StatusCode, problem: Option<&Value>) -> String {
    let part = |name| {
        problem
            .and_then(|p| p.get(name))
            .and_then(Value::as_str)
            .map(one_line)
    };
    let mut message = format!("status {status}");
    let detail = part("detail").filter(|_| status.is_client_error());
    for text in [part("title"), detail].into_iter().flatten() {
        message.push_str(": ");
        message.push_str(&text);
    }
    message
}

/// How long Retry-After asks to wait, within bounds. A date is held against
/// the answer's own Date, so that clocks need not agree.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = text_header(headers, RETRY_AFTER)?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        let then = http_date(text)?;
        let now = text_header(headers, DATE)
            .and_then(http_date)
            .unwrap_or(now);
        Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}

fn text_header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Tue, 07 Jan 2025 12:00:00 GMT";

    fn wait(headers: &[(HeaderName, &'static str)]) -> Option<u64> {
        let headers = headers
            .iter()
            .map(|(n, v)| (n.clone(), HeaderValue::from_static(v)))
            .collect();
        retry_after(&headers, http_date(NOW).unwrap()).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_a_number_or_a_date_and_bounded() {
        for (text, expected) in [
            ("17", Some(17)),
            ("0", Some(1)),
            ("301", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Tue, 07 Jan 2025 12:00:42 GMT", Some(42)),
            ("Tue, 07 Jan 2025 11:00:00 GMT", Some(1)),
            ("Tue, 07 Jan 2031 12:00:00 GMT", Some(300)),
            ("", None),
            ("-3", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(wait(&[(RETRY_AFTER, text)]), expected, "{text}");
        }
    }

    #[test]
    fn a_date_is_held_against_the_servers_own_clock() {
        let late = [
            (RETRY_AFTER, "Tue, 07 Jan 2020 12:00:30 GMT"),
            (DATE, "Tue, 07 Jan 2020 12:00:00 GMT"),
        ];
        assert_eq!(wait(&late), Some(30));
    }

    #[test]
    fn the_detail_of_a_servers_own_fault_is_left_out_since_it_differs_each_time() {
        let problem = serde_json::json!({"title": "Bad\nday", "detail": "request 4711"});
        let message = said(StatusCode::INTERNAL_SERVER_ERROR, Some(&problem));
        assert_eq!(message, "status 500 Internal Server Error: Bad\\nday");
        let message = said(StatusCode::BAD_REQUEST, Some(&problem));
        assert_eq!(message, "status 400 Bad Request: Bad\\nday: request 4711");
    }
}
