//! What we own of an object in the mesh: how it is applied, and how it is
//! recognised as unchanged. No IO.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::labels;
use crate::api::destination_rule::DestinationRuleSpec;
use crate::api::virtual_service::VirtualServiceSpec;

/// What the mesh is to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Applied first and removed last.
    pub destination_rule: DesiredObject,
    /// Applied last and removed first.
    pub virtual_service: DesiredObject,
}

/// A ServiceBinding as the owner of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnerRef {
    /// Name of the binding.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Kinds of the mesh that we write.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum MeshKind {
    /// How requests are routed.
    VirtualService,
    /// What holds once they are.
    DestinationRule,
}

impl MeshKind {
    /// The kind as Kubernetes has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
        }
    }
}

/// The spec of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum MeshSpec {
    /// Of a VirtualService.
    VirtualService(VirtualServiceSpec),
    /// Of a DestinationRule.
    DestinationRule(Box<DestinationRuleSpec>),
}

/// All that we own of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Our labels.
    pub labels: BTreeMap<String, String>,
    /// Our annotations.
    pub annotations: BTreeMap<String, String>,
    /// Our owner references.
    pub owner_references: Vec<OwnerRef>,
    /// Its spec, which decides its kind.
    pub spec: MeshSpec,
}

impl DesiredObject {
    /// Its kind.
    pub fn kind(&self) -> MeshKind {
        match self.spec {
            MeshSpec::VirtualService(_) => MeshKind::VirtualService,
            MeshSpec::DestinationRule(_) => MeshKind::DestinationRule,
        }
    }

    /// The object as it is applied, `api_version` as in
    /// `networking.istio.io/v1`.
    pub fn manifest(&self, api_version: &str) -> Value {
        let mut manifest = self.owned();
        manifest["apiVersion"] = Value::from(api_version);
        manifest
    }

    /// A fingerprint of all that we own of it: 32 hexadecimal digits, the same
    /// for whichever version of Istio's API it is applied by.
    pub fn hash(&self) -> String {
        let mut text = Vec::new();
        canonical(&self.owned(), &mut text);
        let digest = Sha256::digest(&text);
        digest
            .iter()
            .take(16)
            .fold(String::new(), |mut hash, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hash, "{byte:02x}");
                hash
            })
    }

    fn owned(&self) -> Value {
        // The specs are structs of strings, numbers and maps with string keys,
        // so that turning them into JSON cannot fail.
        let spec = match &self.spec {
            MeshSpec::VirtualService(spec) => json!(spec),
            MeshSpec::DestinationRule(spec) => json!(spec),
        };
        let mut metadata = json!({ "namespace": self.namespace, "name": self.name });
        if !self.labels.is_empty() {
            metadata["labels"] = json!(self.labels);
        }
        if !self.annotations.is_empty() {
            metadata["annotations"] = json!(self.annotations);
        }
        if !self.owner_references.is_empty() {
            metadata["ownerReferences"] =
                self.owner_references.iter().map(owner_reference).collect();
        }
        json!({ "kind": self.kind().as_str(), "metadata": metadata, "spec": spec })
    }
}

/// Neither `controller` nor `blockOwnerDeletion`: an adopted object may have a
/// controller already, and the finalizer keeps the order of removal.
fn owner_reference(owner: &OwnerRef) -> Value {
    json!({
        "apiVersion": labels::BINDING_API_VERSION,
        "kind": labels::BINDING_KIND,
        "name": owner.name,
        "uid": owner.uid,
    })
}

/// JSON with sorted keys. serde_json sorts them too, until some dependency
/// switches on its `preserve_order`; hashes must outlive that.
fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            out.push(b'{');
            for (key, value) in sorted {
                // Writing to memory cannot fail, nor turning text into JSON.
                let _ = serde_json::to_writer(&mut *out, key);
                out.push(b':');
                canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        scalar => {
            let _ = serde_json::to_writer(&mut *out, scalar);
        }
    }
}
