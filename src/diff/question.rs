//! What is asked? The command line and its files, as typed values. Reads the
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use super::seen::Given;
use super::unable::Unable;
use crate::args::diff::{DiffArgs, Output};
use crate::domain::brake::Limits;
use crate::domain::inputs::Settings;
use crate::domain::names::BindingKey;
use crate::domain::record::ServiceRecord;
use crate::domain::{registration, validate};
use crate::files::Files;

/// Entries of the catalog by their IDs.
pub(super) type Entries = BTreeMap<String, Arc<ServiceRecord>>;

/// What is asked.
pub struct Question {
    /// About which bindings.
    pub(super) scope: Scope,
    /// What is to be taken for stored.
    pub(super) given: Given,
    /// What is to be taken for the catalog's, in place of the catalog.
    pub(super) entries: Option<Entries>,
    /// What decisions depend on.
    pub(super) settings: Settings,
    /// What goes because of the catalog.
    pub(super) limits: Limits,
    /// Which services of the catalog get a binding by themselves.
    pub(super) register: registration::Scope,
    /// The operator's own namespace.
    pub(super) own_namespace: String,
    /// How the answer is printed.
    pub(super) output: Output,
    /// Whether it shows the whole policy.
    pub(super) explain: bool,
}

/// Which bindings the question is about.
pub(super) enum Scope {
    /// Every one.
    All,
    /// Those of this namespace.
    Namespace(String),
    /// These.
    These(BTreeSet<BindingKey>),
}

impl Question {
    /// Reads the files that the command line names. What says no namespace is
    /// of `namespace`.
    pub fn read(
        args: &DiffArgs,
        settings: Settings,
        namespace: String,
        stdin: &mut dyn Read,
    ) -> Result<Self, Unable> {
        let wrong = |fault: &dyn ToString| Unable(fault.to_string().trim_end().to_owned());
        let chosen = args.namespace.as_ref().map(ToString::to_string);
        let namespace = chosen.unwrap_or(namespace);
        let mut files = Files::read(&args.files, &args.entries, &namespace, stdin)
            .map_err(|fault| wrong(&fault))?;
        if !args.files.is_empty() {
            files = files.some_binding().map_err(|fault| wrong(&fault))?;
        }
        let entries = match args.entries.as_slice() {
            [] => None,
            _ => Some(files.records().map_err(|fault| wrong(&fault))?),
        };
        let mut given = BTreeSet::new();
        for binding in &files.bindings {
            let key = validate::key(&binding.object);
            if !given.insert(key.clone()) {
                let place = &binding.place;
                return Err(Unable(format!(
                    "{place}: ServiceBinding {key} is given twice"
                )));
            }
        }
        let scope = if args.all_namespaces {
            Scope::All
        } else if !given.is_empty() {
            Scope::These(given)
        } else if args.names.is_empty() {
            Scope::Namespace(namespace)
        } else {
            let key = |name: &String| BindingKey::new(namespace.clone(), name.clone());
            Scope::These(args.names.iter().map(key).collect())
        };
        let services = files.services.into_iter();
        Ok(Self {
            scope,
            given: Given {
                bindings: files.bindings.into_iter().map(|b| b.object).collect(),
                services: services.map(|(_, key, view)| (key, view)).collect(),
            },
            entries,
            limits: args.brake.limits(),
            register: args.register.scope(&settings.served),
            settings,
            own_namespace: args.cluster.own_namespace.to_string(),
            output: args.output,
            explain: args.explain,
        })
    }
}
