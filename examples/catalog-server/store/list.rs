//! Lists of services, as they were at a revision. Does IO.

use futures::TryStreamExt;
use serde_json::{Map, Value};
use sqlx::Row;

use super::{State, Store, StoreError};

/// A page holds no more than this many bytes of records, so that it stays
/// well under the 16 MiB that a client takes.
const PAGE_BYTES: usize = 8 << 20;

/// Which services are wanted; labels and IDs as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// Namespace, or nothing for all.
    pub(crate) namespace: String,
    /// Object of the labels that must be there.
    pub(crate) labels: String,
    /// List of the IDs to choose from; empty for all.
    pub(crate) ids: String,
}

/// Part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// Revision of each service's last write, and its record.
    pub(crate) items: Vec<(i64, Map<String, Value>)>,
    /// ID to go on after, where there is more.
    pub(crate) more_after: Option<String>,
    /// Where the catalog stood after the page was read: a page of a revision
    /// below the floor may have holes.
    pub(crate) state: State,
}

impl Store {
    /// The services of a revision whose IDs come after `after`.
    pub(crate) async fn page(
        &self,
        revision: i64,
        after: &str,
        filter: &Filter,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut items = Vec::new();
        let mut more_after = None;
        let mut last = String::new();
        let mut bytes = 0;
        let mut rows = sqlx::query(self.dialect.page())
            .bind(revision)
            .bind(after)
            .bind(&filter.namespace)
            .bind(&filter.labels)
            .bind(&filter.ids)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
            .fetch(&self.pool);
        while let Some(row) = rows.try_next().await? {
            let record: &str = row.try_get(2)?;
            bytes += record.len();
            if items.len() == limit || (bytes > PAGE_BYTES && !items.is_empty()) {
                more_after = Some(last);
                break;
            }
            items.push((row.try_get(1)?, serde_json::from_str(record)?));
            last = row.try_get(0)?;
        }
        drop(rows);
        let state = self.state().await?;
        Ok(Page {
            items,
            more_after,
            state,
        })
    }
}
