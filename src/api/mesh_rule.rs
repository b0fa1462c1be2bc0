//! The part of any VirtualService or DestinationRule that says which hosts it
//! claims. Both kinds are read into one type; unknown fields are dropped while
//! parsing, so that a large mesh costs little memory.

use std::borrow::Cow;

use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::unmanaged;

/// A VirtualService or DestinationRule, ours or not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MeshRule {
    /// All but who manages which field.
    #[serde(deserialize_with = "unmanaged::metadata")]
    pub metadata: ObjectMeta,
    /// The hosts that it claims.
    pub spec: MeshRuleSpec,
}

/// Of which kind and version it is, whoever asks says.
impl Resource for MeshRule {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(asked: &ApiResource) -> Cow<'_, str> {
        asked.kind.as_str().into()
    }

    fn group(asked: &ApiResource) -> Cow<'_, str> {
        asked.group.as_str().into()
    }

    fn version(asked: &ApiResource) -> Cow<'_, str> {
        asked.version.as_str().into()
    }

    fn plural(asked: &ApiResource) -> Cow<'_, str> {
        asked.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is read of its spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct MeshRuleSpec {
    /// Hosts of a VirtualService.
    pub hosts: Vec<String>,
    /// Host of a DestinationRule.
    pub host: Option<String>,
    /// Gateways of a VirtualService; none means `mesh`.
    pub gateways: Vec<String>,
}
