//! What does a binding want to have checked, as far as that is known now?

use std::sync::Arc;

use super::super::context::Context;
use crate::api::service_binding::ServiceBinding;
use crate::catalog::known::Presence;
use crate::domain::health::wanted::{Wanted, remembered, wanted};
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::record::ServiceRecord;
use crate::domain::validate;

/// What is found of a binding.
pub(super) enum Look {
    /// It is gone, or about to be.
    Gone,
    /// It is there, and wants this, as far as that is known.
    There(Option<Wanted>),
}

/// What the binding wants, by what is known of everything around it.
pub(super) fn look(
    ctx: &Context,
    key: &BindingKey,
    record: Option<&Arc<ServiceRecord>>,
    kept: Option<&Wanted>,
) -> Look {
    let there = |binding: &Arc<ServiceBinding>| binding.metadata.deletion_timestamp.is_none();
    let Some(binding) = ctx.world.binding(key).filter(there) else {
        return Look::Gone;
    };
    let Ok(target) = validate::target(&binding) else {
        return Look::There(None);
    };
    let mut inputs = ctx.world.inputs(binding, &target);
    inputs.catalog = match ctx.known.presence(&target.catalog_id) {
        Presence::Present(record) => CatalogAnswer::Record(record),
        Presence::Absent { .. } => CatalogAnswer::NotFound { confirmed: true },
        Presence::Unreadable(bad) => CatalogAnswer::Bad(bad),
        Presence::Unknown => record
            .filter(|record| record.id == target.catalog_id.as_str())
            .map_or(CatalogAnswer::NotAsked, |record| {
                CatalogAnswer::Record(Arc::clone(record))
            }),
    };
    let settings = &ctx.options.settings;
    let known = wanted(&inputs, &target, settings);
    Look::There(known.or_else(|| match kept {
        Some(kept) => Some(kept.still(&inputs)),
        None => remembered(&inputs, &target, settings),
    }))
}
