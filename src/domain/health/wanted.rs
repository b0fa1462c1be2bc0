//! What is to be checked for a binding?
//!
//! 1. Whatever its policy says: of the catalog first, then of the binding.
//! 2. Nothing where it is not in force, since another binding is for the
//!    Service, its Namespace is not allowed, the catalog no longer has the
//!    service and nothing is left of what was made, or the Service can carry no
//!    policy.
//! 3. Where it cannot be told, as while the catalog is away or the record is
//!    wrong, what was wanted until then stays, but for whether it is frozen.
//! 4. Who starts while it cannot be told goes by the policy that the binding's
//!    status says is in force.
//! 5. A frozen binding is checked, and nothing follows from it; nor does anything
//!    follow where its checks end while it is frozen.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::duration::Millis;
use super::super::inputs::{CatalogAnswer, Inputs, Settings};
use super::super::names::{CatalogServiceId, ServiceKey};
use super::super::policy::HealthCheck;
use super::super::situation::Situation;
use super::super::target::Target;
use super::super::{ownership, validate};

/// Share of the endpoints that may be out where no policy says so, in percent.
const PERCENT: u32 = 50;

/// What is to be checked for a binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Neither catalog nor binding asks for checks.
    NotConfigured,
    /// The binding is not in force.
    NotInForce,
    /// That is so, and the binding is frozen: who is out for it stays out.
    Frozen(Box<Wanted>),
    /// The endpoints of its Service.
    Check(Box<Subject>),
}

/// A Service whose endpoints are checked for a binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// The catalog's service.
    pub catalog_id: CatalogServiceId,
    /// The Service.
    pub service: ServiceKey,
    /// Its full host name.
    pub host: String,
    /// How they are checked.
    pub check: HealthCheck,
    /// Share of the ready endpoints that may be out, in percent.
    pub percent: u8,
    /// Whether the binding is suspended or paused, so that nothing moves.
    pub frozen: bool,
}

impl Wanted {
    /// What is wanted still where nothing better is known. Whoever freezes a
    /// binding may do so because of that.
    pub fn still(&self, inputs: &Inputs) -> Self {
        let frozen = validate::frozen(inputs).is_some();
        match self.clone() {
            Self::Check(mut subject) => {
                subject.frozen = frozen;
                Self::Check(subject)
            }
            Self::Frozen(ended) if !frozen => *ended,
            Self::NotConfigured | Self::NotInForce if frozen => {
                Self::Frozen(Box::new(self.clone()))
            }
            still => still,
        }
    }
}

/// Decides; nothing where what was wanted until now stays.
pub fn wanted(inputs: &Inputs, target: &Target, settings: &Settings) -> Option<Wanted> {
    unless_frozen(inputs, thawed(inputs, target, settings)?)
}

/// The end of checks has to wait until a binding is no longer frozen.
fn unless_frozen(inputs: &Inputs, wanted: Wanted) -> Option<Wanted> {
    let goes_on = matches!(wanted, Wanted::Check(_));
    let stays = !goes_on && validate::frozen(inputs).is_some();
    Some(if stays {
        Wanted::Frozen(Box::new(wanted))
    } else {
        wanted
    })
}

/// What it would want were it not frozen, and whether it is.
fn thawed(inputs: &Inputs, target: &Target, settings: &Settings) -> Option<Wanted> {
    let obstacle = ownership::obstacle(inputs, &target.service, settings);
    if obstacle.is_some_and(|obstacle| ownership::SHUT_OUT.contains(&obstacle.reason)) {
        return Some(Wanted::NotInForce);
    }
    if matches!(inputs.catalog, CatalogAnswer::NotFound { confirmed: true }) {
        // The brake may hold what was made: then the policy is in force.
        let status = inputs.binding.status.as_ref();
        let is_made = status.is_some_and(|status| !status.children.is_empty());
        return (!is_made).then_some(Wanted::NotInForce);
    }
    let valid = match validate::validate(inputs, target, settings) {
        Ok(valid) => valid,
        Err(Situation::ServiceUnusable { .. }) => return Some(Wanted::NotInForce),
        Err(_) => return None,
    };
    let policy = valid.binding.policy;
    let Some(check) = policy.health_check else {
        return Some(Wanted::NotConfigured);
    };
    let detection = policy.outlier_detection;
    let percent = detection.map_or(PERCENT, |outlier| outlier.max_ejection_percent);
    Some(Wanted::Check(Box::new(Subject {
        catalog_id: target.catalog_id.clone(),
        service: target.service.clone(),
        host: valid.binding.host,
        check,
        percent: u8::try_from(percent).unwrap_or(100).min(100),
        frozen: validate::frozen(inputs).is_some(),
    })))
}

