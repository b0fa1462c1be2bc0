//! A catalog that is read and reported to in its PostgreSQL tables, without an
//! API. IO to the database only.
//!
//! docs/catalog-schema.md has the tables and what this rests on. Every call has
//! a deadline, and every statement one of its own at the server, which ends
//! there what is given up here. Nothing is tried again.

mod columns;
mod error;
mod events;
mod reports;
mod services;
mod session;
pub(super) mod url;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::Catalog;
use super::authorities::{CaFile, Pem};
use super::client::{HttpCatalogConfig, HttpCatalogError};
use super::credentials::{AccessReader, ApiUrl, DatabaseAccess};
use super::error::CatalogError;
use super::event::EventStream;
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};
use session::{Limits, Role};

/// A catalog that is reached by its database.
pub struct PostgresCatalog {
    access: Arc<AccessReader>,
    ca: CaFile,
    limits: Limits,
    roles: Mutex<Option<Arc<Roles>>>,
}

/// The connections of both roles, and what they were made of.
struct Roles {
    access: Arc<DatabaseAccess>,
    ca: Pem,
    reader: Role,
    reporter: Role,
}

impl PostgresCatalog {
    /// Checks the URL where it is given; connects to nothing.
    pub fn new(config: HttpCatalogConfig) -> Result<Self, HttpCatalogError> {
        if let ApiUrl::Given(text) = &config.access.api_url {
            url::check(text).map_err(HttpCatalogError::Url)?;
        }
        let access = Arc::new(AccessReader::new(config.access.clone()));
        Self::with(access, &config)
    }

    /// The same with files that are read by somebody else, too.
    pub(super) fn with(
        access: Arc<AccessReader>,
        config: &HttpCatalogConfig,
    ) -> Result<Self, HttpCatalogError> {
        Ok(Self {
            access,
            ca: CaFile::new(config.ca_file.clone())?.0,
            limits: Limits {
                connect: config.connect_timeout,
                call: config.request_deadline,
                list: config.list_deadline,
                head: config.head_deadline,
            },
            roles: Mutex::new(None),
        })
    }

    /// The connections to where the files say that the catalog is now. Where
    /// they say something else than before, the old ones end with the calls
    /// that use them.
    async fn roles(&self) -> Result<Arc<Roles>, CatalogError> {
        let access = self.access.database().await?;
        let ca = self.ca.current().await?;
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roles) = roles.as_ref()
            && roles.access == access
            && roles.ca == ca
        {
            return Ok(Arc::clone(roles));
        }
        let role = |name: &str, text: &str| {
            let target = url::target(text, ca.as_ref().map(|pem| pem.as_slice()))
                .map_err(|why| CatalogError::unavailable(format!("{name} {why}")))?;
            if let Some(danger) = target.danger
                && self.access.warns_of_clear_text()
            {
                tracing::warn!("{danger}");
            }
            Ok(target)
        };
        let reader = role("api-url", &access.reader)?;
        let reporter = role("report-url", &access.reporter)?;
        let made = Arc::new(Roles {
            reader: Role::reader(reader, self.limits),
            reporter: Role::reporter(reporter, self.limits),
            access,
            ca,
        });
        *roles = Some(Arc::clone(&made));
        Ok(made)
    }

    async fn get(&self, id: &CatalogServiceId) -> Result<Arc<ServiceRecord>, CatalogError> {
        services::get(&self.roles().await?.reader, id).await
    }

    async fn list(&self, filter: &ServiceFilter) -> Result<ServiceList, CatalogError> {
        services::list(&self.roles().await?.reader, filter, self.limits.list).await
    }

    async fn send_health(
        &self,
        writer: &WriterPosition,
        items: &[HealthReport],
    ) -> Result<Vec<ItemOutcome>, CatalogError> {
        reports::health(&self.roles().await?.reporter, writer, items).await
    }

    async fn send_endpoints(
        &self,
        writer: &WriterPosition,
        report: &EndpointReport,
    ) -> Result<ItemOutcome, CatalogError> {
        reports::endpoints(&self.roles().await?.reporter, writer, report).await
    }

    async fn follow(&self, after: Option<&CatalogPosition>) -> Result<EventStream, CatalogError> {
        events::follow(&self.roles().await?.reader, after, self.limits).await
    }
}

impl Catalog for PostgresCatalog {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        within(self.limits.call, self.get(id)).boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        within(self.limits.list, self.list(filter)).boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        within(self.limits.call, self.send_health(writer, items)).boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        within(self.limits.call, self.send_endpoints(writer, report)).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        within(self.limits.head, self.follow(after)).boxed()
    }
}

/// Gives a call up that takes too long.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(CatalogError::unavailable(format!(
            "no complete answer within {deadline:?}"
        )))
    })
}
