//! The calls of the Catalog API over HTTP. IO to the catalog only.
//!
//! Every request has a deadline that spans connecting, the answer's head and
//! its body. Nothing that failed is tried again here; a page or a stream that is
//! long in coming is asked for beside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, AUTHORIZATION, IF_NONE_MATCH};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use tokio::time::timeout;

use super::Catalog;
use super::answer::{self, Answer};
use super::cache::RecordCache;
use super::client::{Clients, HttpCatalogConfig, HttpCatalogError};
use super::credentials::{Access, AccessReader, ApiUrl, base_url};
use super::error::CatalogError;
use super::event::EventStream;
use super::pages::{self, PageAnswer, Query};
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use super::{beside, subscription, wire};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

const LARGEST_RECORD: usize = 1024 * 1024;
const LARGEST_PAGE: usize = 16 * 1024 * 1024;
const MOST_ITEMS: usize = 1_000;
const MOST_ENDPOINTS: usize = 1_000;

/// A catalog that is reached by the Catalog API.
pub struct HttpCatalog {
    clients: Clients,
    access: Arc<AccessReader>,
    cache: Mutex<RecordCache>,
    request_deadline: Duration,
    list_deadline: Duration,
    head_deadline: Duration,
}

impl HttpCatalog {
    /// Makes the client; reads the CA file, connects to nothing. Installs
    /// aws-lc-rs as the process's TLS provider where none is installed.
    pub fn new(config: HttpCatalogConfig) -> Result<Self, HttpCatalogError> {
        if let ApiUrl::Given(text) = &config.access.api_url {
            base_url(text).map_err(HttpCatalogError::Url)?;
        }
        let access = Arc::new(AccessReader::new(config.access.clone()));
        Self::with(access, config)
    }

