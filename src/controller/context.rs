//! What every reconciliation shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::brake::Brake;
use super::clients::Clients;
use super::cluster_id::Identity;
use super::denials::Denials;
use super::ejection::Ejector;
use super::error::WriteError;
use super::events::Events;
use super::leadership::Leadership;
use super::looks::Looks;
use super::mesh_api::MeshApi;
use super::monitor::Monitor;
use super::owed::Owed;
use super::queue::Queue;
use super::queue::room::Room;
use super::registrar::Registrar;
use super::settled::Settled;
use super::world::World;
use super::write_back::WriteBack;
use crate::api::policy::EjectionMode;
use crate::catalog::Catalog;
use crate::catalog::known::Known;
use crate::domain::brake::Limits;
use crate::domain::inputs::Settings;
use crate::domain::names::{BindingKey, CatalogServiceId};
use crate::domain::reasons;
use crate::metrics::Metrics;

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the decisions depend on.
    pub settings: Settings,
    /// Time between two looks at a binding that nobody touches.
    pub period: Duration,
    /// Most reconciliations at once.
    pub concurrency: u16,
    /// How far the brake lets removals go.
    pub limits: Limits,
    /// Whether nothing at all is written.
    pub read_only: bool,
    /// What happens to an unhealthy endpoint, unless its policy says otherwise.
    pub ejection: EjectionMode,
    /// The mesh's trust domain, by which a peer is known.
    pub trust_domain: String,
}

/// What every reconciliation shares.
pub struct Context {
    /// How the controller runs.
    pub options: Options,
    /// Clients of the API server.
    pub clients: Clients,
    /// Who this cluster is towards the catalog.
    pub cluster: Identity,
    /// Version of Istio's API.
    pub mesh_api: MeshApi,
    /// What the cluster holds.
    pub world: World,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// What is known of the catalog without asking it.
    pub known: Arc<Known>,
    /// Whether this process may write.
    pub leadership: Leadership,
    /// What the catalog is told.
    pub write_back: Arc<WriteBack>,
    /// What is known of who is to be out of the mesh.
    pub ejector: Ejector,
    /// Whose endpoints are checked, and what is known of their health.
    pub monitor: Monitor,
    /// What is due.
    pub queue: Queue,
    /// Which Services get a binding because of the catalog.
    pub registrar: Registrar,
    /// Kubernetes Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Metrics,
    /// What is remembered between two looks and may be lost.
    pub memory: Memory,
    /// What the last looks came to, for people who ask.
    pub looks: Looks,
    /// Statuses that gave way to what the mesh needs.
    pub owed: Owed,
    /// Bindings whose last look found all in force.
    pub settled: Settled,
}

/// How long an outage is spoken of in the same words.
const WORDS_LAST: Duration = Duration::from_secs(60);

/// What is remembered between two looks. Losing it costs a second read or a
/// second try, nothing else.
#[derive(Debug, Default)]
pub struct Memory {
    /// The brake on removals.
    pub brake: Brake,
    /// Writes that the API server denied a moment ago.
    pub denials: Denials,
    not_found: Mutex<HashMap<BindingKey, NotFound>>,
    taken_back: Mutex<HashMap<String, HashMap<String, Instant>>>,
    fights: Mutex<HashMap<String, Fight>>,
    outages: Mutex<HashMap<Room, (Outage, Instant)>>,
}

/// Why something that many bindings need was away when it was tried last, as
/// a condition says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outage {
    /// Reason of the condition.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// The catalog said for a binding that there is no such service.
#[derive(Debug)]
struct NotFound {
    /// The binding's.
    uid: String,
    id: CatalogServiceId,
    since: Instant,
}

/// Somebody else holds fields of an object of ours, and we let him.
#[derive(Clone, Debug)]
pub struct Fight {
    /// Since when.
    pub since: Instant,
    /// Version of the object, and hash of what we wanted to store.
    pub about: (String, String),
    /// What is said about it.
    pub error: WriteError,
}

impl Memory {
    /// What was said when the room's matter was last found to be away.
    pub fn outage(&self, room: Room) -> Outage {
        let outages = lock(&self.outages);
        let unknown = || Outage {
            reason: match room {
                Room::Catalog => reasons::CATALOG_UNAVAILABLE,
                Room::Writes | Room::Rights => reasons::WRITE_REFUSED,
            },
            message: "it is tried again every few seconds".to_owned(),
        };
        outages
            .get(&room)
            .map_or_else(unknown, |(outage, _)| outage.clone())
    }

