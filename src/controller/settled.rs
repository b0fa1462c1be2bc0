//! Which looks would find just what the last one found? A look that nobody asked
//! for, only because a period is over, compares versions: of the binding, of
//! everything in the cluster that a look reads, and of the catalog's record.
//!
//! 1. What was asked for is never passed over.
//! 2. Only a look that found all in force and wrote nothing stands for later ones:
//!    what waits, fails or is in doubt may end with time alone.
//! 3. What is compared was taken before that look, so that what changed under it
//!    counts as a change.
//! 4. Every ten minutes the whole look is made, whatever was compared.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::outcome;
use super::queue::state::{Lane, Next};
use super::world::touched::Stamp;
use crate::catalog::known::glimpse::Glimpse;
use crate::domain::dense::Dense;
use crate::domain::names::{BindingKey, CatalogServiceId};
use crate::metrics::reconcile::ReconcileResult;

/// How long comparing stands for a whole look.
const WHOLE: Duration = Duration::from_secs(600);

/// Bindings whose last look found all in force.
#[derive(Debug, Default)]
pub struct Settled(Mutex<Dense<BindingKey, Sight>>);

/// What was seen when that look began, and when that was.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Everything in the cluster, by its versions.
    versions: u64,
    /// As long as this holds, those need not be compared.
    stamp: Stamp,
    record: Glimpse,
    at: Instant,
}

impl Settled {
    /// The look that began with this sight found all in force, or did not.
    pub fn note(&self, key: &BindingKey, sight: Option<Sight>) {
        match sight {
            Some(sight) => self.lock().insert(key.clone(), sight),
            None => self.lock().remove(key),
        };
    }

    fn of(&self, key: &BindingKey) -> Option<Sight> {
        self.lock().get(key).cloned()
    }

    /// The versions are still the same, and so they are with this stamp.
    fn stamp(&self, key: &BindingKey, stamp: Stamp) {
        if let Some(sight) = self.lock().get_mut(key) {
            sight.stamp = stamp;
        }
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, Dense<BindingKey, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next key that is to be looked at. One whose period is over and around which
/// nothing changed has had its look by that.
pub async fn next(ctx: &Context) -> BindingKey {
    loop {
        let (key, lane) = ctx.queue.next().await;
        let begun = Instant::now();
        if lane != Lane::Period || !is_in_force(ctx, &key) {
            return key;
        }
        let result = ReconcileResult::RequeueAfter;
        let took = begun.elapsed().as_secs_f64();
        ctx.metrics.reconciles.ended(result, took);
        // Else one binding with a long period would seem to have stalled between
        // two whole looks.
        ctx.metrics.still_in_force();
        let period = outcome::period(ctx.options.period);
        ctx.queue.done(&key, Next::Settled(period), &[]);
    }
}

/// Whether a look would find what the last one found, which was all in force.
fn is_in_force(ctx: &Context, key: &BindingKey) -> bool {
    let Some(then) = ctx.settled.of(key) else {
        return false;
    };
    // Whether a rival is gone is found out by looks.
    if then.at.elapsed() >= WHOLE || ctx.write_back.has_rival() {
        return false;
    }
    if !ctx.known.is_still(&then.record) {
        return false;
    }
    if ctx.world.is_untouched_since(then.stamp) {
        return true;
    }
    match ctx.world.versions(key) {
        Some(now) if now.number == then.versions => {
            ctx.settled.stamp(key, now.stamp);
            true
        }
        _ => false,
    }
}

/// What a look at the binding would read now; nothing where that is not known by
/// versions alone, as while the catalog is not followed.
pub fn sight(ctx: &Context, key: &BindingKey) -> Option<Sight> {
    let at = Instant::now();
    if ctx.write_back.has_rival() {
        return None;
    }
    let now = ctx.world.versions(key)?;
    let id = CatalogServiceId::parse(&now.catalog_id).ok()?;
    Some(Sight {
        versions: now.number,
        stamp: now.stamp,
        record: ctx.known.glimpse(&id)?,
        at,
    })
}
