//! Which records do we already have, and under which ETag? In memory; no IO.
//!
//! Two generations stand in for a recency list: what is used moves to the
//! young one, and when that is half of the bound the old one is dropped. The
//! least recently used half goes at once, and no access costs more than a
//! look-up.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::domain::record::ServiceRecord;

const MOST_RECORDS: usize = 20_000;
const MOST_BYTES: usize = 64 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Cached {
    pub(super) etag: HeaderValue,
    pub(super) record: Arc<ServiceRecord>,
    /// Size of the body that the record was read from.
    bytes: usize,
}

pub(super) struct RecordCache {
    /// The catalog that the records are from.
    catalog: Option<Url>,
    young: HashMap<String, Cached>,
    young_bytes: usize,
    old: HashMap<String, Cached>,
    most_records: usize,
    most_bytes: usize,
}

impl RecordCache {
    pub(super) fn new() -> Self {
        Self::bounded(MOST_RECORDS, MOST_BYTES)
    }

    fn bounded(most_records: usize, most_bytes: usize) -> Self {
        Self {
            catalog: None,
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
            most_records,
            most_bytes,
        }
    }

    /// The cache for this catalog. Another one's records and ETags are dropped.
    pub(super) fn of(&mut self, catalog: &Url) -> &mut Self {
        if self.catalog.as_ref() != Some(catalog) {
            *self = Self {
                catalog: Some(catalog.clone()),
                ..Self::bounded(self.most_records, self.most_bytes)
            };
        }
        self
    }

    pub(super) fn get(&mut self, id: &str) -> Option<Cached> {
        if let Some(cached) = self.young.get(id) {
            return Some(cached.clone());
        }
        let (id, cached) = self.old.remove_entry(id)?;
        self.put(id, cached.clone());
        Some(cached)
    }

    /// Stores a record and gives it back: as the one that was there before,
    /// where nothing but the ETag changed.
    pub(super) fn insert(
        &mut self,
        id: &str,
        etag: HeaderValue,
        record: ServiceRecord,
        bytes: usize,
    ) -> Arc<ServiceRecord> {
        let before = self.remove(id).map(|cached| cached.record);
        let record = before
            .filter(|old| **old == record)
            .unwrap_or_else(|| Arc::new(record));
        self.put(
            id.to_owned(),
            Cached {
                etag,
                record: record.clone(),
                bytes,
            },
        );
        record
    }

    fn remove(&mut self, id: &str) -> Option<Cached> {
        if let Some(cached) = self.young.remove(id) {
            self.young_bytes -= cached.bytes;
            return Some(cached);
        }
        self.old.remove(id)
    }

    fn put(&mut self, id: String, cached: Cached) {
        let half_full = self.young.len() >= self.most_records / 2
            || self.young_bytes + cached.bytes > self.most_bytes / 2;
        if half_full && !self.young.is_empty() {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += cached.bytes;
        self.young.insert(id, cached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(cache: &mut RecordCache, id: &str, revision: u64) -> Arc<ServiceRecord> {
        let record = ServiceRecord {
            id: id.to_owned(),
            revision,
            ..Default::default()
        };
        cache.insert(id, HeaderValue::from(revision), record, 10)
    }

    #[test]
    fn neither_records_nor_bytes_grow_past_their_bound() {
        for mut cache in [
            RecordCache::bounded(10, usize::MAX),
            RecordCache::bounded(999, 100),
        ] {
            for i in 0..1000 {
                insert(&mut cache, &i.to_string(), 1);
                let held = cache.young.len() + cache.old.len();
                assert!(held <= 10, "{held}");
            }
        }
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let mut cache = RecordCache::bounded(10, usize::MAX);
        insert(&mut cache, "used", 1);
        for i in 0..1000 {
            insert(&mut cache, &i.to_string(), 1);
            assert!(cache.get("used").is_some());
        }
        assert!(cache.get("0").is_none());
    }

    #[test]
    fn an_equal_record_under_a_new_etag_stays_the_same_allocation() {
        let mut cache = RecordCache::new();
        let first = insert(&mut cache, "a", 1);
        let same = cache.insert("a", HeaderValue::from(2), (*first).clone(), 10);
        assert!(Arc::ptr_eq(&first, &same));
        assert_eq!(cache.get("a").unwrap().etag, HeaderValue::from(2));
        assert!(!Arc::ptr_eq(&first, &insert(&mut cache, "a", 2)));
    }

    #[test]
    fn another_catalogs_records_are_dropped() {
        let [one, two] = ["http://one", "http://two"].map(|url| Url::parse(url).unwrap());
        let mut cache = RecordCache::new();
        insert(cache.of(&one), "a", 1);
        assert!(cache.of(&one).get("a").is_some());
        assert!(cache.of(&two).get("a").is_none());
        assert!(cache.of(&one).get("a").is_none());
    }

    #[test]
    fn a_record_stored_again_is_counted_once() {
        let mut cache = RecordCache::bounded(10, 1000);
        for revision in 0..100 {
            insert(&mut cache, "a", revision);
        }
        assert_eq!(
            (cache.young.len(), cache.young_bytes, cache.old.len()),
            (1, 10, 0)
        );
    }
}
