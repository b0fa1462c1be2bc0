//! A catalog whose calls all pass the same gate.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Catalog;
use super::error::CatalogError;
use super::event::EventStream;
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

/// Lets a call through now, later, or not at all; the same for every kind of
/// call.
pub trait Gate: Send + Sync {
    /// Makes the call, or says in its stead why not.
    fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
    ) -> impl Future<Output = Result<T, CatalogError>> + Send;
}

impl<G: Gate> Gate for Arc<G> {
    async fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
    ) -> Result<T, CatalogError> {
        (**self).pass(call).await
    }
}

/// A catalog behind a gate.
pub struct Gated<G, C> {
    gate: G,
    pub(crate) inner: C,
}

impl<G: Gate, C: Catalog> Gated<G, C> {
    /// Puts the gate before the catalog.
    pub fn new(gate: G, inner: C) -> Self {
        Self { gate, inner }
    }
}

impl<G: Gate, C: Catalog> Catalog for Gated<G, C> {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.gate.pass(self.inner.get_service(id)).boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.gate.pass(self.inner.list_services(filter)).boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        let call = self.inner.report_health(writer, items);
        self.gate.pass(call).boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        let call = self.inner.report_endpoints(writer, report);
        self.gate.pass(call).boxed()
    }

    // Only the beginning of a stream is a call.
    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.gate.pass(self.inner.subscribe(after)).boxed()
    }
}
