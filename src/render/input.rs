//! What the files say: bindings, records of the catalog and Services, checked
//! as the API server would check them as far as the domain knows how.

use std::io::Read;

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::RenderArgs;
use super::documents::{self, Document, Fault};
use crate::api::service_binding::{DeletionPolicy, ServiceBinding, ServiceBindingSpec};
use crate::domain::labels;
use crate::domain::names::{BindingKey, Namespace, ServiceKey, ServiceName, shown};
use crate::domain::ports::{HttpPorts, ServicePort};
use crate::domain::record::ServiceRecord;
use crate::domain::target::Target;

/// All that the files say.
pub(super) struct Inputs {
    pub(super) bindings: Vec<Binding>,
    records: Vec<(String, ServiceRecord)>,
    services: Vec<(String, ServiceKey, Service)>,
}

/// A binding and where it stands.
pub(super) struct Binding {
    pub(super) place: String,
    pub(super) key: BindingKey,
    pub(super) uid: Option<String>,
    pub(super) spec: ServiceBindingSpec,
}

impl Binding {
    pub(super) fn retained(&self) -> bool {
        self.spec.deletion_policy == Some(DeletionPolicy::Retain)
    }
}

impl Inputs {
    /// Reads every file that the command line names.
    pub(super) fn read(args: &RenderArgs, stdin: &mut dyn Read) -> Result<Self, Fault> {
        let mut inputs = Self {
            bindings: Vec::new(),
            records: Vec::new(),
            services: Vec::new(),
        };
        for path in args.files.iter().chain(&args.service) {
            for document in documents::read(path, stdin)? {
                inputs.object(document, args.namespace.as_str())?;
            }
        }
        for path in &args.catalog {
            for Document { place, mut value } in documents::read(path, stdin)? {
                // An entry that is not yet in the catalog has no revision.
                if let Value::Object(fields) = &mut value {
                    fields.entry("revision").or_insert(Value::from(0));
                }
                let record = documents::typed(&place, &value)?;
                inputs.records.push((place, record));
            }
        }
        if inputs.bindings.is_empty() {
            return Err(Fault::Wrong(vec![
                "there is no ServiceBinding in the files of -f".to_owned(),
            ]));
        }
        Ok(inputs)
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
                self.services.push((place, key, service));
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

    /// The record that the binding names, and where it stands.
    pub(super) fn record(
        &self,
        binding: &Binding,
        target: &Target,
    ) -> Result<(&String, &ServiceRecord), Fault> {
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

    /// The HTTP ports of the Service that the binding names; none where no
    /// Service is given at all.
    pub(super) fn http_ports(
        &self,
        binding: &Binding,
        target: &Target,
    ) -> Result<Option<HttpPorts>, Fault> {
        if self.services.is_empty() {
            return Ok(None);
        }
        let Some((place, _, service)) = self
            .services
            .iter()
            .find(|(_, key, _)| *key == target.service)
        else {
            let message = format!(
                "spec.serviceName: no file has the Service {}",
                target.service
            );
            return Err(Fault::wrong(&binding.place, message));
        };
        usable_ports(service)
            .map(Some)
            .map_err(|message| Fault::wrong(place, message))
    }
}

fn binding(place: String, value: &Value, namespace: &str) -> Result<Binding, Fault> {
    let binding: ServiceBinding = documents::typed(&place, value)?;
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
    let metadata = binding.metadata;
    let name = metadata.name.unwrap_or_default();
    if !is_object_name(&name) {
        let message = format!(
            "metadata.name: {} must be a DNS name of at most 253 characters",
            shown(&name)
        );
        return Err(Fault::wrong(&place, message));
    }
    let namespace = metadata.namespace.as_deref().unwrap_or(namespace);
    let namespace = Namespace::parse(namespace)
        .map_err(|error| Fault::wrong(&place, format!("metadata.namespace: {error}")))?;
    let key = BindingKey {
        namespace: namespace.to_string(),
        name,
    };
    Ok(Binding {
        place,
        key,
        uid: metadata.uid.filter(|uid| !uid.is_empty()),
        spec: binding.spec,
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

fn usable_ports(service: &Service) -> Result<HttpPorts, &'static str> {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err("spec.type: proxies do not balance an ExternalName");
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return Err("spec.clusterIP: proxies do not balance a headless Service");
    }
    let ports: Vec<_> = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            let (name, app_protocol, protocol) = (port.name, port.app_protocol, port.protocol);
            Some(ServicePort {
                name,
                app_protocol,
                port: number,
                protocol,
            })
        })
        .collect();
    HttpPorts::of(&ports).ok_or(
        "spec.ports: none is HTTP; name one http, http2 or grpc (or http-…), or set its appProtocol",
    )
}
