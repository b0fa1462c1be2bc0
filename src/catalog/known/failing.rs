//! Do reads of single services fail, and whose read finds out when that is
//! over? Plain values, bounded.

use std::collections::BTreeSet;
use std::mem::discriminant;

use crate::catalog::error::CatalogError;
use crate::domain::names::CatalogServiceId;

/// Most services that are remembered as broken alone.
const MOST_ALONE: usize = 1_000;

/// What is known of reads that fail.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// The read that failed last, and why, while none was answered since.
    last: Option<(CatalogServiceId, CatalogError)>,
    /// Another service that somebody was not let ask about because of it.
    waiting: Option<CatalogServiceId>,
    /// Services whose reads failed before another's was answered, and were not
    /// answered since: they say nothing about the others.
    alone: BTreeSet<CatalogServiceId>,
}

impl Failing {
    /// Whether reads fail.
    pub(super) fn is_so(&self) -> bool {
        self.last.is_some()
    }

    /// Why nobody but the follower is to ask about this service, if so.
    pub(super) fn refusal(&mut self, id: &CatalogServiceId) -> Option<CatalogError> {
        let (failed, error) = self.last.as_ref()?;
        if self.waiting.is_none() && failed != id {
            self.waiting = Some(id.clone());
        }
        Some(error.clone())
    }

    /// The service whose read finds out whether reads work again: in turn, as
    /// it may be one alone that cannot be read.
    pub(super) fn next_try(&mut self) -> Option<CatalogServiceId> {
        let (failed, _) = self.last.as_ref()?;
        Some(self.waiting.take().unwrap_or_else(|| failed.clone()))
    }

    /// A read of this service, or of several at once, got this answer. Those of
    /// several fail in other words, which are not to alternate. Says whether
    /// reads work that failed.
    pub(super) fn answered(
        &mut self,
        id: &CatalogServiceId,
        several: bool,
        error: Option<&CatalogError>,
    ) -> bool {
        let failed = error
            .filter(|error| !matches!(error, CatalogError::NotFound | CatalogError::BadRecord(_)));
        let Some(new) = failed else {
            self.alone.remove(id);
            let alone = self.last.as_ref().map(|(failed, _)| failed);
            if let Some(alone) = alone.filter(|failed| *failed != id) {
                if self.alone.len() >= MOST_ALONE {
                    self.alone.clear();
                }
                self.alone.insert(alone.clone());
            }
            return self.ended();
        };
        let same = |(_, old): &(_, CatalogError)| discriminant(old) == discriminant(new);
        let says_nothing_new =
            self.alone.contains(id) || several && self.last.as_ref().is_some_and(same);
        if !says_nothing_new {
            self.last = Some((id.clone(), new.clone()));
        }
        false
    }

    /// The catalog answered something. Says whether reads failed before.
    pub(super) fn ended(&mut self) -> bool {
        self.waiting = None;
        self.last.take().is_some()
    }
}
