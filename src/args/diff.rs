//! Flags of `diff`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MappingArgs;
use super::catalog::CatalogArgs;
use super::cluster::ClusterArgs;
use super::sync::{BrakeArgs, RegisterArgs};
use crate::domain::names::Namespace;

/// Flags of `diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// Names of ServiceBindings; without any, all of the namespace.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// Namespace of the bindings; by default the kubeconfig's.
    #[arg(short = 'n', long, value_name = "NAME", value_parser = Namespace::parse)]
    pub namespace: Option<Namespace>,

    /// Bindings of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    pub all_namespaces: bool,

    /// File of ServiceBindings, `-` for standard input: what if these were
    /// applied? Services in it count as if they were, too; other kinds are
    /// passed over.
    #[arg(short = 'f', long = "filename", value_name = "FILE",
          conflicts_with_all = ["names", "all_namespaces"])]
    pub files: Vec<PathBuf>,

    /// File of catalog entries in place of the catalog: what if these came?
    /// Bindings of other entries are passed over, unless they are named.
    #[arg(long = "catalog", value_name = "FILE")]
    pub entries: Vec<PathBuf>,

    /// What is printed: `text` for people, or `json`.
    #[arg(
        short = 'o',
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    pub output: Output,

    /// Add each value of the policy with its source, also where nothing
    /// differs.
    #[arg(long)]
    pub explain: bool,

    /// Where the catalog is.
    #[command(flatten)]
    pub catalog: CatalogArgs,

    /// What every decision depends on.
    #[command(flatten)]
    pub mapping: MappingArgs,

    /// What goes because of the catalog.
    #[command(flatten)]
    pub brake: BrakeArgs,

    /// Which services of the catalog get a binding by themselves.
    #[command(flatten)]
    pub register: RegisterArgs,

    /// Which cluster it is about.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `diff` prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}
