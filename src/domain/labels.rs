//! Every name of our own that stands in an object of the cluster. No IO.

/// Field manager, event reporter, lease, and the value of the label that marks
/// what we wrote.
pub const MANAGER: &str = "catalog-mesh-controller";

/// Group and version of a ServiceBinding.
pub const BINDING_API_VERSION: &str = "aikernel.io/v1alpha1";

/// Kind of a ServiceBinding.
pub const BINDING_KIND: &str = "ServiceBinding";

/// On every object that we write, with [`MANAGER`] as its value.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// On a binding that was made for an entry of the catalog: `catalog`.
pub const LABEL_SOURCE: &str = "catalog-mesh.aikernel.io/source";

/// The value of [`LABEL_SOURCE`].
pub const SOURCE_CATALOG: &str = "catalog";

/// On what we wrote: uid of the binding that it belongs to.
pub const ANNOTATION_BINDING_UID: &str = "catalog-mesh.aikernel.io/binding-uid";

/// On what we wrote: namespace and name of that binding, for people.
pub const ANNOTATION_BINDING: &str = "catalog-mesh.aikernel.io/binding";

/// On somebody else's VirtualService or DestinationRule: `true` hands it over.
pub const ANNOTATION_ADOPT: &str = "catalog-mesh.aikernel.io/adopt";

/// On a Service: `true` keeps the catalog from making a binding for it.
pub const ANNOTATION_IGNORE: &str = "catalog-mesh.aikernel.io/ignore";

/// On a Namespace: the namespaces whose bindings may name its Services.
pub const ANNOTATION_ALLOW_FROM: &str = "catalog-mesh.aikernel.io/allow-bindings-from";

/// On a Namespace: `true` freezes all that we do there.
pub const ANNOTATION_PAUSED: &str = "catalog-mesh.aikernel.io/paused";

/// On a binding: the place in the catalog's history whose deletions are
/// approved, as `<epoch>.<revision>`.
pub const ANNOTATION_APPROVE_DELETION: &str = "catalog-mesh.aikernel.io/approve-deletion";

/// On a Pod that we took out of the mesh: for which bindings, since when and
/// why, as JSON.
pub const ANNOTATION_EJECTED: &str = "catalog-mesh.aikernel.io/ejected";

/// On every binding, until what was made for it is gone.
pub const FINALIZER: &str = "catalog-mesh.aikernel.io/cleanup";

/// What our own names in an object's annotations begin with.
pub const PREFIX: &str = "catalog-mesh.aikernel.io/";

/// On the Lease, below [`PREFIX`]: what was removed lately because of the catalog.
pub const NOTE_REMOVALS: &str = "removals";

/// On the Lease: the number of the term.
pub const ANNOTATION_EPOCH: &str = "catalog-mesh.aikernel.io/epoch";
