//! What the catalog makes in the cluster, and takes out of it: flags of `run`
//! and `diff`.

use clap::{Args, ValueEnum};

use crate::domain::brake::{Limits, SyncPolicy};
use crate::domain::names::Namespace;
use crate::domain::registration::Scope;
use crate::domain::selector::LabelSelector;
use crate::domain::served::Served;

/// Which services of the catalog get a binding by themselves.
#[derive(Args, Clone, Debug)]
pub struct RegisterArgs {
    /// Whether a ServiceBinding is made for each service of the catalog whose
    /// Service is in the cluster and has none.
    #[arg(
        long = "register",
        env = "CATALOG_MESH_REGISTER",
        value_name = "on|off",
        default_value = "on"
    )]
    pub on: Switch,

    /// Make bindings in these namespaces only, separated by commas.
    #[arg(
        long = "register-namespaces",
        env = "CATALOG_MESH_REGISTER_NAMESPACES",
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = Namespace::parse
    )]
    pub namespaces: Vec<Namespace>,

    /// Make bindings only for Services with these labels, such as
    /// `mesh=yes,tier!=test,public,!internal`.
    #[arg(
        long = "register-service-labels",
        env = "CATALOG_MESH_REGISTER_SERVICE_LABELS",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    pub service_labels: LabelSelector,

    /// Make bindings only for records with these labels in the catalog.
    #[arg(
        long = "register-catalog-labels",
        env = "CATALOG_MESH_REGISTER_CATALOG_LABELS",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    pub record_labels: LabelSelector,
}

impl RegisterArgs {
    /// The same as the core needs it.
    pub fn scope(&self, served: &Served) -> Scope {
        let namespaces = if self.namespaces.is_empty() && !served.is_all() {
            served.parts()
        } else {
            self.namespaces.iter().map(ToString::to_string).collect()
        };
        Scope {
            on: self.on == Switch::On,
            namespaces,
            service_labels: self.service_labels.clone(),
            record_labels: self.record_labels.clone(),
        }
    }
}

/// What goes because of the catalog.
#[derive(Args, Clone, Debug)]
pub struct BrakeArgs {
    /// Whether what was made for a service goes when the catalog no longer has
    /// it: `sync` removes it, `upsert-only` never does.
    #[arg(
        long,
        env = "CATALOG_MESH_POLICY",
        value_name = "POLICY",
        default_value = "sync"
    )]
    pub policy: Policy,

    /// Share of the bindings, in percent, that may lose what was made for them
    /// within ten minutes because the catalog no longer has their services. One
    /// is always allowed, also where this is 0; `--policy=upsert-only` allows
    /// none.
    #[arg(
        long,
        env = "CATALOG_MESH_MAX_DELETE_PERCENT",
        value_name = "PERCENT",
        default_value_t = 20,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub max_delete_percent: u8,
}

impl BrakeArgs {
    /// The same as the core needs it.
    pub fn limits(&self) -> Limits {
        Limits {
            policy: self.policy.into(),
            percent: self.max_delete_percent,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Whether what the catalog no longer has is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Policy {
    /// It is.
    Sync,
    /// It never is.
    UpsertOnly,
}

impl From<Policy> for SyncPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Sync => Self::Sync,
            Policy::UpsertOnly => Self::UpsertOnly,
        }
    }
}
