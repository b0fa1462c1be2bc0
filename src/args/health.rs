//! How endpoints are checked, and what happens to unhealthy ones: flags of
//! `run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::sync::Switch;
use crate::domain::names::ClusterDomain;

/// How endpoints are checked, and what follows.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// What happens to an endpoint that fails its health check, unless its
    /// `healthCheck.ejection` says otherwise: `draining` takes its Pod out of
    /// every proxy, `outlier-only` leaves it to a tightened outlier detection,
    /// `observe` says in the log what `draining` would do, `off` does nothing.
    #[arg(
        long,
        env = "CATALOG_MESH_EJECTION",
        value_name = "MODE",
        default_value = "draining"
    )]
    pub ejection: Ejection,

    /// Folder with the workload certificate for checks with the scheme MTLS:
    /// `cert-chain.pem`, `key.pem` and `root-cert.pem`, read again when they
    /// change.
    #[arg(long, env = "CATALOG_MESH_MESH_CERT_DIR", value_name = "FOLDER")]
    pub mesh_cert_dir: Option<PathBuf>,

    /// Trust domain of the mesh: whom a check with the scheme MTLS believes.
    #[arg(
        long,
        env = "CATALOG_MESH_MESH_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local",
        value_parser = super::cluster_domain
    )]
    pub mesh_trust_domain: ClusterDomain,

    /// Most health checks at once.
    #[arg(long, env = "CATALOG_MESH_HEALTH_CONCURRENCY", value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub health_concurrency: u16,

    /// Whether `catalog_mesh_health_check_total` has a series for each service;
    /// `off` for fleets of which Prometheus would get too many.
    #[arg(
        long,
        env = "CATALOG_MESH_HEALTH_SERVICE_LABEL",
        value_name = "on|off",
        default_value = "on"
    )]
    pub health_service_label: Switch,
}

/// What happens to an endpoint that is unhealthy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Ejection {
    /// Its Pod is labelled, and every proxy drops it.
    Draining,
    /// It stays; Envoy's outlier detection is tightened.
    OutlierOnly,
    /// Nothing; the log says what `draining` would do.
    Observe,
    /// Nothing.
    Off,
}
