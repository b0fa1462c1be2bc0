//! Catalog over binding over default, leaf field by leaf field, and the rules
//! for what belongs together. No IO.
//!
//! A rule that the merged values break is blamed on the giver of the later
//! value. The catalog's word comes first, so the later value is the binding's
//! as soon as one of the two is the binding's; a record is blamed for what it
//! does alone or with a default.

mod failures;
mod load;

use serde::Serialize;
use serde_json::Value;

use super::bounds::{Bounds, Limit};
use super::layer::PolicyLayer;
use super::{EffectivePolicy, Giver, PolicyError};
use super::{field, notes};
use crate::api::service_binding::{PolicyEntry, PolicySource};
use crate::domain::duration::Millis;

/// What came of the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The policy in effect.
    pub policy: EffectivePolicy,
    /// Each value of it with its source, in the order of the binding's schema.
    pub entries: Vec<PolicyEntry>,
    /// What is allowed, but hardly what was meant.
    pub notes: Vec<String>,
}

/// Most characters of a value in `status.policy`; the schema says the same.
const LONGEST_SHOWN: usize = 65_536;

/// Merges the layers; else says all that does not go together, at least one
/// thing.
pub fn merge(
    catalog: &PolicyLayer,
    binding: &PolicyLayer,
    bounds: &Bounds,
) -> Result<Merged, Vec<PolicyError>> {
    let mut merge = Merge {
        bounds,
        entries: Vec::new(),
        errors: Vec::new(),
    };
    let timeout = merge.leaf(
        field::TIMEOUT,
        catalog.timeout.as_ref(),
        binding.timeout.as_ref(),
    );
    let retries = merge.retries(&catalog.retries, &binding.retries);
    let attempts = retries.as_ref().map(|retries| retries.attempts());
    let outlier_detection = merge.outlier_detection(catalog, binding);
    let load_balancing = merge.load_balancing(
        &catalog.load_balancing,
        &binding.load_balancing,
        outlier_detection.as_ref(),
    );
    let connection_pool =
        merge.connection_pool(&catalog.connection_pool, &binding.connection_pool, attempts);
    let health_check =
        merge.health_check(catalog.health_check.as_ref(), binding.health_check.as_ref());
    if !merge.errors.is_empty() {
        return Err(merge.errors);
    }
    let policy = EffectivePolicy {
        timeout: timeout.map(|timeout| timeout.value),
        retries: retries.map(|retries| retries.policy),
        outlier_detection,
        load_balancing,
        connection_pool,
        health_check,
    };
    let notes = notes::of(&policy);
    Ok(Merged {
        policy,
        entries: merge.entries,
        notes,
    })
}

/// A value and who gave it.
#[derive(Clone, Debug)]
struct Sourced<T> {
    value: T,
    source: PolicySource,
}

/// The catalog's value where there is one, else the binding's.
fn first<T: Clone>(catalog: Option<&T>, binding: Option<&T>) -> Option<Sourced<T>> {
    let from = |source| {
        move |value: &T| Sourced {
            value: value.clone(),
            source,
        }
    };
    catalog
        .map(from(PolicySource::Catalog))
        .or_else(|| binding.map(from(PolicySource::Binding)))
}

/// Who gave the later of two values; a default is never to blame.
fn later(one: PolicySource, other: PolicySource) -> Giver {
    let binding = [one, other].contains(&PolicySource::Binding);
    if binding {
        Giver::Binding
    } else {
        Giver::Catalog
    }
}

/// A list may be longer than the status takes, which would then not be stored.
fn within(value: String) -> String {
    match value.char_indices().nth(LONGEST_SHOWN - 1) {
        Some((end, _)) if value[end..].chars().nth(1).is_some() => {
            format!("{}\u{2026}", &value[..end])
        }
        _ => value,
    }
}

/// A merge under way: what is in effect so far, and what does not go together.
struct Merge<'a> {
    bounds: &'a Bounds,
    entries: Vec<PolicyEntry>,
    errors: Vec<PolicyError>,
}

impl Merge<'_> {
    /// Puts a value that is in effect on the list.
    fn record<T: Serialize>(&mut self, field: &str, value: &T, source: PolicySource) {
        let value = match serde_json::to_value(value) {
            Ok(Value::String(text)) => text,
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        };
        let value = within(value);
        self.entries.push(PolicyEntry {
            field: field.to_owned(),
            value,
            source,
        });
    }

    /// A leaf without a default.
    fn leaf<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
    ) -> Option<Sourced<T>> {
        let leaf = first(catalog, binding)?;
        self.record(field, &leaf.value, leaf.source);
        Some(leaf)
    }

    /// A leaf whose value alone is wanted.
    fn value<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
    ) -> Option<T> {
        self.leaf(field, catalog, binding).map(|leaf| leaf.value)
    }

    /// A leaf with something to fall back to.
    fn leaf_or<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
        fallback: Sourced<T>,
    ) -> Sourced<T> {
        let leaf = first(catalog, binding).unwrap_or(fallback);
        self.record(field, &leaf.value, leaf.source);
        leaf
    }

    fn refuse(&mut self, giver: Giver, field: &str, message: String) {
        self.errors.push(PolicyError {
            giver,
            field: field::path(giver, field),
            message,
        });
    }

    fn default_time(&self, limit: Limit, time: Millis) -> Sourced<Millis> {
        let value = Millis(self.bounds.range(limit).nearest(time.0));
        Sourced {
            value,
            source: PolicySource::Default,
        }
    }

    fn default_number(&self, limit: Limit, number: u32) -> Sourced<u32> {
        let nearest = self.bounds.range(limit).nearest(u64::from(number));
        Sourced {
            value: u32::try_from(nearest).unwrap_or(u32::MAX),
            source: PolicySource::Default,
        }
    }
}
