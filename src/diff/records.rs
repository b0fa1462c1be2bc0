//! What does the catalog say of these services? Asks it by one list; nothing
//! is followed and nothing reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::unable::Unable;
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::ServiceFilter;

/// How long after the list a service that it lacks is asked for by itself, as
/// the controller asks twice before it believes that one is gone.
const CONFIRM_AFTER: Duration = Duration::from_millis(250);

/// Services that are asked for at once.
const AT_ONCE: usize = 16;

/// What is known of each service, by its ID.
pub(super) type Answers = BTreeMap<CatalogServiceId, CatalogAnswer>;

/// Asks for all of these; an error where any answer is missing.
pub(super) async fn ask(
    catalog: &dyn Catalog,
    ids: Vec<CatalogServiceId>,
) -> Result<Answers, Unable> {
    // A list without IDs is one of everything.
    if ids.is_empty() {
        return Ok(Answers::new());
    }
    let filter = ServiceFilter {
        ids,
        ..ServiceFilter::default()
    };
    let list = catalog.list_services(&filter).await;
    let list = list.map_err(|error| Unable::catalog(&error))?;
    let mut answers = Answers::new();
    for service in list.services {
        let (id, answer) = match service {
            Ok(record) => (
                Some(record.id.clone()),
                CatalogAnswer::Record(Arc::new(record)),
            ),
            Err(bad) => (bad.id.clone(), CatalogAnswer::Bad(bad)),
        };
        if let Some(Ok(id)) = id.as_deref().map(CatalogServiceId::parse) {
            answers.insert(id, answer);
        }
    }
    let lacking = |id: &CatalogServiceId| !answers.contains_key(id);
    let lacking: Vec<_> = filter.ids.into_iter().filter(lacking).collect();
    if lacking.is_empty() {
        return Ok(answers);
    }
    sleep(CONFIRM_AFTER).await;
    let confirmed: Vec<_> = stream::iter(lacking)
        .map(|id| async move {
            let answer = again(catalog, &id).await?;
            Ok::<_, Unable>((id, answer))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    answers.extend(confirmed);
    Ok(answers)
}

async fn again(catalog: &dyn Catalog, id: &CatalogServiceId) -> Result<CatalogAnswer, Unable> {
    match catalog.get_service(id).await {
        Ok(record) => Ok(CatalogAnswer::Record(record)),
        Err(CatalogError::NotFound) => Ok(CatalogAnswer::NotFound { confirmed: true }),
        Err(CatalogError::BadRecord(bad)) => Ok(CatalogAnswer::Bad(bad)),
        Err(error) => Err(Unable::catalog(&error)),
    }
}
