//! What every reconciliation shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Clients;
use super::events::Events;
use super::mesh_api::MeshApi;
use super::queue::Queue;
use super::queue::room::Room;
use super::world::World;
use crate::catalog::Catalog;
use crate::domain::brake::Brake;
use crate::domain::inputs::Settings;
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
    /// Share of the bindings whose objects may be removed within ten minutes
    /// because the catalog no longer has their services, in percent.
    pub max_delete_percent: u8,
    /// Whether nothing at all is written.
    pub read_only: bool,
}

/// What every reconciliation shares.
pub struct Context {
    /// How the controller runs.
    pub options: Options,
    /// Clients of the API server.
    pub clients: Clients,
    /// Version of Istio's API.
    pub mesh_api: MeshApi,
    /// What the cluster holds.
    pub world: World,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// What is due.
    pub queue: Queue,
    /// Kubernetes Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Metrics,
    /// What is remembered between two looks and may be lost.
    pub memory: Memory,
}

/// What is remembered between two looks. Losing it costs a second read or a
/// second try, nothing else.
#[derive(Debug, Default)]
pub struct Memory {
    not_found: Mutex<HashMap<String, Instant>>,
    forced: Mutex<HashMap<String, Forced>>,
    brake: Mutex<Brake>,
    outages: Mutex<HashMap<Room, Outage>>,
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

/// That a field was taken back by force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forced {
    /// When.
    pub at: Instant,
    /// From whom.
    pub manager: String,
    /// Which fields.
    pub fields: String,
}

impl Memory {
    /// The brake on removals.
    pub fn brake(&self) -> MutexGuard<'_, Brake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said when the room's matter was last found to be away.
    pub fn outage(&self, room: Room) -> Outage {
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = || Outage {
            reason: match room {
                Room::Catalog => reasons::CATALOG_UNAVAILABLE,
                Room::Writes => reasons::WRITE_REFUSED,
            },
            message: "it is tried again every few seconds".to_owned(),
        };
        outages.get(&room).cloned().unwrap_or_else(unknown)
    }

    /// The room's matter was found to be away.
    pub fn went_away(&self, room: Room, reason: &'static str, message: &str) {
        let message = message.to_owned();
        self.outages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(room, Outage { reason, message });
    }

    /// The catalog said NotFound for the binding of that uid. Returns how
    /// long ago it said so first.
    pub fn not_found(&self, uid: &str) -> Duration {
        let mut seen = self
            .not_found
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        seen.entry(uid.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
    }

    /// The catalog said something else.
    pub fn found(&self, uid: &str) {
        self.not_found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }

    /// When fields of the object of that uid were last taken back by force,
    /// if that was within the time.
    pub fn forced(&self, uid: &str, within: Duration) -> Option<Forced> {
        let forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        forced.get(uid).filter(|f| f.at.elapsed() < within).cloned()
    }

    /// Fields of the object of that uid were taken back by force.
    pub fn force(&self, uid: &str, forced: Forced, within: Duration) {
        let mut all = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, f| f.at.elapsed() < within);
        all.insert(uid.to_owned(), forced);
    }
}
