//! Which implementation serves? The one that the catalog's URL asks for at the
//! moment of the call, so that a changed file moves the operator from one to
//! the other without a restart. Reads the file; the rest is theirs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::Catalog;
use super::client::{HttpCatalogConfig, HttpCatalogError};
use super::credentials::{AccessReader, ApiUrl, Place, base_url};
use super::error::CatalogError;
use super::event::{CatalogEvent, EventStream};
use super::http::HttpCatalog;
use super::postgres::PostgresCatalog;
use super::postgres::url::{check, names_database};
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

/// How often an open stream looks whether the URL is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
        Ok(self.at(&self.access.place().await?))
    }

    fn at(&self, place: &Place) -> &dyn Catalog {
        match place {
            Place::Http(_) => &self.http,
            Place::Database(_) => &self.postgres,
        }
    }

    async fn follow(&self, after: Option<&CatalogPosition>) -> Result<EventStream, CatalogError> {
        let place = self.access.place().await?;
        let stream = self.at(&place).subscribe(after).await?;
        Ok(tied(stream, Arc::clone(&self.access), place))
    }
}

/// The stream, which fails when the catalog is to be found elsewhere: the old
/// one may go on for ever, with what is no longer of interest.
fn tied(stream: EventStream, access: Arc<AccessReader>, place: Place) -> EventStream {
    struct Tied {
        stream: EventStream,
        access: Arc<AccessReader>,
        place: Place,
        look_at: Instant,
    }
    async fn next(
        tied: Option<Tied>,
    ) -> Option<(Result<CatalogEvent, CatalogError>, Option<Tied>)> {
        let mut tied = tied?;
        loop {
            if tied.look_at <= Instant::now() {
                tied.look_at = Instant::now() + LOOK_EVERY;
                // A file that cannot be read says nothing about the place.
                let moved = |now: Place| !now.is_at(&tied.place);
                if tied.access.place().await.is_ok_and(moved) {
                    let error = CatalogError::unavailable("the URL of the catalog has changed");
                    return Some((Err(error), None));
                }
            }
            if let Ok(event) = timeout_at(tied.look_at, tied.stream.next()).await {
                return event.map(|event| (event, Some(tied)));
            }
        }
    }
    let tied = Tied {
        stream,
        access,
        place,
        look_at: Instant::now() + LOOK_EVERY,
    };
    futures::stream::unfold(Some(tied), next).boxed()
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
        self.follow(after).boxed()
    }
}