/// What the binding wanted when its policy was written to its status, where that
/// is of its present generation and in force; nothing where that cannot be told.
pub fn remembered(inputs: &Inputs, target: &Target, settings: &Settings) -> Option<Wanted> {
    let status = inputs.binding.status.as_ref()?;
    let is_present = status.observed_generation == inputs.binding.metadata.generation;
    if !is_present || status.children.is_empty() || status.policy.is_empty() {
        return None;
    }
    let text = |field: &str| {
        let entry = status.policy.iter().find(|entry| entry.field == field)?;
        Some(entry.value.clone())
    };
    let Some(endpoint) = text("healthCheck.endpoint") else {
        return unless_frozen(inputs, Wanted::NotConfigured);
    };
    let millis = |field: &str| Millis::parse(&text(field)?).ok();
    let number = |field: &str| text(field)?.parse::<u32>().ok();
    let percent = number("trafficPolicy.circuitBreaker.maxEjectionPercent").unwrap_or(PERCENT);
    Some(Wanted::Check(Box::new(Subject {
        catalog_id: target.catalog_id.clone(),
        service: target.service.clone(),
        host: target.service.host(&settings.cluster_domain),
        check: HealthCheck {
            endpoint,
            interval: millis("healthCheck.interval")?,
            timeout: millis("healthCheck.timeout")?,
            port: match text("healthCheck.port") {
                Some(port) => Some(port.parse().ok()?),
                None => None,
            },
            scheme: word(text("healthCheck.scheme")?)?,
            failure_threshold: number("healthCheck.failureThreshold")?,
            success_threshold: number("healthCheck.successThreshold")?,
            confirm_interval: millis("healthCheck.confirmInterval")?,
            ejection: match text("healthCheck.ejection") {
                Some(mode) => Some(word(mode)?),
                None => None,
            },
        },
        percent: u8::try_from(percent).unwrap_or(100).min(100),
        frozen: validate::frozen(inputs).is_some(),
    })))
}