    /// The room's matter was found to be away. Returns what is said about it:
    /// a server that restarts breaks connections first and refuses them then,
    /// and not every binding is to be written again at each turn.
    pub fn went_away(&self, room: Room, reason: &'static str, message: &str) -> Outage {
        let mut outages = lock(&self.outages);
        let fresh = || {
            let message = message.to_owned();
            (Outage { reason, message }, Instant::now())
        };
        let (outage, since) = outages.entry(room).or_insert_with(fresh);
        if outage.reason != reason || since.elapsed() >= WORDS_LAST {
            (*outage, *since) = fresh();
        }
        outage.clone()
    }

    /// The room's matter was found to be there.
    pub fn came_back(&self, room: Room) {
        lock(&self.outages).remove(&room);
    }

    /// The catalog said for the binding, which has that uid, that there is no
    /// such service. Returns how long ago it said so first.
    pub fn not_found(&self, key: &BindingKey, uid: &str, id: &CatalogServiceId) -> Duration {
        let mut seen = lock(&self.not_found);
        let now = || NotFound {
            uid: uid.to_owned(),
            id: id.clone(),
            since: Instant::now(),
        };
        let first = seen.entry(key.clone()).or_insert_with(now);
        // Another service's absence confirms nothing, nor does what was said
        // for another binding that had the name.
        if first.id != *id || first.uid != uid {
            *first = now();
        }
        first.since.elapsed()
    }

    /// How long ago the catalog said so first for the binding, which has that
    /// uid.
    pub fn not_found_for(&self, key: &BindingKey, uid: &str) -> Duration {
        let seen = lock(&self.not_found);
        let of = seen.get(key).filter(|of| of.uid == uid);
        of.map_or(Duration::ZERO, |of| of.since.elapsed())
    }

    /// The catalog said something else, or the binding is gone.
    pub fn found(&self, key: &BindingKey) {
        lock(&self.not_found).remove(key);
    }

    /// For how many bindings the catalog said so last.
    #[cfg(test)]
    pub(crate) fn count_not_found(&self) -> usize {
        lock(&self.not_found).len()
    }

    /// Whether one of the fields of the object of that uid was taken back by
    /// force within the time.
    pub fn taken_back(&self, uid: &str, fields: &[String], within: Duration) -> bool {
        let taken = lock(&self.taken_back);
        let recent = |at: &Instant| at.elapsed() < within;
        taken
            .get(uid)
            .is_some_and(|of| fields.iter().any(|field| of.get(field).is_some_and(recent)))
    }

    /// These fields of the object of that uid are taken back by force.
    pub fn take_back(&self, uid: &str, fields: &[String], within: Duration) {
        let mut taken = lock(&self.taken_back);
        taken.retain(|_, of| {
            of.retain(|_, at| at.elapsed() < within);
            !of.is_empty()
        });
        let now = fields.iter().map(|field| (field.clone(), Instant::now()));
        taken.entry(uid.to_owned()).or_default().extend(now);
    }

    /// What is said about the object of that uid, where this very write was
    /// given up within the time.
    pub fn given_up(
        &self,
        uid: &str,
        about: &(String, String),
        within: Duration,
    ) -> Option<WriteError> {
        let fights = lock(&self.fights);
        let fight = fights
            .get(uid)
            .filter(|f| f.about == *about && f.since.elapsed() < within)?;
        Some(fight.error.clone())
    }

    /// A write to the object of that uid is given up.
    pub fn give_up(&self, uid: &str, fight: Fight, within: Duration) {
        let mut fights = lock(&self.fights);
        fights.retain(|_, fight| fight.since.elapsed() < within);
        fights.insert(uid.to_owned(), fight);
    }
}

/// Each value in here is whole by itself, so a poisoned lock is used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_spoken_of_in_the_same_words_for_a_while() {
        let memory = Memory::default();
        let says = |reason, message| memory.went_away(Room::Catalog, reason, message).message;
        let away = reasons::CATALOG_UNAVAILABLE;
        assert_eq!(says(away, "closed"), "closed");
        for _ in 0..30 {
            assert_eq!(says(away, "refused"), "closed");
            assert_eq!(memory.outage(Room::Catalog).message, "closed");
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert_eq!(says(away, "refused"), "refused");
        // Another kind of fault is news, and so is another outage.
        assert_eq!(says(reasons::CATALOG_UNAUTHORIZED, "401"), "401");
        assert_eq!(says(away, "closed"), "closed");
        memory.came_back(Room::Catalog);
        assert_eq!(says(away, "refused"), "refused");
    }
}
