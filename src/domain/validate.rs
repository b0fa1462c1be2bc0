//! From what was seen to a binding that cannot be wrong, or the situation
//! that says why there is none.

use super::build::ValidBinding;
use super::desired::OwnerRef;
use super::inputs::{CatalogAnswer, Inputs, ServiceView, Settings};
use super::names::{BindingKey, shown};
use super::ownership;
use super::policy::{self, Giver, PolicyError};
use super::ports::HttpPorts;
use super::reasons as r;
use super::record::ServiceRecord;
use super::situation::Situation;
use super::target::Target;
use crate::api::service_binding::{DeletionPolicy, PolicyEntry, ServiceBinding};

/// A binding that cannot be wrong, and what is said about it.
#[derive(Clone, Debug)]
pub struct Valid {
    /// What is built from.
    pub binding: ValidBinding,
    /// Each effective value with its source.
    pub provenance: Vec<PolicyEntry>,
    /// What the user should know about the policy.
    pub notes: Vec<String>,
    /// Whose record it is, where it is another service's.
    pub mismatch: Option<String>,
    /// Whether health checks are asked for.
    pub checked: bool,
}

/// The two services that the binding names.
pub fn target(binding: &ServiceBinding) -> Result<Target, Situation> {
    let own = binding.metadata.namespace.as_deref().unwrap_or_default();
    Target::of(own, &binding.spec).map_err(|errors| wrong(&errors))
}

/// What ends the look before the catalog is asked, if anything does.
pub fn before_the_catalog(
    inputs: &Inputs,
    target: &Target,
    settings: &Settings,
) -> Option<Situation> {
    frozen(inputs).or_else(|| {
        ownership::obstacle(inputs, &target.service, settings).map(|o| Situation::Blocked {
            reason: o.reason,
            message: o.message,
        })
    })
}

/// Whether the binding is suspended or its Namespace, or everything, paused.
pub fn frozen(inputs: &Inputs) -> Option<Situation> {
    if inputs.binding.spec.suspend == Some(true) {
        let message = "spec.suspend is true: nothing is changed for this binding".to_owned();
        return Some(Situation::Suspended {
            reason: r::SUSPENDED_BY_BINDING,
            message,
        });
    }
    let namespace = inputs.paused_by.as_ref()?;
    let message = format!(
        "namespace {namespace} is annotated {}=true",
        super::labels::ANNOTATION_PAUSED
    );
    Some(Situation::Suspended {
        reason: r::PAUSED,
        message,
    })
}

/// The whole check, with the catalog's answer.
pub fn validate(inputs: &Inputs, target: &Target, settings: &Settings) -> Result<Valid, Situation> {
    let record = record(&inputs.catalog)?;
    let merged = policy::effective(Some(record), &inputs.binding.spec, &settings.bounds)
        .map_err(|errors| wrong(&errors))?;
    let http_ports = usable(inputs.service.as_ref(), target)?;
    mesh_api(inputs)?;
    Ok(Valid {
        mismatch: mismatch(record, target),
        checked: merged.policy.health_check.is_some(),
        provenance: merged.entries,
        notes: merged.notes,
        binding: ValidBinding {
            binding: key(&inputs.binding),
            uid: inputs.binding.metadata.uid.clone().unwrap_or_default(),
            service: target.service.clone(),
            host: target.service.host(&settings.cluster_domain),
            http_ports,
            policy: merged.policy,
            owner: owner(&inputs.binding, target),
            mesh_locality: settings.mesh_locality,
        },
    })
}

fn record(answer: &CatalogAnswer) -> Result<&ServiceRecord, Situation> {
    match answer {
        CatalogAnswer::Record(record) => Ok(record),
        CatalogAnswer::Unavailable { reason, message } => Err(Situation::CatalogAway {
            reason,
            message: message.clone(),
        }),
        CatalogAnswer::NotFound { confirmed: false } => Err(Situation::NotFound),
        CatalogAnswer::NotFound { confirmed: true } => Err(Situation::Removed { kept: None }),
        CatalogAnswer::Bad(bad) => Err(Situation::InvalidRecord(bad.to_string())),
        CatalogAnswer::NotAsked => Err(Situation::CatalogAway {
            reason: r::CATALOG_UNAVAILABLE,
            message: "the catalog was not asked".to_owned(),
        }),
    }
}

/// All that is wrong, as the situation of whoever gave the first wrong value.
fn wrong(errors: &[PolicyError]) -> Situation {
    let blame = errors.first().map_or(Giver::Binding, |error| error.giver);
    let all: Vec<_> = errors
        .iter()
        .filter(|e| e.giver == blame)
        .map(ToString::to_string)
        .collect();
    match blame {
        Giver::Catalog => Situation::InvalidRecord(all.join("; ")),
        Giver::Binding => Situation::InvalidBinding(all.join("; ")),
    }
}

/// The HTTP ports of a Service that can carry a policy.
fn usable(service: Option<&ServiceView>, target: &Target) -> Result<HttpPorts, Situation> {
    let unusable = |reason, message: String| Err(Situation::ServiceUnusable { reason, message });
    let name = &target.service;
    let Some(service) = service else {
        return unusable(
            r::SERVICE_NOT_FOUND,
            format!("there is no Service {name}; it is waited for"),
        );
    };
    if let Some(outside) = &service.external_name {
        let message =
            format!("Service {name} stands for {outside}: proxies do not balance an ExternalName");
        return unusable(r::HEADLESS, message);
    }
    if service.headless {
        let message = format!(
            "Service {name} is headless: proxies do not balance it, so no policy would act"
        );
        return unusable(r::HEADLESS, message);
    }
    HttpPorts::of(&service.ports).ok_or_else(|| {
        let message = format!(
            "no port of Service {name} is declared as HTTP: name one http, http2 or grpc (or http-…), or set its appProtocol"
        );
        Situation::ServiceUnusable { reason: r::NO_HTTP_PORT, message }
    })
}

fn mesh_api(inputs: &Inputs) -> Result<(), Situation> {
    match &inputs.mesh_api_missing {
        None => Ok(()),
        Some(message) => Err(Situation::WriteRefused {
            reason: r::MESH_API_MISSING,
            message: message.clone(),
        }),
    }
}

/// A record of another service: its policy counts, nothing is reported back.
fn mismatch(record: &ServiceRecord, target: &Target) -> Option<String> {
    let same = record.name == target.service.name.as_str()
        && record.namespace == target.service.namespace.as_str();
    (!same).then(|| {
        format!(
            "the record is of service {} in namespace {}: its policy applies, and nothing is reported back",
            shown(&record.name),
            shown(&record.namespace)
        )
    })
}

/// The binding as owner of its objects, where the API server may collect
/// them: in its own namespace, and not if they are to be retained.
fn owner(binding: &ServiceBinding, target: &Target) -> Option<OwnerRef> {
    let near = binding.metadata.namespace.as_deref() == Some(target.service.namespace.as_str());
    let retained = binding.spec.deletion_policy == Some(DeletionPolicy::Retain);
    (near && !retained).then(|| OwnerRef {
        name: binding.metadata.name.clone().unwrap_or_default(),
        uid: binding.metadata.uid.clone().unwrap_or_default(),
    })
}

/// Namespace and name of the binding.
pub fn key(binding: &ServiceBinding) -> BindingKey {
    BindingKey {
        namespace: binding.metadata.namespace.clone().unwrap_or_default(),
        name: binding.metadata.name.clone().unwrap_or_default(),
    }
}
