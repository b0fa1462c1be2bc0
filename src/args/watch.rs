//! Which namespaces are served: a flag of whatever can do with some.

use clap::Args;

use crate::domain::names::Namespace;
use crate::domain::served::Served;

/// Which namespaces are served.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Serve these namespaces only, separated by commas, and need no right
    /// anywhere else; without it, the whole cluster. Rules for the same hosts
    /// that stand in other namespaces are then not seen. Takes a --cluster-id.
    #[arg(
        id = "watched",
        long = "watch-namespaces",
        env = "CATALOG_MESH_WATCH_NAMESPACES",
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = Namespace::parse
    )]
    pub namespaces: Vec<Namespace>,
}

impl WatchArgs {
    /// The same as the core needs it.
    pub fn served(&self) -> Served {
        Served::only(&self.namespaces)
    }
}
