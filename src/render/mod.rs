//! What would be written for a binding? Answers offline, for pipelines: reads
//! files, and knows neither cluster nor network.
//!
//! The path is the controller's own: read, bound and merge the policy, build
//! the objects. Only ownership is not looked at, since that takes a cluster.
//!
//! Exit codes: 0, everything is on standard output; 1, a binding, a record or
//! a Service is wrong, and standard error names file and field; 2, a file
//! cannot be read or the command line is not complete. Other than 0, nothing
//! is on standard output.

mod documents;
mod input;

use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;

use clap::ValueEnum;

use self::documents::Fault;
use self::input::{Binding, Inputs};
use crate::domain::build::{ValidBinding, build};
use crate::domain::desired::{Desired, DesiredObject, OwnerRef};
use crate::domain::labels;
use crate::domain::names::{ClusterDomain, Namespace};
use crate::domain::policy::bounds::Bounds;
use crate::domain::policy::merge::Merged;
use crate::domain::policy::{self, Giver};
use crate::domain::ports::HttpPorts;
use crate::domain::record::ServiceRecord;
use crate::domain::target::Target;

/// Prints the VirtualService and the DestinationRule of a binding, offline.
///
/// Exit code 0: rendered. 1: a binding, a record or a Service is wrong. 2: a
/// file cannot be read, or the command line is not complete.
#[derive(Clone, Debug, clap::Args)]
pub struct RenderArgs {
    /// File of ServiceBindings, `-` for standard input. Services in it are
    /// used as if given by --service; other kinds are passed over.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// File of catalog entries: one, a list, or an answer of the Catalog API.
    #[arg(long, required = true, value_name = "FILE")]
    pub catalog: Vec<PathBuf>,

    /// File of the Kubernetes Services, whose ports get the routes.
    #[arg(long, value_name = "FILE")]
    pub service: Vec<PathBuf>,

    /// HTTP port of the Service, where there is no file of it.
    #[arg(long = "port", value_name = "PORT", conflicts_with = "service")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,

    /// Namespace of what names none.
    #[arg(short = 'n', long, default_value = "default", value_parser = Namespace::parse)]
    pub namespace: Namespace,

    /// Domain of the cluster's services.
    #[arg(long, default_value = "cluster.local", value_parser = ClusterDomain::parse)]
    pub cluster_domain: ClusterDomain,

    /// What holds where nobody asks for locality: `off` keeps traffic even
    /// beside outlier detection, `mesh` leaves it to the mesh's settings.
    #[arg(long, value_enum, default_value_t = LocalityFlag::Off)]
    pub locality: LocalityFlag,

    /// Narrower bounds, as in `timeout=1ms..10s,retries=0..5`.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub bounds: Bounds,

    /// Version of Istio's API.
    #[arg(long, default_value = "v1", value_parser = ["v1", "v1beta1"])]
    pub istio_api: String,

    /// Adds each value of the policy with its source, as comments.
    #[arg(long)]
    pub explain: bool,
}

/// What holds where nobody asks for locality.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LocalityFlag {
    /// Traffic stays even.
    Off,
    /// The mesh's own settings.
    Mesh,
}

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
    let inputs = Inputs::read(args, stdin)?;
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    for binding in &inputs.bindings {
        match one(args, &inputs, binding) {
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
fn one(args: &RenderArgs, inputs: &Inputs, binding: &Binding) -> Result<[String; 2], Fault> {
    let (place, key, spec) = (&binding.place, &binding.key, &binding.spec);
    let in_binding = |errors: Vec<policy::PolicyError>| {
        Fault::Wrong(
            errors
                .iter()
                .map(|error| format!("{place}: {error}"))
                .collect(),
        )
    };
    let target = Target::of(&key.namespace, spec).map_err(in_binding)?;
    let (record_place, record) = inputs.record(binding, &target)?;
    let merged = policy::effective(Some(record), spec, &args.bounds).map_err(|errors| {
        let place_of = |giver| {
            if giver == Giver::Catalog {
                record_place
            } else {
                place
            }
        };
        let complaint = |e: policy::PolicyError| format!("{}: {e}", place_of(e.giver));
        Fault::Wrong(errors.into_iter().map(complaint).collect())
    })?;
    let http_ports = http_ports(args, inputs, binding, &target)?;
    let mut comments = comments(args, binding, &target, record, &merged);
    let owned = target.service.namespace.as_str() == key.namespace && !binding.retained();
    let owner = binding.uid.clone().filter(|_| owned);
    let mut desired = build(&ValidBinding {
        binding: key.clone(),
        uid: binding.uid.clone().unwrap_or_default(),
        host: target.service.host(&args.cluster_domain),
        service: target.service,
        http_ports,
        policy: merged.policy,
        owner: owner.map(|uid| OwnerRef {
            name: key.name.clone(),
            uid,
        }),
        mesh_locality: args.locality == LocalityFlag::Mesh,
    });
    if binding.uid.is_none() {
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

/// The ports of the routes. Without a Service nothing is assumed: a route for
/// a port that does not speak HTTP would never act.
fn http_ports(
    args: &RenderArgs,
    inputs: &Inputs,
    binding: &Binding,
    target: &Target,
) -> Result<HttpPorts, Fault> {
    if let Some(ports) = HttpPorts::numbered(args.ports.iter().copied()) {
        return Ok(ports);
    }
    inputs.http_ports(binding, target)?.ok_or_else(|| {
        Fault::Usage(format!(
            "the HTTP ports of Service {} are not known; give its file by --service, or --port",
            target.service
        ))
    })
}

fn comments(
    args: &RenderArgs,
    binding: &Binding,
    target: &Target,
    record: &ServiceRecord,
    merged: &Merged,
) -> String {
    let mut text = format!("# ServiceBinding {}\n", binding.key);
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {line}");
    };
    let service = &target.service;
    if record.name != service.name.as_str() || record.namespace != service.namespace.as_str() {
        line(format_args!(
            "Note: the record is of another service; its policy counts, and nothing is reported back to it."
        ));
    }
    for note in &merged.notes {
        line(format_args!("Note: {note}."));
    }
    for entry in merged.entries.iter().filter(|_| args.explain) {
        line(format_args!(
            "{} = {} ({:?})",
            entry.field, entry.value, entry.source
        ));
    }
    text
}

/// A manifest that claims a wrong uid would be taken for an orphan's.
fn without_uid(desired: &mut Desired) {
    for object in [&mut desired.destination_rule, &mut desired.virtual_service] {
        object.annotations.remove(labels::ANNOTATION_BINDING_UID);
    }
}