    /// The same with files that are read by somebody else, too.
    pub(super) fn with(
        access: Arc<AccessReader>,
        config: HttpCatalogConfig,
    ) -> Result<Self, HttpCatalogError> {
        // Fails where a provider is there already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(Self {
            access,
            cache: Mutex::new(RecordCache::new()),
            request_deadline: config.request_deadline,
            list_deadline: config.list_deadline,
            head_deadline: config.head_deadline,
            clients: Clients::new(config)?,
        })
    }

    /// One request and its answer, within the deadline. `build` adds what the
    /// call has beyond method and path.
    async fn exchange(
        &self,
        method: Method,
        segments: &[&str],
        cap: usize,
        build: impl FnOnce(&Access, RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, CatalogError> {
        let deadline = self.request_deadline;
        let exchange = async {
            let access = self.access.current().await?;
            let client = self.clients.current().await?;
            let request = request(&client, &access, method, segments, "application/json")?;
            let response = build(&access, request)
                .send()
                .await
                .map_err(answer::no_answer)?;
            answer::read(response, cap, &access).await
        };
        timeout(deadline, exchange).await.unwrap_or_else(|_| {
            Err(CatalogError::unavailable(format!(
                "no complete answer within {deadline:?}"
            )))
        })
    }

    async fn follow(&self, after: Option<&CatalogPosition>) -> Result<EventStream, CatalogError> {
        let deadline = self.head_deadline;
        let open = || async {
            let access = self.access.current().await?;
            let client = self.clients.current().await?;
            let accept = "text/event-stream";
            let mut request = request(&client, &access, Method::GET, &["events"], accept)?;
            if let Some(position) = after {
                request = request.header("last-event-id", position.to_string());
            }
            let response = request.send().await.map_err(answer::no_answer)?;
            subscription::begin(response, &access).await
        };
        let opened = timeout(deadline, beside::answered(open)).await;
        opened.unwrap_or_else(|_| {
            Err(CatalogError::unavailable(format!(
                "no event stream began within {deadline:?}"
            )))
        })
    }

    async fn get(&self, id: &CatalogServiceId) -> Result<Arc<ServiceRecord>, CatalogError> {
        let (mut asked, mut cached) = (None, None);
        let answer = self
            .exchange(
                Method::GET,
                &["services", id.as_str()],
                LARGEST_RECORD,
                |access, request| {
                    asked = Some(access.base.clone());
                    cached = self.cache().of(&access.base).get(id.as_str());
                    match &cached {
                        Some(cached) => request.header(IF_NONE_MATCH, &cached.etag),
                        None => request,
                    }
                },
            )
            .await?;
        match (answer, cached, asked) {
            (
                Answer::Body {
                    etag: Some(etag),
                    bytes,
                },
                _,
                Some(base),
            ) => {
                let record = wire::record(id, &bytes)?;
                Ok(self
                    .cache()
                    .of(&base)
                    .insert(id.as_str(), etag, record, bytes.len()))
            }
            (Answer::Body { bytes, .. }, ..) => wire::record(id, &bytes).map(Arc::new),
            (Answer::NotModified, Some(cached), _) => Ok(cached.record),
            (Answer::NotModified, None, _) => Err(answer::unexpected(StatusCode::NOT_MODIFIED)),
            (Answer::Gone, ..) => Err(answer::unexpected(StatusCode::GONE)),
        }
    }

    fn cache(&self) -> MutexGuard<'_, RecordCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn page(&self, query: Query) -> Result<PageAnswer, CatalogError> {
        let on_a_cursor = query.iter().any(|(name, _)| *name == "cursor");
        let ask = || {
            self.exchange(Method::GET, &["services"], LARGEST_PAGE, |_, request| {
                request.query(&query)
            })
        };
        match beside::answered(ask).await {
            Ok(Answer::Body { bytes, .. }) => wire::page(&bytes).map(PageAnswer::Page),
            Ok(Answer::Gone) if on_a_cursor => Ok(PageAnswer::CursorGone),
            other => Err(unusable(other)),
        }
    }

    async fn list(&self, filter: &ServiceFilter) -> Result<ServiceList, CatalogError> {
        let deadline = self.list_deadline;
        let ask = |query| self.page(query).boxed();
        timeout(deadline, pages::list(filter, &ask))
            .await
            .unwrap_or_else(|_| {
                Err(CatalogError::unavailable(format!(
                    "no complete list within {deadline:?}"
                )))
            })
    }

    async fn send_health(
        &self,
        writer: &WriterPosition,
        items: &[HealthReport],
    ) -> Result<Vec<ItemOutcome>, CatalogError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        if items.len() > MOST_ITEMS {
            return Err(CatalogError::unavailable(format!(
                "not sent: a health report of {} items; the most is {MOST_ITEMS}",
                items.len()
            )));
        }
        let body = wire::HealthBatch::new(writer, items);
        let answer = self
            .exchange(
                Method::POST,
                &["health:batch"],
                LARGEST_RECORD,
                |_, request| request.json(&body),
            )
            .await;
        match answer {
            Ok(Answer::Body { bytes, .. }) => wire::outcomes(&bytes, items.len()),
            other => Err(unusable(other)),
        }
    }

    async fn send_endpoints(
        &self,
        writer: &WriterPosition,
        report: &EndpointReport,
    ) -> Result<ItemOutcome, CatalogError> {
        let id = match CatalogServiceId::parse(&report.service_id) {
            Ok(id) => id,
            Err(error) => return Ok(ItemOutcome::Invalid(error.to_string())),
        };
        if report.endpoints.len() > MOST_ENDPOINTS {
            return Ok(ItemOutcome::Invalid(format!(
                "{} endpoints; the most is {MOST_ENDPOINTS}",
                report.endpoints.len()
            )));
        }
        let body = wire::EndpointsBody::new(writer, report);
        let path = ["services", id.as_str(), "endpoints"];
        let answer = self
            .exchange(Method::PUT, &path, LARGEST_RECORD, |_, request| {
                request.json(&body)
            })
            .await;
        match answer {
            Ok(Answer::Body { bytes, .. }) => wire::outcome(&bytes),
            other => Err(unusable(other)),
        }
    }
}

impl Catalog for HttpCatalog {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.get(id).boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.list(filter).boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.send_health(writer, items).boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.send_endpoints(writer, report).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.follow(after).boxed()
    }
}

/// A request with its credentials, as they are now.
fn request(
    client: &Client,
    access: &Access,
    method: Method,
    segments: &[&str],
    accept: &str,
) -> Result<RequestBuilder, CatalogError> {
    let mut request = client
        .request(method, access.url(segments)?)
        .header(ACCEPT, format!("{accept}, application/problem+json"));
    if let Some(key) = &access.api_key {
        request = request.header("x-api-key", key);
    }
    if let Some(bearer) = &access.bearer {
        request = request.header(AUTHORIZATION, bearer);
    }
    Ok(request)
}

/// The error of an answer that the call has no use for. Only a request for
/// one service can be told that it is not there.
fn unusable(answer: Result<Answer, CatalogError>) -> CatalogError {
    match answer {
        Ok(Answer::Body { .. }) => answer::unexpected(StatusCode::OK),
        Ok(Answer::NotModified) => answer::unexpected(StatusCode::NOT_MODIFIED),
        Ok(Answer::Gone) => answer::unexpected(StatusCode::GONE),
        Err(CatalogError::NotFound) => answer::unexpected(StatusCode::NOT_FOUND),
        Err(error) => error,
    }
}
