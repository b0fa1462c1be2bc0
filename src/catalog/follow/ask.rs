//! How is the catalog asked for what the stream made necessary?

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::catalog::known::state::{Read, WhyList};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, ServiceFilter, ServiceList, ServiceRecord};

/// A complete list, and why it was taken.
pub(super) type Listed = (WhyList, Result<ServiceList, CatalogError>);

/// What reads of services gave.
pub(super) type Reads = Vec<(CatalogServiceId, Read)>;

pub(super) fn list(catalog: Arc<dyn Catalog>, why: WhyList) -> BoxFuture<'static, Listed> {
    async move {
        let list = catalog.list_services(&ServiceFilter::default()).await;
        (why, list)
    }
    .boxed()
}

/// Reads one service by itself, and more by one list.
pub(super) fn read(
    catalog: Arc<dyn Catalog>,
    ids: Vec<CatalogServiceId>,
) -> BoxFuture<'static, (Vec<CatalogServiceId>, Result<Reads, CatalogError>)> {
    async move {
        let reads = match ids.as_slice() {
            [id] => one(id, catalog.get_service(id).await),
            _ => {
                let filter = ServiceFilter {
                    ids: ids.clone(),
                    ..ServiceFilter::default()
                };
                let list = catalog.list_services(&filter).await;
                list.map(|list| many(&ids, list.services))
            }
        };
        (ids, reads)
    }
    .boxed()
}

fn one(
    id: &CatalogServiceId,
    answer: Result<Arc<ServiceRecord>, CatalogError>,
) -> Result<Reads, CatalogError> {
    let read = match answer {
        Ok(record) => Read::Record(record),
        Err(CatalogError::NotFound) => Read::Denied,
        Err(CatalogError::BadRecord(bad)) => Read::Unreadable(bad),
        Err(error) => return Err(error),
    };
    Ok(vec![(id.clone(), read)])
}

/// What a list says about each of these services.
fn many(ids: &[CatalogServiceId], services: Vec<Result<ServiceRecord, BadRecord>>) -> Reads {
    let mut found: HashMap<_, _> = services
        .into_iter()
        .filter_map(|service| match service {
            Ok(record) => Some((record.id.clone(), Read::Record(Arc::new(record)))),
            Err(bad) => Some((bad.id.clone()?, Read::Unreadable(bad))),
        })
        .collect();
    ids.iter()
        .map(|id| {
            (
                id.clone(),
                found.remove(id.as_str()).unwrap_or(Read::Denied),
            )
        })
        .collect()
}
