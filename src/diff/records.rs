//! What does the catalog say of the services? Asks it by lists, at most two and
//! one of everything; nothing is followed and nothing reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::question::Entries;
use super::unable::Unable;
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::domain::brake::CatalogView;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

/// How long after the list a service that it lacks is asked for by itself, as
/// the controller asks twice before it believes that one is gone.
const CONFIRM_AFTER: Duration = Duration::from_millis(250);

/// Services that are asked for at once.
const AT_ONCE: usize = 16;

/// What is known of the catalog so far.
#[derive(Default)]
pub(super) struct Records {
    answers: BTreeMap<CatalogServiceId, CatalogAnswer>,
    whole: Option<Whole>,
}

/// What a list of everything said.
struct Whole {
    position: CatalogPosition,
    /// Whether it held nothing at all.
    empty: bool,
}

impl Records {
    /// Those of a file, in place of the catalog.
    pub(super) fn given(entries: &Entries) -> Self {
        let answers = entries.iter().filter_map(|(id, record)| {
            let id = CatalogServiceId::parse(id).ok()?;
            Some((id, CatalogAnswer::Record(Arc::clone(record))))
        });
        Self {
            answers: answers.collect(),
            whole: None,
        }
    }

    /// Lists those of the namespace, or all.
    pub(super) async fn list(
        &mut self,
        catalog: &dyn Catalog,
        namespace: Option<String>,
    ) -> Result<(), Unable> {
        let filter = ServiceFilter {
            namespace,
            ..ServiceFilter::default()
        };
        self.take(catalog, &filter).await
    }

    /// Asks for those of these that are not known yet; an error where any answer
    /// is missing.
    pub(super) async fn ask(
        &mut self,
        catalog: &dyn Catalog,
        ids: BTreeSet<CatalogServiceId>,
    ) -> Result<(), Unable> {
        let unknown = self.lacking(ids);
        if self.whole.is_none() && !unknown.is_empty() {
            let filter = ServiceFilter {
                ids: unknown.clone(),
                ..ServiceFilter::default()
            };
            self.take(catalog, &filter).await?;
        }
        let absent = self.lacking(unknown);
        if absent.is_empty() {
            return Ok(());
        }
        // Nothing is believed to be gone before a complete list says so.
        if self.whole.is_none() {
            self.take(catalog, &ServiceFilter::default()).await?;
        }
        sleep(CONFIRM_AFTER).await;
        let confirmed: Vec<_> = stream::iter(self.lacking(absent))
            .map(|id| async move {
                let answer = again(catalog, &id).await?;
                Ok::<_, Unable>((id, answer))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.answers.extend(confirmed);
        Ok(())
    }

    /// All records that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = (&CatalogServiceId, &ServiceRecord)> {
        self.answers.iter().filter_map(|(id, answer)| match answer {
            CatalogAnswer::Record(record) => Some((id, record.as_ref())),
            _ => None,
        })
    }

    /// The answer about that one.
    pub(super) fn answer(&self, id: &CatalogServiceId) -> CatalogAnswer {
        let answer = self.answers.get(id).cloned();
        answer.unwrap_or(CatalogAnswer::NotAsked)
    }

    /// Whether the catalog lacks any that it was asked for.
    pub(super) fn lack_any(&self) -> bool {
        let mut answers = self.answers.values();
        answers.any(|answer| matches!(answer, CatalogAnswer::NotFound { .. }))
    }

    /// What the brake has to know of the catalog about one that it lacks.
    pub(super) fn view(&self) -> CatalogView {
        let whole = self.whole.as_ref();
        let empty = whole.filter(|whole| whole.empty);
        CatalogView {
            present: whole.map(|whole| whole.position.clone()),
            absent: whole.is_some(),
            nothing_at: empty.map(|whole| whole.position.clone()),
        }
    }

    fn lacking(&self, ids: impl IntoIterator<Item = CatalogServiceId>) -> Vec<CatalogServiceId> {
        let ids = ids.into_iter();
        ids.filter(|id| !self.answers.contains_key(id)).collect()
    }

    async fn take(&mut self, catalog: &dyn Catalog, filter: &ServiceFilter) -> Result<(), Unable> {
        let list = catalog.list_services(filter).await;
        let ServiceList { position, services } = list.map_err(|error| Unable::catalog(&error))?;
        if *filter == ServiceFilter::default() {
            self.whole = Some(Whole {
                position,
                empty: services.is_empty(),
            });
        }
        for service in services {
            let (id, answer) = match service {
                Ok(record) => (
                    Some(record.id.clone()),
                    CatalogAnswer::Record(Arc::new(record)),
                ),
                Err(bad) => (bad.id.clone(), CatalogAnswer::Bad(bad)),
            };
            if let Some(Ok(id)) = id.as_deref().map(CatalogServiceId::parse) {
                self.answers.insert(id, answer);
            }
        }
        Ok(())
    }
}

async fn again(catalog: &dyn Catalog, id: &CatalogServiceId) -> Result<CatalogAnswer, Unable> {
    match catalog.get_service(id).await {
        Ok(record) => Ok(CatalogAnswer::Record(record)),
        Err(CatalogError::NotFound) => Ok(CatalogAnswer::NotFound { confirmed: true }),
        Err(CatalogError::BadRecord(bad)) => Ok(CatalogAnswer::Bad(bad)),
        Err(error) => Err(Unable::catalog(&error)),
    }
}
