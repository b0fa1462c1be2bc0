//! What does a complete list change of what is known? Only what differs, and
//! nothing that was heard since the list's position.

use std::collections::HashMap;
use std::sync::Arc;

use super::state::{Service, State, WhyList};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceList};

impl State {
    /// Takes a complete list. One that is older than what it is to mend is
    /// refused, and says so.
    pub(super) fn list(&mut self, list: ServiceList) -> Result<(), String> {
        self.works();
        let at = list.position.clone();
        if let Some((_, needed)) = &self.broken
            && needed.epoch == at.epoch
            && needed.revision > at.revision
        {
            return Err(format!(
                "the list is of {at}, and the stream has come to {needed}"
            ));
        }
        let another_epoch = |known: &CatalogPosition| known.epoch != at.epoch;
        let known_to = self.position.as_ref();
        let behind = known_to.is_some_and(|known| known.revision > at.revision);
        let anew = known_to.is_none_or(another_epoch) || self.rewound;
        if list.services.is_empty() {
            self.nothing_at = Some(at.clone());
        } else {
            self.nothing_at = self.nothing_at.take().filter(|of| of.epoch == at.epoch);
        }
        if anew {
            self.histories += 1;
            self.absent.begin(&at);
            // Where the stream went there first, it has done so already.
            if !self.rewound {
                self.stale.forget_revisions();
            }
        }
        self.compare(list, anew);
        self.lists += 1;
        self.stale.listed(at.revision);
        if anew || !behind {
            self.position = Some(at.clone());
        }
        // A stream of another epoch than the list has yet to say so.
        self.broken = None;
        self.rewound = self.heard.as_ref().is_some_and(another_epoch);
        if self.rewound {
            self.broken = Some((WhyList::Rewound, at));
        }
        Ok(())
    }

    fn compare(&mut self, list: ServiceList, anew: bool) {
        let at = list.position;
        let newer = |service: &Service| service.is_later(at.revision);
        let mut listed = HashMap::new();
        let mut nameless = false;
        for item in list.services {
            let (id, service) = match item {
                Ok(record) => (Some(record.id.clone()), Service::Present(Arc::new(record))),
                Err(bad) => (bad.id.clone(), Service::Unreadable(Box::new(bad))),
            };
            match id.map(|id| CatalogServiceId::parse(&id)) {
                Some(Ok(id)) => {
                    // One text for each ID, however often it is listed.
                    let known = self.services.get_key_value(&id);
                    let id = known.map_or(id, |(known, _)| known.clone());
                    listed.insert(id, service);
                }
                _ => nameless = true,
            }
        }
        let missing: Vec<_> = self
            .services
            .iter()
            .filter(|(id, service)| !listed.contains_key(*id) && (anew || !newer(service)))
            .map(|(id, _)| id.clone())
            .collect();
        // Any of those that are missing may be the one that has lost its name.
        if nameless {
            self.absent.uncertain();
        } else {
            self.absent.certain(&at);
            for id in missing {
                self.services.remove(&id);
                self.came.remove(&id);
                self.absent.add(&id, &at);
                self.changed.insert(id);
            }
        }
        self.changed.extend(std::mem::take(&mut self.doubted));
        for (id, service) in listed {
            let newer = self.services.get(&id).is_some_and(newer) || self.absent.is_later(&id, &at);
            if anew || !newer {
                self.may_have_come(&id, &service, at.revision);
                self.put(&id, service);
            }
        }
        self.forget_who_did_not_come();
    }
}
