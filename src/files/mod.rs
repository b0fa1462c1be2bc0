//! What the files say: bindings, records of the catalog and Services, checked
//! as the API server would check them as far as the domain knows how.

pub(crate) mod documents;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort as CorePort};
use serde_json::Value;

use self::documents::{Document, Fault};
use crate::api::service_binding::ServiceBinding;
use crate::domain::inputs::ServiceView;
use crate::domain::labels;
use crate::domain::names::{Namespace, ServiceKey, ServiceName, shown};
use crate::domain::ports::ServicePort;
use crate::domain::record::ServiceRecord;
use crate::domain::target::Target;

/// All that the files say.
pub(crate) struct Files {
    pub(crate) bindings: Vec<Binding>,
    records: Vec<(String, Arc<ServiceRecord>)>,
    pub(crate) services: Vec<(String, ServiceKey, ServiceView)>,
}

/// A binding, complete with its namespace, and where it stands.
pub(crate) struct Binding {
    pub(crate) place: String,
    pub(crate) object: Arc<ServiceBinding>,
}

impl Files {
    /// Reads the files of bindings and Services, and those of the catalog's
    /// entries. What names no namespace is of this one.
    pub(crate) fn read<'a>(
        objects: impl IntoIterator<Item = &'a PathBuf>,
        catalog: &[PathBuf],
        namespace: &str,
        stdin: &mut dyn Read,
    ) -> Result<Self, Fault> {
        let mut files = Self {
            bindings: Vec::new(),
            records: Vec::new(),
            services: Vec::new(),
        };
        for path in objects {
            for document in documents::read(path, stdin)? {
                files.object(document, namespace)?;
            }
        }
        for path in catalog {
            for Document { place, mut value } in documents::read(path, stdin)? {
                // An entry that is not yet in the catalog has no revision.
                if let Value::Object(fields) = &mut value {
                    fields.entry("revision").or_insert(Value::from(0));
                }
                let record = documents::typed(&place, &value)?;
                files.records.push((place, Arc::new(record)));
            }
        }
        Ok(files)
    }

    fn object(&mut self, document: Document, namespace: &str) -> Result<(), Fault> {
        let Document { place, value } = document;
        let text = |field| value.get(field).and_then(Value::as_str).unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            (labels::BINDING_API_VERSION, labels::BINDING_KIND) => {
                self.bindings.push(binding(place, &value, namespace)?);
            }
            ("v1", "Service") => {
                let service: Service = documents::typed(&place, &value)?;
                let key = service_key(&place, &service, namespace)?;
                self.services.push((place, key, view(service)));
            }
            (version, labels::BINDING_KIND) => {
                let message = format!(
                    "apiVersion: {} must be {}",
                    shown(version),
                    labels::BINDING_API_VERSION
                );
                return Err(Fault::wrong(&place, message));
            }
            (_, "") => {
                return Err(Fault::wrong(
                    &place,
                    "kind: is missing; this is no object of Kubernetes",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// The same; a file without a binding is no answer.
    pub(crate) fn some_binding(self) -> Result<Self, Fault> {
        if self.bindings.is_empty() {
            let complaint = "there is no ServiceBinding in the files of -f".to_owned();
            return Err(Fault::Wrong(vec![complaint]));
        }
        Ok(self)
    }

    /// All records by their IDs, each of which is there once.
    pub(crate) fn records(&self) -> Result<BTreeMap<String, Arc<ServiceRecord>>, Fault> {
        let mut records = BTreeMap::new();
        for (place, record) in &self.records {
            if records
                .insert(record.id.clone(), Arc::clone(record))
                .is_some()
            {
                let message = format!(
                    "id: {} is the id of an earlier entry too",
                    shown(&record.id)
                );
                return Err(Fault::wrong(place, message));
            }
        }
        Ok(records)
    }

    /// The record that the binding names, and where it stands.
    pub(crate) fn record(
        &self,
        binding: &Binding,
        target: &Target,
    ) -> Result<(&str, &Arc<ServiceRecord>), Fault> {
        let id = target.catalog_id.as_str();
        let mut found = self.records.iter().filter(|(_, record)| record.id == id);
        let Some((place, record)) = found.next() else {
            let message =
                format!("spec.catalogServiceId: no entry of the --catalog files has the id {id}");
            return Err(Fault::wrong(&binding.place, message));
        };
        match found.next() {
            None => Ok((place, record)),
            Some((second, _)) => Err(Fault::wrong(
                second,
                format!("id: {id} is the id of {place} too"),
            )),
        }
    }

    /// The Service that the binding names, and where it stands; none where no
    /// Service is given at all.
    pub(crate) fn service(
        &self,
        binding: &Binding,
        target: &Target,
    ) -> Result<Option<(&str, ServiceView)>, Fault> {
        if self.services.is_empty() {
            return Ok(None);
        }
        let found = self
            .services
            .iter()
            .find(|(_, key, _)| *key == target.service);
        let Some((place, _, view)) = found else {
            let message = format!(
                "spec.serviceName: no file has the Service {}",
                target.service
            );
            return Err(Fault::wrong(&binding.place, message));
        };
        Ok(Some((place, view.clone())))
    }
}

fn binding(place: String, value: &Value, namespace: &str) -> Result<Binding, Fault> {
    let mut binding: ServiceBinding = documents::typed(&place, value)?;
    let known = serde_json::to_value(&binding.spec)
        .map_err(|error| Fault::wrong(&place, format!("spec: {error}")))?;
    let unknown = documents::unknown_fields("spec", &value["spec"], &known);
    if !unknown.is_empty() {
        return Err(Fault::Wrong(
            unknown
                .iter()
                .map(|field| format!("{place}: {field}"))
                .collect(),
        ));
    }
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    if !is_object_name(name) {
        let message = format!(
            "metadata.name: {} must be a DNS name of at most 253 characters",
            shown(name)
        );
        return Err(Fault::wrong(&place, message));
    }
    let namespace = binding.metadata.namespace.as_deref().unwrap_or(namespace);
    let namespace = Namespace::parse(namespace)
        .map_err(|error| Fault::wrong(&place, format!("metadata.namespace: {error}")))?;
    binding.metadata.namespace = Some(namespace.to_string());
    Ok(Binding {
        place,
        object: Arc::new(binding),
    })
}

/// A DNS subdomain, as Kubernetes names objects.
fn is_object_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|b| inner(b) || b == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().last().is_some_and(inner)
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn service_key(place: &str, service: &Service, namespace: &str) -> Result<ServiceKey, Fault> {
    let metadata = &service.metadata;
    let name = ServiceName::parse(metadata.name.as_deref().unwrap_or_default())
        .map_err(|error| Fault::wrong(place, format!("metadata.name: {error}")))?;
    let namespace = Namespace::parse(metadata.namespace.as_deref().unwrap_or(namespace))
        .map_err(|error| Fault::wrong(place, format!("metadata.namespace: {error}")))?;
    Ok(ServiceKey { namespace, name })
}

fn view(service: Service) -> ServiceView {
    let spec = service.spec.unwrap_or_default();
    let port = |port: CorePort| {
        let number = u16::try_from(port.port).ok()?;
        let (name, app_protocol, protocol) = (port.name, port.app_protocol, port.protocol);
        Some(ServicePort {
            name,
            app_protocol,
            port: number,
            protocol,
        })
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    ServiceView {
        headless: spec.cluster_ip.as_deref() == Some("None"),
        external_name: external.then(|| spec.external_name.unwrap_or_default()),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(port)
            .collect(),
        ..ServiceView::default()
    }
}
