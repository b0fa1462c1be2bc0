//! Which records name which Service, kept as records come and go.

use std::collections::BTreeSet;

use super::{Problem, Scope, target};
use crate::domain::dense::Dense;
use crate::domain::names::{CatalogServiceId, ServiceKey};
use crate::domain::one_to_many::OneToMany;
use crate::domain::record::ServiceRecord;

/// Which records within the scope name which Service.
#[derive(Debug, Default)]
pub struct Index {
    by_service: OneToMany<ServiceKey, CatalogServiceId>,
    by_id: Dense<CatalogServiceId, ServiceKey>,
}

impl Index {
    /// Takes what is known of this ID now; the Services that it concerns, and
    /// what is wrong with the record.
    pub fn take(
        &mut self,
        scope: &Scope,
        id: &CatalogServiceId,
        record: Option<&ServiceRecord>,
    ) -> (Vec<ServiceKey>, Option<Problem>) {
        let mut concerned = Vec::new();
        if let Some(before) = self.by_id.remove(id) {
            self.by_service.remove(&before, id);
            concerned.push(before);
        }
        let Some(record) = record.filter(|record| scope.admits(record)) else {
            return (concerned, None);
        };
        match target(record) {
            Ok((service, _)) => {
                self.by_id.insert(id.clone(), service.clone());
                self.by_service.insert(service.clone(), id.clone());
                if !concerned.contains(&service) {
                    concerned.push(service);
                }
                (concerned, None)
            }
            Err(error) => (concerned, Some(Problem::InvalidName(error))),
        }
    }

    /// The records that name the Service.
    pub fn ids(&self, service: &ServiceKey) -> BTreeSet<CatalogServiceId> {
        self.by_service.of(service).iter().cloned().collect()
    }

    /// Whether the record is known to name that Service.
    pub fn knows(&self, id: &CatalogServiceId, service: &ServiceKey) -> bool {
        self.by_id.get(id) == Some(service)
    }

    /// Every Service of that namespace that a record names.
    pub fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a ServiceKey> {
        let services = self.by_service.keys();
        services.filter(move |service| service.namespace.as_str() == namespace)
    }

    /// Every Service that a record names.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_service.keys()
    }

    /// Whether a record names the Service.
    pub fn names(&self, service: &ServiceKey) -> bool {
        !self.by_service.of(service).is_empty()
    }
}
