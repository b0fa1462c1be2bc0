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

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::outcome;
use super::queue::state::{Lane, Next};
use crate::catalog::known::Presence;
use crate::domain::names::{BindingKey, CatalogServiceId};
use crate::metrics::reconcile::ReconcileResult;

/// How long comparing stands for a whole look.
const WHOLE: Duration = Duration::from_secs(600);

/// Bindings whose last look found all in force.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashMap<BindingKey, Sight>>);

/// What was seen when that look began, as one number, and when that was.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    seen: u64,
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

    /// Whether a look with this sight would find what the last one found.
    fn stands_for(&self, key: &BindingKey, now: Option<Sight>) -> bool {
        let (Some(then), Some(now)) = (self.lock().get(key).copied(), now) else {
            return false;
        };
        then.seen == now.seen && now.at.saturating_duration_since(then.at) < WHOLE
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, HashMap<BindingKey, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next key that is to be looked at. One whose period is over and around which
/// nothing changed has had its look by that.
pub async fn next(ctx: &Context) -> BindingKey {
    loop {
        let (key, lane) = ctx.queue.next().await;
        let begun = Instant::now();
        if lane != Lane::Period || !ctx.settled.stands_for(&key, sight(ctx, &key)) {
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

/// What a look at the binding would read now; nothing where that is not known by
/// versions alone, as while the catalog is not followed.
pub fn sight(ctx: &Context, key: &BindingKey) -> Option<Sight> {
    let at = Instant::now();
    if ctx.write_back.has_rival() {
        // Whether that one is gone is found out by looks.
        return None;
    }
    let (cluster, id) = ctx.world.versions(key)?;
    let position = ctx.known.position().filter(|_| ctx.known.is_live())?;
    let id = CatalogServiceId::parse(&id).ok()?;
    let Presence::Present(record) = ctx.known.presence(&id) else {
        return None;
    };
    let mut seen = DefaultHasher::new();
    (cluster, position.epoch, record.revision).hash(&mut seen);
    Some(Sight {
        seen: seen.finish(),
        at,
    })
}
