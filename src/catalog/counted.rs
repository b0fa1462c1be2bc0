//! How often was the catalog asked what, and what came of it? Counts; no IO
//! of its own.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Catalog;
use super::error::CatalogError;
use super::event::EventStream;
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};
use crate::metrics::catalog::CatalogMetrics;

/// A catalog whose calls are counted.
pub struct Counted<C> {
    inner: C,
    metrics: CatalogMetrics,
}

impl<C: Catalog> Counted<C> {
    /// Counts in these metrics.
    pub fn new(inner: C, metrics: CatalogMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn count<T>(
        &self,
        kind: &'static str,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
    ) -> Result<T, CatalogError> {
        let answer = call.await;
        let outcome = match &answer {
            Ok(_) => "success",
            Err(CatalogError::NotFound) => "not_found",
            Err(CatalogError::BadRecord(_)) => "bad_record",
            Err(CatalogError::RateLimited { .. }) => "rate_limited",
            Err(CatalogError::Unauthorized { .. }) => "unauthorized",
            Err(CatalogError::Unavailable { .. }) => "unavailable",
        };
        self.metrics.asked(kind, outcome);
        answer
    }
}

impl<C: Catalog> Catalog for Counted<C> {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.count("get", self.inner.get_service(id)).boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.count("list", self.inner.list_services(filter)).boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        let call = self.inner.report_health(writer, items);
        self.count("health", call).boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        let call = self.inner.report_endpoints(writer, report);
        self.count("endpoints", call).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.count("events", self.inner.subscribe(after)).boxed()
    }
}
