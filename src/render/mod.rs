//! What would be written for a binding? Answers offline, for pipelines: reads
//! files, and knows neither cluster nor network.
//!
//! The path is the controller's own: `validate`, then `build`. Only who else
//! claims the host is not looked at, since that takes a cluster.
//!
//! Exit codes: 0, everything is on standard output; 1, a binding, a record or
//! a Service is wrong, and standard error names file and field; 2, a file
//! cannot be read or the command line is not complete. Other than 0, nothing
//! is on standard output.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::sync::Arc;

use crate::args::{Locality, RenderArgs};
use crate::domain::build::build;
use crate::domain::desired::{Desired, DesiredObject};
use crate::domain::inputs::{CatalogAnswer, Inputs, NamespaceView, ServiceView, Settings};
use crate::domain::labels;
use crate::domain::policy::{self, Giver, PolicyError};
use crate::domain::ports::ServicePort;
use crate::domain::served::Served;
use crate::domain::situation::Situation;
use crate::domain::target::Target;
use crate::domain::validate::{Valid, validate};
use crate::files::documents::Fault;
use crate::files::{Binding, Files};

/// What the command prints, and its exit code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rendered {
    /// For standard output: YAML.
    pub output: String,
    /// For standard error: what is wrong, a line each.
    pub complaints: String,
    /// 0, 1 or 2.
    pub code: u8,
}

/// Renders every binding of the files, or says all that is wrong.
pub fn render(args: &RenderArgs, stdin: &mut dyn Read) -> Rendered {
    match documents(args, stdin) {
        Ok(output) => Rendered {
            output,
            complaints: String::new(),
            code: 0,
        },
        Err(fault) => {
            let code = fault.code();
            Rendered {
                output: String::new(),
                complaints: fault.to_string(),
                code,
            }
        }
    }
}

fn documents(args: &RenderArgs, stdin: &mut dyn Read) -> Result<String, Fault> {
    let objects = args.files.iter().chain(&args.service);
    let namespace = args.namespace.as_str();
    let files = Files::read(objects, &args.catalog, namespace, stdin)?.some_binding()?;
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    for binding in &files.bindings {
        match one(args, &files, binding) {
            Ok(text) => documents.extend(text),
            Err(Fault::Wrong(complaints)) => wrong.extend(complaints),
            Err(usage) => return Err(usage),
        }
    }
    if wrong.is_empty() {
        Ok(documents.join("---\n"))
    } else {
        Err(Fault::Wrong(wrong))
    }
}

/// The two documents of one binding.
fn one(args: &RenderArgs, files: &Files, binding: &Binding) -> Result<[String; 2], Fault> {
    let valid = valid(args, files, binding)?;
    let mut comments = comments(args, &valid);
    let mut desired = build(&valid.binding);
    if valid.binding.uid.is_empty() {
        without_uid(&mut desired);
        comments.push_str("# The uid of the binding, which the cluster gives, is left out.\n");
    }
    let api_version = format!("networking.istio.io/{}", args.istio_api);
    let yaml = |object: &DesiredObject| {
        serde_saphyr::to_string(&object.manifest(&api_version))
            .map_err(|error| Fault::Usage(format!("cannot write YAML: {error}")))
    };
    Ok([
        comments + &yaml(&desired.destination_rule)?,
        yaml(&desired.virtual_service)?,
    ])
}

/// The controller's own check, fed from files.
fn valid(args: &RenderArgs, files: &Files, binding: &Binding) -> Result<Valid, Fault> {
    let Binding { place, object } = binding;
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let target =
        Target::of(namespace, &object.spec).map_err(|errors| complaints(&errors, place, place))?;
    let (record_place, record) = files.record(binding, &target)?;
    // The controller stops at the first giver who is wrong; here all is said.
    policy::effective(Some(record), &object.spec, &args.bounds)
        .map_err(|errors| complaints(&errors, record_place, place))?;
    let (service_place, service) = service(args, files, binding, &target)?;
    let inputs = Inputs {
        binding: Arc::clone(object),
        catalog: CatalogAnswer::Record(Arc::clone(record)),
        service: Some(service),
        target: NamespaceView::default(),
        paused_by: None,
        rivals: Vec::new(),
        rules: Vec::new(),
        living: BTreeSet::new(),
        mesh_api_missing: None,
    };
    let settings = Settings {
        cluster_domain: args.cluster_domain.clone(),
        root_namespace: String::new(),
        mesh_locality: args.locality == Locality::Mesh,
        served: Served::default(),
        bounds: args.bounds.clone(),
    };
    validate(&inputs, &target, &settings).map_err(|situation| match situation {
        Situation::InvalidRecord(message) => Fault::wrong(record_place, message),
        Situation::InvalidBinding(message) => Fault::wrong(place, message),
        Situation::ServiceUnusable { reason, message } => {
            Fault::wrong(service_place, format!("{reason}: {message}"))
        }
        // What takes a cluster is not asked for above.
        other => Fault::wrong(place, format!("{other:?}")),
    })
}

fn complaints(errors: &[PolicyError], catalog: &str, binding: &str) -> Fault {
    let complaint = |error: &PolicyError| match error.giver {
        Giver::Catalog => format!("{catalog}: {error}"),
        Giver::Binding => format!("{binding}: {error}"),
    };
    Fault::Wrong(errors.iter().map(complaint).collect())
}

/// The Service of the files, or one with the ports of the command line.
/// Without either nothing is assumed: a route for a port that does not speak
/// HTTP would never act.
fn service<'a>(
    args: &RenderArgs,
    files: &'a Files,
    binding: &'a Binding,
    target: &Target,
) -> Result<(&'a str, ServiceView), Fault> {
    if args.ports.is_empty() {
        return files.service(binding, target)?.ok_or_else(|| {
            Fault::Usage(format!(
                "the HTTP ports of Service {} are not known; give its file by --service, or --port",
                target.service
            ))
        });
    }
    let port = |number: &u16| ServicePort {
        name: Some("http".to_owned()),
        port: *number,
        ..ServicePort::default()
    };
    let view = ServiceView {
        ports: args.ports.iter().map(port).collect(),
        ..ServiceView::default()
    };
    Ok((&binding.place, view))
}

fn comments(args: &RenderArgs, valid: &Valid) -> String {
    let mut text = format!("# ServiceBinding {}\n", valid.binding.binding);
    for note in valid.mismatch.iter().chain(&valid.notes) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# Note: {note}.");
    }
    for entry in valid.provenance.iter().filter(|_| args.explain) {
        let _ = writeln!(
            text,
            "# {} = {} ({:?})",
            entry.field, entry.value, entry.source
        );
    }
    text
}

/// A manifest that claims a wrong uid would be taken for an orphan's.
fn without_uid(desired: &mut Desired) {
    for object in [&mut desired.destination_rule, &mut desired.virtual_service] {
        object.annotations.remove(labels::ANNOTATION_BINDING_UID);
        object.owner_references.clear();
    }
}
