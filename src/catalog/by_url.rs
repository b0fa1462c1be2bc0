//! Which implementation serves? The one that the catalog's URL asks for at the
//! moment of the call, so that a changed file moves the operator from one to
//! the other without a restart. Reads the file; the rest is theirs.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Catalog;
use super::client::{HttpCatalogConfig, HttpCatalogError};
use super::credentials::{AccessReader, ApiUrl, Place, base_url};
use super::error::CatalogError;
use super::event::EventStream;
use super::http::HttpCatalog;
use super::postgres::PostgresCatalog;
use super::postgres::url::{check, names_database};
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

/// The catalog that the URL names: over its API, or in its database.
pub struct CatalogByUrl {
    access: Arc<AccessReader>,
    http: HttpCatalog,
    postgres: PostgresCatalog,
}

impl CatalogByUrl {
    /// Checks the URL where it is given; connects to nothing.
    pub fn new(config: HttpCatalogConfig) -> Result<Self, HttpCatalogError> {
        if let ApiUrl::Given(text) = &config.access.api_url {
            let checked = if names_database(text) {
                check(text)
            } else {
                base_url(text).map(|_| ())
            };
            checked.map_err(HttpCatalogError::Url)?;
        }
        let access = Arc::new(AccessReader::new(config.access.clone()));
        Ok(Self {
            postgres: PostgresCatalog::with(Arc::clone(&access), &config)?,
            http: HttpCatalog::with(Arc::clone(&access), config)?,
            access,
        })
    }

    async fn serving(&self) -> Result<&dyn Catalog, CatalogError> {
        Ok(match self.access.place().await? {
            Place::Http(_) => &self.http,
            Place::Database(_) => &self.postgres,
        })
    }
}

impl Catalog for CatalogByUrl {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        async move { self.serving().await?.get_service(id).await }.boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        async move { self.serving().await?.list_services(filter).await }.boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        async move { self.serving().await?.report_health(writer, items).await }.boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        async move { self.serving().await?.report_endpoints(writer, report).await }.boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        async move { self.serving().await?.subscribe(after).await }.boxed()
    }
}
