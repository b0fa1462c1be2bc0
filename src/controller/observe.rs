//! All reads of one look: the world as it is cached, and the catalog.

use std::time::Duration;

use super::context::{Context, Outage};
use super::queue::room::Room;
use crate::catalog::error::CatalogError;
use crate::catalog::known::{Known, Presence};
use crate::domain::brake::CatalogView;
use crate::domain::inputs::{CatalogAnswer, Inputs};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceRecord};
use crate::domain::{reasons, validate};

/// How long after the first NotFound a second one counts as confirmation.
pub(crate) const CONFIRM_AFTER: Duration = Duration::from_millis(250);

/// Asks the catalog for the binding's record.
///
/// Reads the catalog only; cancelling it loses nothing. While others wait for
/// the catalog to come back, only those that were sent to find out ask.
pub(crate) async fn ask_catalog(
    ctx: &Context,
    inputs: &Inputs,
    id: &CatalogServiceId,
) -> CatalogAnswer {
    let key = validate::key(&inputs.binding);
    if !ctx.queue.may_try(&key, Room::Catalog) {
        // In the words of whoever tried last, so that all say the same.
        let Outage { reason, message } = ctx.memory.outage(Room::Catalog);
        return CatalogAnswer::Unavailable { reason, message };
    }
    let uid = inputs.binding.metadata.uid.as_deref().unwrap_or_default();
    let answer = ctx.catalog.get_service(id).await;
    if !matches!(answer, Err(CatalogError::NotFound)) {
        ctx.memory.found(&key);
    }
    match answer {
        Ok(record) => CatalogAnswer::Record(record),
        Err(CatalogError::NotFound) => {
            let confirmed = ctx.memory.not_found(&key, uid, id) >= CONFIRM_AFTER;
            if !ctx.world.has(&key) {
                // It went while the catalog was asked.
                ctx.memory.found(&key);
            }
            CatalogAnswer::NotFound { confirmed }
        }
        Err(CatalogError::BadRecord(bad)) => CatalogAnswer::Bad(bad),
        Err(error) => {
            let Outage { reason, message } =
                ctx.memory
                    .went_away(Room::Catalog, reason(&error), &words(&error));
            CatalogAnswer::Unavailable { reason, message }
        }
    }
}

/// What the brake has to know of the catalog about this service.
pub(crate) fn catalog_view(known: &Known, id: &CatalogServiceId) -> CatalogView {
    let before = known.position();
    let absent = matches!(known.presence(id), Presence::Absent { .. });
    let nothing_at = known.listed_nothing_at(id);
    let present = known.position();
    CatalogView {
        // Both have to be of one history, and it has to be followed.
        absent: absent && same_epoch(before.as_ref(), present.as_ref()),
        present: present.filter(|_| known.is_live()),
        nothing_at,
    }
}

/// Where a record that was read is in the catalog's history, if that was known
/// before the read and is still the same.
pub(crate) fn record_seen(
    before: Option<&CatalogPosition>,
    record: &ServiceRecord,
    after: Option<CatalogPosition>,
) -> Option<CatalogPosition> {
    let CatalogPosition { epoch, .. } = after.filter(|after| same_epoch(before, Some(after)))?;
    Some(CatalogPosition {
        epoch,
        revision: record.revision,
    })
}

fn same_epoch(before: Option<&CatalogPosition>, after: Option<&CatalogPosition>) -> bool {
    before.map(|position| &position.epoch) == after.map(|position| &position.epoch)
}

/// What a condition says of the error. It must not change from one try to the
/// next, so the seconds of a Retry-After are left out.
fn words(error: &CatalogError) -> String {
    match error {
        CatalogError::RateLimited { message, .. } => {
            format!("the catalog asks to be left alone for a while: {message}")
        }
        other => other.to_string(),
    }
}

fn reason(error: &CatalogError) -> &'static str {
    match error {
        CatalogError::RateLimited { .. } => reasons::CATALOG_RATE_LIMITED,
        CatalogError::Unauthorized { .. } => reasons::CATALOG_UNAUTHORIZED,
        CatalogError::Unavailable { .. } | CatalogError::NotFound | CatalogError::BadRecord(_) => {
            reasons::CATALOG_UNAVAILABLE
        }
    }
}
