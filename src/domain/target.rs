//! Which service of the catalog, and which of the cluster, a binding names. No
//! IO.

use super::names::{CatalogServiceId, NameError, Namespace, ServiceKey, ServiceName};
use super::policy::{Giver, PolicyError};
use crate::api::service_binding::ServiceBindingSpec;

/// The two services that a binding ties together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The catalog's.
    pub catalog_id: CatalogServiceId,
    /// The cluster's.
    pub service: ServiceKey,
}

impl Target {
    /// Reads the names of a binding in that namespace; else all that is wrong
    /// with them, at least one thing.
    pub fn of(
        binding_namespace: &str,
        spec: &ServiceBindingSpec,
    ) -> Result<Self, Vec<PolicyError>> {
        let catalog_id = CatalogServiceId::parse(&spec.catalog_service_id);
        let name = ServiceName::parse(&spec.service_name);
        let namespace = Namespace::parse(spec.namespace.as_deref().unwrap_or(binding_namespace));
        match (catalog_id, name, namespace) {
            (Ok(catalog_id), Ok(name), Ok(namespace)) => Ok(Self {
                catalog_id,
                service: ServiceKey { namespace, name },
            }),
            (id, name, namespace) => Err([
                id.err()
                    .map(|error| refused("spec.catalogServiceId", &error)),
                name.err().map(|error| refused("spec.serviceName", &error)),
                namespace
                    .err()
                    .map(|error| refused("spec.namespace", &error)),
            ]
            .into_iter()
            .flatten()
            .collect()),
        }
    }
}

fn refused(field: &str, error: &NameError) -> PolicyError {
    PolicyError {
        giver: Giver::Binding,
        field: field.to_owned(),
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str, name: &str, namespace: Option<&str>) -> ServiceBindingSpec {
        ServiceBindingSpec {
            catalog_service_id: id.to_owned(),
            service_name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            ..ServiceBindingSpec::default()
        }
    }

    #[test]
    fn without_a_namespace_the_service_is_the_bindings_neighbour() {
        let service = |namespace| {
            Target::of("here", &spec("id", "web", namespace))
                .unwrap()
                .service
                .to_string()
        };
        assert_eq!(service(None), "here/web");
        assert_eq!(service(Some("there")), "there/web");
    }

    #[test]
    fn every_bad_name_is_named() {
        let errors = Target::of("here", &spec("../x", "Web", Some(""))).unwrap_err();
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.catalogServiceId",
                "spec.serviceName",
                "spec.namespace"
            ]
        );
    }
}
