//! The catalog's edge: a trait in the domain's words, and what implements it.
//!
//! Nothing about HTTP or SQL leaks out of here. No implementation retries:
//! an error says what class it is of, and the controller's queue decides.

#![warn(missing_docs)]

pub(crate) mod answer;
mod authorities;
mod beside;
pub mod by_url;
mod cache;
pub mod client;
pub mod counted;
pub mod credentials;
pub mod error;
pub mod event;
pub mod fake;
mod files;
pub mod follow;
pub mod gated;
pub mod gathered;
pub mod hedged;
pub mod http;
pub mod known;
pub mod limited;
pub mod paced;
mod pages;
pub mod patient;
pub mod postgres;
pub mod reads;
pub mod remembered;
pub mod report;
mod silence;
mod sse;
mod subscription;
mod wire;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};
use error::CatalogError;
use event::EventStream;
use report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};

/// A company's service catalog.
///
/// Every call ends within the implementation's own deadline. Dropping a
/// future cancels the request; a report that was cancelled may or may not have
/// arrived, which is why reports are idempotent.
pub trait Catalog: Send + Sync {
    /// The service of that ID. `CatalogError::NotFound` is an answer of the
    /// catalog, never the guess of a failed read.
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>>;

    /// All services that the filter leaves, complete and of one revision, or
    /// an error; never a part of the list.
    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>>;

    /// Reports the health of services, at most 1,000 at once; one outcome per
    /// item, in order.
    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>>;

    /// Replaces the endpoints that this cluster has for the service.
    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>>;

    /// Follows the catalog from after this position, or from the present. Ends
    /// within the implementation's deadline when no stream begins; a stream
    /// that is silent for longer than the contract allows fails.
    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>>;
}

impl<C: Catalog + ?Sized> Catalog for Arc<C> {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        (**self).get_service(id)
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        (**self).list_services(filter)
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        (**self).report_health(writer, items)
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        (**self).report_endpoints(writer, report)
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        (**self).subscribe(after)
    }
}
