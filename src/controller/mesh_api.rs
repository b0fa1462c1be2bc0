//! Under which version the API server serves Istio's networking kinds.

use std::sync::{PoisonError, RwLock};

use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind};
use kube::{Api, Client};

use super::apply::in_time;
use crate::domain::desired::MeshKind;
use crate::domain::served::WHOLE;

const GROUP: &str = "networking.istio.io";

/// The version in use: v1, or v1beta1 where v1 is not served (Istio before
/// 1.22). All versions share one schema.
#[derive(Debug)]
pub struct MeshApi {
    version: RwLock<&'static str>,
}

impl Default for MeshApi {
    fn default() -> Self {
        Self {
            version: RwLock::new("v1"),
        }
    }
}

impl MeshApi {
    /// `group/version`, as in an object's apiVersion.
    pub fn api_version(&self) -> String {
        format!("{GROUP}/{}", self.version())
    }

    /// The resource of that kind.
    pub fn resource(&self, kind: MeshKind) -> ApiResource {
        ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, self.version(), kind.as_str()))
    }

    /// All objects of that kind, for a watch.
    pub fn all<K>(&self, client: &Client, kind: MeshKind) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource>,
    {
        Api::all_with(client.clone(), &self.resource(kind))
    }

    /// The objects of that kind in one part of the cluster, for a watch.
    pub(crate) fn of<K>(&self, client: &Client, kind: MeshKind, part: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        if part == WHOLE {
            return self.all(client, kind);
        }
        Api::namespaced_with(client.clone(), part, &self.resource(kind))
    }

    /// Asks the API server which versions it serves and takes the best one.
    /// Leaves the version as it is where the question cannot be answered.
    pub async fn discover(&self, client: &Client) {
        let Ok(groups) = in_time(client.list_api_groups()).await else {
            return;
        };
        let served = groups
            .groups
            .into_iter()
            .filter(|g| g.name == GROUP)
            .flat_map(|g| g.versions);
        let served: Vec<_> = served.map(|v| v.version).collect();
        if let Some(best) = ["v1", "v1beta1"]
            .into_iter()
            .find(|v| served.iter().any(|s| s == v))
        {
            *self.version.write().unwrap_or_else(PoisonError::into_inner) = best;
        }
    }

    fn version(&self) -> &'static str {
        *self.version.read().unwrap_or_else(PoisonError::into_inner)
    }
}
