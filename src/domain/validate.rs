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

/// Whether the record is of the very service that the binding names.
pub fn is_own(record: &ServiceRecord, target: &Target) -> bool {
    record.name == target.service.name.as_str()
        && record.namespace == target.service.namespace.as_str()
}

/// A record of another service: its policy counts, nothing is reported back.
fn mismatch(record: &ServiceRecord, target: &Target) -> Option<String> {
    (!is_own(record, target)).then(|| {
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
    BindingKey::new(
        binding.metadata.namespace.clone().unwrap_or_default(),
        binding.metadata.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{HOST, UID, binding, foreign, inputs, record, settings, target};
    use crate::domain::record::BadRecord;
    use std::sync::Arc;

    fn validated(inputs: &Inputs) -> Result<Valid, Situation> {
        validate(inputs, &target(inputs), &settings())
    }

    fn unusable(service: Option<ServiceView>) -> &'static str {
        let seen = Inputs {
            service,
            ..inputs(binding())
        };
        match validated(&seen) {
            Err(Situation::ServiceUnusable { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_binding_is_valid_for_its_http_ports_and_owned_by_the_binding() {
        let valid = validated(&inputs(binding())).unwrap();
        assert_eq!(valid.binding.host, HOST);
        assert_eq!(valid.binding.http_ports.as_slice(), [80]);
        assert_eq!(
            valid.binding.owner.map(|owner| owner.uid),
            Some(UID.to_owned())
        );
        assert_eq!((valid.mismatch, valid.checked), (None, false));
    }

    #[test]
    fn objects_that_outlive_the_binding_or_stand_elsewhere_are_not_owned() {
        let mut retained = binding();
        retained.spec.deletion_policy = Some(DeletionPolicy::Retain);
        let mut elsewhere = binding();
        elsewhere.spec.namespace = Some("payments".to_owned());
        for binding in [retained, elsewhere] {
            assert_eq!(validated(&inputs(binding)).unwrap().binding.owner, None);
        }
    }

    #[test]
    fn a_service_that_cannot_carry_a_policy_is_a_reason_and_never_a_guess() {
        let service = inputs(binding()).service.unwrap();
        assert_eq!(unusable(None), r::SERVICE_NOT_FOUND);
        let headless = ServiceView {
            headless: true,
            ..service.clone()
        };
        assert_eq!(unusable(Some(headless)), r::HEADLESS);
        let external = ServiceView {
            external_name: Some("db.example".to_owned()),
            ..service.clone()
        };
        assert_eq!(unusable(Some(external)), r::HEADLESS);
        let mut tcp = service;
        tcp.ports.remove(0);
        assert_eq!(unusable(Some(tcp)), r::NO_HTTP_PORT);
    }

    #[test]
    fn what_the_catalog_answers_decides_before_the_service_does() {
        let answered = |catalog| {
            let seen = Inputs {
                catalog,
                service: None,
                ..inputs(binding())
            };
            validated(&seen).unwrap_err()
        };
        let away = CatalogAnswer::Unavailable {
            reason: r::CATALOG_RATE_LIMITED,
            message: "later".to_owned(),
        };
        assert!(matches!(
            answered(away),
            Situation::CatalogAway {
                reason: r::CATALOG_RATE_LIMITED,
                ..
            }
        ));
        assert_eq!(
            answered(CatalogAnswer::NotFound { confirmed: false }),
            Situation::NotFound
        );
        let gone = answered(CatalogAnswer::NotFound { confirmed: true });
        assert_eq!(gone, Situation::Removed { kept: None });
        let bad = BadRecord {
            id: None,
            revision: None,
            field: "timeout".to_owned(),
            message: "is no duration".to_owned(),
        };
        let said = answered(CatalogAnswer::Bad(bad));
        assert_eq!(
            said,
            Situation::InvalidRecord("timeout: is no duration".to_owned())
        );
    }

    #[test]
    fn a_wrong_value_is_blamed_on_whoever_gave_it() {
        let mut wrong = record();
        wrong.timeout = Some("5us".to_owned());
        let seen = Inputs {
            catalog: CatalogAnswer::Record(Arc::new(wrong)),
            ..inputs(binding())
        };
        let Err(Situation::InvalidRecord(said)) = validated(&seen) else {
            panic!()
        };
        assert!(said.starts_with("timeout: "), "{said}");

        let mut own = binding();
        own.spec.traffic_policy = Some(Box::new(crate::api::service_binding::TrafficPolicy {
            retries: Some(-1),
            ..Default::default()
        }));
        let Err(Situation::InvalidBinding(said)) = validated(&inputs(own)) else {
            panic!()
        };
        assert!(said.starts_with("spec.trafficPolicy.retries"), "{said}");
    }

    #[test]
    fn the_record_of_another_service_counts_and_is_named() {
        let mut other = record();
        other.name = "api\n".to_owned();
        let seen = Inputs {
            catalog: CatalogAnswer::Record(Arc::new(other)),
            ..inputs(binding())
        };
        let mismatch = validated(&seen).unwrap().mismatch.unwrap();
        assert!(
            mismatch.contains(r#""api\n""#) && !mismatch.contains('\n'),
            "{mismatch}"
        );
    }

    #[test]
    fn a_frozen_binding_is_frozen_before_anything_else_counts() {
        let rule = Arc::new(foreign(
            crate::domain::desired::MeshKind::VirtualService,
            "shop",
            "web",
            HOST,
        ));
        let mut suspended = binding();
        suspended.spec.suspend = Some(true);
        let suspended = Inputs {
            rules: vec![Arc::clone(&rule)],
            ..inputs(suspended)
        };
        let paused = Inputs {
            paused_by: Some("shop".to_owned()),
            rules: vec![rule],
            ..inputs(binding())
        };
        for (seen, expected) in [(suspended, r::SUSPENDED_BY_BINDING), (paused, r::PAUSED)] {
            let found = before_the_catalog(&seen, &target(&seen), &settings());
            assert!(
                matches!(found, Some(Situation::Suspended { reason, .. }) if reason == expected),
                "{found:?}"
            );
        }
    }
}
