//! A catalog in front of another, which reads single services in a way of its
//! own and passes everything else on.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Catalog;
use super::error::CatalogError;
use super::event::EventStream;
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

/// Reads single services in a way of its own; that is all that such a catalog
/// has to say.
pub trait Reads: Send + Sync {
    /// The catalog behind it.
    type Inner: Catalog;

    /// The catalog behind it.
    fn inner(&self) -> &Self::Inner;

    /// The service of that ID.
    fn read<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>>;
}

impl<R: Reads> Catalog for R {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.read(id)
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.inner().list_services(filter)
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.inner().report_health(writer, items)
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.inner().report_endpoints(writer, report)
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.inner().subscribe(after)
    }
}
