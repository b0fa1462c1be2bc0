//! The part of any VirtualService or DestinationRule that says which hosts it
//! claims. Both kinds are read into one type; unknown fields are dropped while
//! parsing, so that a large mesh costs little memory.

use kube::core::{NotUsed, Object};
use serde::{Deserialize, Serialize};

/// A VirtualService or DestinationRule, ours or not.
pub type MeshRule = Object<MeshRuleSpec, NotUsed>;

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
