//! Which bindings would the operator make for entries of the catalog? Its own
//! decisions; takes the bindings for stored, so that what follows from them is
//! compared like that of any other. No IO.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::finding::{Action, Altered, Said};
use super::lines::{self, Line};
use super::question::{Question, Scope};
use super::records::Records;
use super::seen::Cluster;
use super::source::Source;
use crate::api::service_binding::ServiceBinding;
use crate::domain::labels::BINDING_KIND;
use crate::domain::names::BindingKey;
use crate::domain::registration::index::Index;
use crate::domain::registration::{self, Decision};
use crate::domain::validate;

/// Where entries can lead to bindings that the question is about.
pub(super) enum Within {
    /// Anywhere.
    Anywhere,
    /// In this namespace.
    Namespace(String),
}

impl Within {
    /// None where the question is about bindings that are there, or given.
    pub(super) fn of(question: &Question, cluster: &Cluster) -> Option<Self> {
        if !question.register.on {
            return None;
        }
        match &question.scope {
            Scope::All => Some(Self::Anywhere),
            Scope::Namespace(namespace) => Some(Self::Namespace(namespace.clone())),
            Scope::These(keys) => {
                let missing = keys.iter().find(|key| !cluster.has(key))?;
                Some(Self::Namespace(missing.namespace.clone()))
            }
        }
    }

    /// The namespace, where it is one.
    pub(super) fn namespace(&self) -> Option<String> {
        match self {
            Self::Anywhere => None,
            Self::Namespace(namespace) => Some(namespace.clone()),
        }
    }

    fn has(&self, namespace: &str) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Namespace(one) => one == namespace,
        }
    }
}

/// Makes all of them, and says how each of them would be created.
pub(super) fn make(
    scope: &registration::Scope,
    within: &Within,
    records: &Records,
    cluster: &Cluster,
) -> BTreeMap<BindingKey, Altered> {
    let mut index = Index::default();
    for (id, record) in records.all() {
        if within.has(&record.namespace) {
            index.take(scope, id, Some(record));
        }
    }
    let mut made = BTreeMap::new();
    for service in index.services() {
        let around = cluster.world.around(service);
        let decision = registration::decide(scope, service, &index.ids(service), &around);
        if let Decision::Create(id) = decision {
            let binding = registration::binding(service, &id);
            cluster.make(&binding);
            made.insert(validate::key(&binding), creation(&binding));
        }
    }
    made
}

fn creation(binding: &ServiceBinding) -> Altered {
    let metadata = &binding.metadata;
    let object = json!({
        "metadata": {"finalizers": metadata.finalizers, "labels": metadata.labels},
        "spec": {
            "catalogServiceId": binding.spec.catalog_service_id,
            "serviceName": binding.spec.service_name,
        },
    });
    let said = |line: Line| Said {
        source: line.value.is_some().then(|| source(&line.path)),
        set_by: None,
        line,
    };
    let lines = lines::between(None::<&Value>, Some(&object)).into_iter();
    Altered {
        kind: BINDING_KIND,
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        action: Action::Create,
        lines: lines.map(said).collect(),
    }
}

fn source(path: &[String]) -> Source {
    match path.first().map(String::as_str) {
        Some("spec") => Source::Catalog,
        _ => Source::Operator,
    }
}
