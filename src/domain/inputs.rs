//! What one look at a binding saw: everything that the decision depends on,
//! as plain values.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::label_set::LabelSet;
use super::names::BindingKey;
use super::ports::ServicePort;
use super::record::{BadRecord, ServiceRecord};
use super::rule::Rule;
use super::uid::Uid;
use crate::api::service_binding::ServiceBinding;

/// What one look at a binding saw.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The binding itself.
    pub binding: Arc<ServiceBinding>,
    /// What the catalog answered.
    pub catalog: CatalogAnswer,
    /// The Kubernetes Service that the binding names, if it is there.
    pub service: Option<ServiceView>,
    /// What the Namespace of that Service says.
    pub target: NamespaceView,
    /// Which Namespace is paused: this binding's, its Service's, or the
    /// operator's own, which pauses everything.
    pub paused_by: Option<String>,
    /// Other bindings that name the same Service.
    pub rivals: Vec<Rival>,
    /// The VirtualServices and DestinationRules that bear the Service's name
    /// in its namespace, or claim its host from anywhere.
    pub rules: Vec<Arc<Rule>>,
    /// Of the binding uids that `rules` name, those that exist, or may as far as
    /// bindings could be listed; an object of ours that names another one is an
    /// orphan.
    pub living: BTreeSet<Uid>,
    /// Why the mesh's API cannot be seen, where it cannot.
    pub mesh_api_missing: Option<String>,
}

/// What the catalog answered.
#[derive(Clone, Debug, PartialEq)]
pub enum CatalogAnswer {
    /// The service's record.
    Record(Arc<ServiceRecord>),
    /// No answer; the reason is one of `reasons`.
    Unavailable {
        /// Why, as a condition reason.
        reason: &'static str,
        /// Why, in words.
        message: String,
    },
    /// There is no such service.
    NotFound {
        /// Whether a second read, some time later, said the same, and so did
        /// a complete list or an event.
        confirmed: bool,
    },
    /// The record cannot be understood.
    Bad(BadRecord),
    /// Not asked, since the answer would change nothing.
    NotAsked,
}

/// A Kubernetes Service as far as the decision needs it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceView {
    /// Whether it has no cluster IP: proxies then do not balance it.
    pub headless: bool,
    /// The name outside of the cluster that it stands for, if it does.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether its owner opted out.
    pub ignored: bool,
    /// Its labels.
    pub labels: LabelSet,
}

/// A Namespace as far as the decision needs it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamespaceView {
    /// Namespaces whose bindings may name a Service of this one.
    pub allow_from: BTreeSet<String>,
    /// Whether our work in it is paused.
    pub paused: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// Another binding for the same Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rival {
    /// Who it is.
    pub key: BindingKey,
    /// When it was made, as seconds since 1970.
    pub created: i64,
    /// Its uid; decides where both were made in the same second.
    pub uid: Uid,
    /// Whether it was made for an entry of the catalog; a user's goes first.
    pub made_for_catalog: bool,
}

/// Settings of the operator that the decision depends on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's domain, `cluster.local` by default.
    pub cluster_domain: super::names::ClusterDomain,
    /// Istio's root namespace, `istio-system` by default.
    pub root_namespace: String,
    /// Whether locality is left to the mesh's own settings.
    pub mesh_locality: bool,
    /// Which namespaces are served.
    pub served: super::served::Served,
    /// Bounds of the values that are accepted.
    pub bounds: super::policy::bounds::Bounds,
}
