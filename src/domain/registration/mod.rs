//! Which Services of the cluster get a binding because the catalog has a
//! record of them. Such a binding is only ever created here; what becomes of
//! it when the service goes is decided like for any other.

pub mod index;

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::inputs::{NamespaceView, Rival, ServiceView};
use super::labels::{FINALIZER, LABEL_MANAGED_BY, LABEL_SOURCE, MANAGER, SOURCE_CATALOG};
use super::names::{CatalogServiceId, NameError, Namespace, ServiceKey, ServiceName};
use super::reasons;
use super::record::ServiceRecord;
use super::selector::LabelSelector;
use crate::api::service_binding::{ServiceBinding, ServiceBindingSpec};

/// Which services are registered.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Whether any is.
    pub on: bool,
    /// Only those of these namespaces; none: of all.
    pub namespaces: BTreeSet<String>,
    /// Only those whose Service in the cluster has these labels.
    pub service_labels: LabelSelector,
    /// Only those whose record has these labels.
    pub record_labels: LabelSelector,
}

impl Scope {
    /// Whether the record may lead to a binding, whatever the cluster holds.
    pub fn admits(&self, record: &ServiceRecord) -> bool {
        self.on
            && (self.namespaces.is_empty() || self.namespaces.contains(&record.namespace))
            && self.record_labels.selects(&record.labels)
    }

    /// The record's ID, where it may lead to a binding for that Service.
    pub fn leads_to(
        &self,
        record: &ServiceRecord,
        service: &ServiceKey,
    ) -> Option<CatalogServiceId> {
        let (names, id) = target(record).ok().filter(|_| self.admits(record))?;
        (names == *service).then_some(id)
    }
}

/// What the cluster holds around one Service.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The Service itself, if it is there.
    pub service: Option<ServiceView>,
    /// Its Namespace, if it is there.
    pub namespace: Option<NamespaceView>,
    /// Whether everything is paused.
    pub all_paused: bool,
    /// The bindings that name the Service, each with its record's ID.
    pub bindings: Vec<(Rival, String)>,
    /// Whether the name that the binding would have is taken by one that
    /// cannot be read or is for another Service.
    pub name_taken: bool,
}

/// What is done about one Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// A binding to this record is made.
    Create(CatalogServiceId),
    /// Nothing, or not now.
    Nothing,
}

/// Why a record leads to no binding, where its owner has to do something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Problem {
    /// Its name or namespace is none of Kubernetes'.
    InvalidName(NameError),
    /// Another binding has the name.
    NameTaken,
    /// Another record names the same Service.
    AnotherRecord(CatalogServiceId),
}

/// Every problem's label, for metrics.
pub const PROBLEMS: [&str; 3] = ["InvalidName", reasons::NAME_TAKEN, reasons::ANOTHER_RECORD];

impl Problem {
    /// Which of [`PROBLEMS`] it is.
    pub fn label(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => PROBLEMS[0],
            Self::NameTaken => PROBLEMS[1],
            Self::AnotherRecord(_) => PROBLEMS[2],
        }
    }

    /// What it is, and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::InvalidName(error) => format!("{error}; correct the record, or bind it by hand"),
            Self::NameTaken => {
                "a ServiceBinding of that name is for another Service; rename that one, or bind this one by hand"
                    .to_owned()
            }
            Self::AnotherRecord(id) => {
                format!("record {id} names the same Service; take one of the two out of the catalog")
            }
        }
    }
}

/// The Service that the record names, and its ID.
pub fn target(record: &ServiceRecord) -> Result<(ServiceKey, CatalogServiceId), NameError> {
    let service = ServiceKey {
        namespace: Namespace::parse(&record.namespace)?,
        name: ServiceName::parse(&record.name)?,
    };
    Ok((service, CatalogServiceId::parse(&record.id)?))
}

/// Which of the records counts for the Service: the one that is bound
/// already, else the one of the lowest ID.
pub fn chosen<'a>(
    ids: &'a BTreeSet<CatalogServiceId>,
    around: &Surroundings,
) -> Option<&'a CatalogServiceId> {
    let bound = |id: &&CatalogServiceId| around.bindings.iter().any(|(_, of)| of == id.as_str());
    ids.iter().find(bound).or_else(|| ids.first())
}

/// What is done about a Service that these records name, all of them within
/// the scope.
pub fn decide(
    scope: &Scope,
    service: &ServiceKey,
    ids: &BTreeSet<CatalogServiceId>,
    around: &Surroundings,
) -> Decision {
    let wanted = around
        .service
        .as_ref()
        .is_some_and(|service| !service.ignored && scope.service_labels.selects(&service.labels));
    let frozen = around.all_paused
        || around
            .namespace
            .as_ref()
            .is_none_or(|namespace| namespace.paused || namespace.terminating);
    let bound = around.bindings.iter().any(|(binding, _)| {
        let from = &binding.key.namespace;
        let namespace = service.namespace.as_str();
        // Who may not name the Service must not keep its owner out.
        from == namespace
            || around
                .namespace
                .as_ref()
                .is_some_and(|target| target.allow_from.contains(from))
    });
    match chosen(ids, around) {
        Some(id) if scope.on && wanted && !frozen && !bound && !around.name_taken => {
            Decision::Create(id.clone())
        }
        _ => Decision::Nothing,
    }
}

/// The problems of the records that name the Service.
pub fn problems(
    ids: &BTreeSet<CatalogServiceId>,
    around: &Surroundings,
) -> Vec<(CatalogServiceId, Problem)> {
    let Some(chosen) = chosen(ids, around) else {
        return Vec::new();
    };
    let others = ids.iter().filter(|id| *id != chosen);
    let mut found: Vec<_> = others
        .map(|id| (id.clone(), Problem::AnotherRecord(chosen.clone())))
        .collect();
    if around.name_taken && around.bindings.is_empty() && around.service.is_some() {
        found.push((chosen.clone(), Problem::NameTaken));
    }
    found
}

/// What a binding to this one of the records is told of the others that name its
/// Service.
pub fn beside(ids: &BTreeSet<CatalogServiceId>, bound: &CatalogServiceId) -> Option<String> {
    let other = ids.iter().find(|id| *id != bound)?;
    let says = ids.contains(bound);
    says.then(|| Problem::AnotherRecord(other.clone()).message())
}

/// The binding as it is created. It is named after the Service.
pub fn binding(service: &ServiceKey, id: &CatalogServiceId) -> ServiceBinding {
    let labels = [(LABEL_SOURCE, SOURCE_CATALOG), (LABEL_MANAGED_BY, MANAGER)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ServiceBinding {
        metadata: ObjectMeta {
            name: Some(service.name.to_string()),
            namespace: Some(service.namespace.to_string()),
            labels: Some(labels.into()),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: ServiceBindingSpec {
            catalog_service_id: id.to_string(),
            service_name: service.name.to_string(),
            ..ServiceBindingSpec::default()
        },
        status: None,
    }
}

#[cfg(test)]
mod tests;
