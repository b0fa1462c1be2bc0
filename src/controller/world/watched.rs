//! Which kinds are watched, and which of them are known: the first lists.

use super::World;

/// A kind that is watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Watched {
    /// ServiceBindings.
    Bindings,
    /// Services.
    Services,
    /// Namespaces.
    Namespaces,
    /// VirtualServices.
    VirtualServices,
    /// DestinationRules.
    DestinationRules,
    /// EndpointSlices.
    EndpointSlices,
    /// Pods.
    Pods,
}

/// Every kind that is watched.
pub const WATCHED: [Watched; 7] = [
    Watched::Bindings,
    Watched::Services,
    Watched::Namespaces,
    Watched::VirtualServices,
    Watched::DestinationRules,
    Watched::EndpointSlices,
    Watched::Pods,
];

impl Watched {
    /// The first list of this kind, as a gate of readiness is called.
    pub fn gate(self) -> &'static str {
        match self {
            Self::Bindings => "first list of ServiceBindings",
            Self::Services => "first list of Services",
            Self::Namespaces => "first list of Namespaces",
            Self::VirtualServices => "first list of VirtualServices",
            Self::DestinationRules => "first list of DestinationRules",
            Self::EndpointSlices => "first list of EndpointSlices",
            Self::Pods => "first list of Pods",
        }
    }
}

impl World {
    /// Whether the kind was listed once, or is known to be missing.
    pub fn listed(&self, kind: Watched) -> bool {
        self.read().is_listed(kind, &self.own_namespace)
    }
}