/// One of the words of the API.
fn word<T: DeserializeOwned>(text: String) -> Option<T> {
    serde_json::from_value(Value::String(text)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::policy::{EjectionMode, HealthCheck as Asked, HealthCheckScheme};
    use crate::api::service_binding::{ChildStatus, ServiceBinding, ServiceBindingStatus};
    use crate::domain::fixtures::{HOST, binding, inputs, settings, target};
    use crate::domain::inputs::Rival;
    use crate::domain::names::BindingKey;
    use crate::domain::record::BadRecord;

    fn asking() -> Inputs {
        let mut binding = binding();
        binding.spec.health_check = Some(Box::default());
        inputs(binding)
    }

    fn found(inputs: &Inputs) -> Option<Wanted> {
        wanted(inputs, &target(inputs), &settings())
    }

    fn subject(inputs: &Inputs) -> Subject {
        match found(inputs) {
            Some(Wanted::Check(subject)) => *subject,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_endpoints_of_a_service_with_a_check_are_checked_and_of_one_without_are_not() {
        let subject = subject(&asking());
        assert_eq!(subject.host, HOST);
        assert_eq!((subject.percent, subject.frozen), (50, false));
        assert_eq!(subject.check.endpoint, "/health");
        assert_eq!(found(&inputs(binding())), Some(Wanted::NotConfigured));
    }

    #[test]
    fn a_frozen_binding_is_checked() {
        let mut paused = asking();
        paused.paused_by = Some("shop".to_owned());
        assert!(subject(&paused).frozen);
    }

    fn not_in_force() -> Vec<Inputs> {
        let mut younger = asking();
        younger.rivals = vec![Rival {
            key: BindingKey::new("shop", "older"),
            created: 1,
            uid: "a".into(),
            made_for_catalog: false,
        }];
        let mut without = asking();
        without.service = None;
        let gone = CatalogAnswer::NotFound { confirmed: true };
        let removed = Inputs {
            catalog: gone,
            ..asking()
        };
        vec![younger, without, removed]
    }

    #[test]
    fn a_binding_that_is_not_in_force_checks_nothing() {
        for inputs in not_in_force() {
            assert_eq!(found(&inputs), Some(Wanted::NotInForce));
        }
    }

    #[test]
    fn what_ends_the_checks_of_a_frozen_binding_leaves_all_as_it_is() {
        let mut ended = not_in_force();
        ended.push(inputs(binding()));
        for mut inputs in ended {
            let thawed = found(&inputs).unwrap();
            assert!(!matches!(thawed, Wanted::Check(_)));
            inputs.paused_by = Some("shop".to_owned());
            let frozen = Wanted::Frozen(Box::new(thawed.clone()));
            assert_eq!(found(&inputs), Some(frozen.clone()));
            // Also where nothing better is known.
            assert_eq!(thawed.still(&inputs), frozen);
            inputs.paused_by = None;
            assert_eq!(frozen.still(&inputs), thawed);
        }
        let mut without_a_check = with_status(&inputs(binding()));
        without_a_check.paused_by = Some("shop".to_owned());
        let frozen = Wanted::Frozen(Box::new(Wanted::NotConfigured));
        assert_eq!(recalled(&without_a_check), Some(frozen));
    }

    /// The same binding with its policy in its status.
    fn with_status(inputs: &Inputs) -> Inputs {
        let valid = validate::validate(inputs, &target(inputs), &settings()).unwrap();
        let mut binding = ServiceBinding::clone(&inputs.binding);
        binding.status = Some(ServiceBindingStatus {
            observed_generation: binding.metadata.generation,
            children: vec![ChildStatus::default()],
            policy: valid.provenance,
            ..ServiceBindingStatus::default()
        });
        Inputs {
            binding: Arc::new(binding),
            catalog: CatalogAnswer::NotAsked,
            ..inputs.clone()
        }
    }

    fn recalled(inputs: &Inputs) -> Option<Wanted> {
        remembered(inputs, &target(inputs), &settings())
    }

    #[test]
    fn what_a_status_says_is_in_force_is_what_was_wanted() {
        let mut full = asking();
        let mut binding = ServiceBinding::clone(&full.binding);
        binding.spec.health_check = Some(Box::new(Asked {
            endpoint: Some("/ready?deep=1".to_owned()),
            interval: Some("1500ms".to_owned()),
            timeout: Some("700ms".to_owned()),
            port: Some(9_000),
            scheme: Some(HealthCheckScheme::Mtls),
            failure_threshold: Some(5),
            success_threshold: Some(4),
            confirm_interval: Some("90ms".to_owned()),
            ejection: Some(EjectionMode::OutlierOnly),
        }));
        full.binding = Arc::new(binding);
        for inputs in [full, asking(), inputs(crate::domain::fixtures::binding())] {
            let before = found(&inputs);
            assert!(before.is_some());
            assert_eq!(recalled(&with_status(&inputs)), before);
        }
    }

    #[test]
    fn a_status_that_is_not_of_now_says_nothing() {
        let now = with_status(&asking());
        let edited = |edit: fn(&mut ServiceBindingStatus)| {
            let mut binding = ServiceBinding::clone(&now.binding);
            edit(binding.status.as_mut().unwrap());
            recalled(&Inputs {
                binding: Arc::new(binding),
                ..now.clone()
            })
        };
        assert_eq!(edited(|status| status.observed_generation = Some(7)), None);
        assert_eq!(edited(|status| status.children.clear()), None);
        assert_eq!(edited(|status| status.policy.clear()), None);
        let wrong = |status: &mut ServiceBindingStatus| {
            status.policy.retain(|e| e.field != "healthCheck.interval");
        };
        assert_eq!(edited(wrong), None);
        assert_eq!(recalled(&asking()), None);
    }

    #[test]
    fn what_was_wanted_stays_while_nothing_better_is_known() {
        for catalog in [
            CatalogAnswer::NotAsked,
            CatalogAnswer::NotFound { confirmed: false },
            CatalogAnswer::Bad(BadRecord {
                id: None,
                revision: None,
                field: "timeout".to_owned(),
                message: "no duration".to_owned(),
            }),
        ] {
            let unknown = Inputs {
                catalog,
                ..asking()
            };
            assert_eq!(found(&unknown), None);
        }
        // What the brake holds is still in force.
        let mut held = asking();
        held.catalog = CatalogAnswer::NotFound { confirmed: true };
        let mut made = ServiceBinding::clone(&held.binding);
        made.status = Some(ServiceBindingStatus {
            children: vec![ChildStatus::default()],
            ..ServiceBindingStatus::default()
        });
        held.binding = Arc::new(made);
        assert_eq!(found(&held), None);
    }
}
