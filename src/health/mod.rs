//! Checks endpoints over HTTP and says what is held of each. Connects to the
//! addresses that it is given and to nobody else; resolves no names, follows no
//! redirect. Knows nothing of the cluster or the catalog.
//!
//! [`target`] says what to check; [`start`] gives the handle that takes it, the
//! [`HealthView`] that shows what came of it, and the task that does it. Inside,
//! `schedule` says who is
//! next of whom `roster` knows, `probe` asks one endpoint once, and `board`
//! keeps what follows, by the judges of `domain::health`.

mod board;
mod probe;
pub mod prober;
mod roster;
mod schedule;
pub mod target;
pub mod view;

use std::path::PathBuf;

use self::probe::net::NetProbe;
use self::prober::{Engine, Limits, Prober};
use self::view::HealthView;
use crate::metrics::health::HealthMetrics;

#[cfg(test)]
mod fixtures;

/// Why checks cannot be made at all.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up for health checks")]
pub struct StartError(#[from] rustls::Error);

/// Makes a prober: the handle that says what to check, the view of what came of
/// it, and the task that checks while it is polled and ends when it is dropped.
/// `mesh_certificates` is the folder with the workload certificate for mutual
/// TLS (`cert-chain.pem`, `key.pem`, `root-cert.pem`).
pub fn start(
    limits: Limits,
    mesh_certificates: Option<PathBuf>,
    metrics: HealthMetrics,
) -> Result<(Prober, HealthView, impl Future<Output = ()> + Send), StartError> {
    let probe = NetProbe::new(mesh_certificates)?;
    let (prober, view, engine) = Engine::new(probe, limits, metrics, fastrand::Rng::new());
    Ok((prober, view, engine.run()))
}
