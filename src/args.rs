//! Flags and environment into typed configuration; every default is here.

pub mod alert;
pub mod catalog;
pub mod cluster;
pub mod debug;
pub mod diff;
pub mod health;
pub mod release_all;
pub mod sync;
pub mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::domain::duration::Millis;
use crate::domain::names::{ClusterDomain, ClusterId, Namespace};
use crate::domain::policy::bounds::Bounds;
use crate::domain::served::Served;
use alert::AlertArgs;
use catalog::CatalogArgs;
use cluster::ClusterArgs;
use debug::DebugListen;
use diff::DiffArgs;
use health::HealthArgs;
use release_all::ReleaseAllArgs;
use sync::{BrakeArgs, RegisterArgs};
use watch::WatchArgs;

/// Keeps a company's service catalog and its Istio mesh in step.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator (the default).
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print the VirtualService and the DestinationRule of a binding, offline.
    ///
    /// Exit code 0: rendered. 1: a binding, a record or a Service is wrong.
    /// 2: a file cannot be read, or the command line is not complete.
    Render(Box<RenderArgs>),
    /// Print what a sync would change in the cluster now, and why.
    ///
    /// Writes nothing, and needs no running operator.
    ///
    /// Exit code 0: nothing. 1: something, or a binding is blocked, and the
    /// output says by what. 2: it cannot be told, since the cluster or the
    /// catalog is away or the command line or a file is wrong.
    Diff(Box<DiffArgs>),
    /// Take back everything that the operator put on Pods, and its finalizers.
    ///
    /// For uninstalling; needs no running operator. Stop the operator first, or
    /// it does it all again. What is not ours is left as it is.
    ///
    /// Exit code 0: nothing of ours is left. 1: something could not be taken
    /// back, and standard error says what and why; run it again. 2: the cluster
    /// cannot be looked at, or the command line is wrong.
    ReleaseAll(ReleaseAllArgs),
}

/// Flags of `run`. Each can be given by an environment variable too.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Where the catalog is.
    #[command(flatten)]
    pub catalog: CatalogArgs,

    /// Identity of this cluster towards the catalog, which keeps the reports
    /// of several clusters apart. Without it, the uid of the namespace
    /// kube-system.
    #[arg(long, env = "CATALOG_MESH_CLUSTER_ID", value_name = "ID", value_parser = ClusterId::parse)]
    pub cluster_id: Option<ClusterId>,

    /// Which namespaces are served.
    #[command(flatten)]
    pub watch: WatchArgs,

    /// Time between two looks at a binding that nobody touches. Where all is in force
    /// and nothing around it has another version, that is all that is compared, and
    /// the whole look is made every ten minutes.
    #[arg(long, env = "CATALOG_MESH_PERIOD", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub period: Duration,

    /// Most bindings that are worked on at once.
    #[arg(long, env = "CATALOG_MESH_CONCURRENCY", value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// What every decision depends on.
    #[command(flatten)]
    pub mapping: MappingArgs,

    /// What goes because of the catalog.
    #[command(flatten)]
    pub brake: BrakeArgs,

    /// Which services of the catalog get a binding by themselves.
    #[command(flatten)]
    pub register: RegisterArgs,

    /// How endpoints are checked, and what follows.
    #[command(flatten)]
    pub health: HealthArgs,

    /// Where alerts go.
    #[command(flatten)]
    pub alert: AlertArgs,

    /// Write nothing anywhere; say in the log what would be written.
    #[arg(long, env = "CATALOG_MESH_READ_ONLY")]
    pub read_only: bool,

    /// How long others wait for a leader that no longer renews its Lease
    /// before one of them takes over; whole seconds.
    #[arg(long, env = "CATALOG_MESH_LEASE_DURATION", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,

    /// How long a leader goes on that cannot renew its Lease. Then it stops
    /// writing and ends.
    #[arg(long, env = "CATALOG_MESH_LEASE_RENEW_DEADLINE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub lease_renew_deadline: Duration,

    /// Time between two renewals of the Lease.
    #[arg(long, env = "CATALOG_MESH_LEASE_RETRY_PERIOD", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub lease_retry_period: Duration,

    /// Address of /metrics, /livez and /readyz; `[::]` is every address, of IPv4 too.
    #[arg(
        long,
        env = "CATALOG_MESH_LISTEN",
        value_name = "ADDRESS",
        default_value = "[::]:8080"
    )]
    pub listen: SocketAddr,

    /// Address of loopback for the pages below /debug/, which are for people who
    /// may forward a port to this Pod; `off` for none.
    #[arg(
        long,
        env = "CATALOG_MESH_DEBUG_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8081"
    )]
    pub debug_listen: DebugListen,

    /// Which log lines are written, such as `info` or
    /// `info,catalog_mesh_controller=debug`.
    #[arg(
        long,
        env = "CATALOG_MESH_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,

    /// Which cluster it is about.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Name of this instance in Events and in the Lease.
    #[arg(
        long,
        env = "POD_NAME",
        value_name = "NAME",
        default_value = "catalog-mesh-controller"
    )]
    pub pod_name: String,
}

impl RunArgs {
    /// Which namespaces are served, where the other flags go with that.
    pub fn served(&self) -> Result<Served, String> {
        let served = self.watch.served();
        if !served.is_all() && self.cluster_id.is_none() {
            return Err(
                "--watch-namespaces takes a --cluster-id: kube-system, whose uid names the cluster otherwise, cannot be read, and another operator of the same cluster needs another one"
                    .to_owned(),
            );
        }
        let mut elsewhere = self.register.namespaces.iter();
        match elsewhere.find(|namespace| !served.has(namespace.as_str())) {
            Some(namespace) => Err(format!(
                "--register-namespaces names {namespace}, which is none of --watch-namespaces: no binding can be made there"
            )),
            None => Ok(served),
        }
    }
}

/// What every decision depends on, whoever makes it.
#[derive(Args, Clone, Debug)]
pub struct MappingArgs {
    /// The cluster's domain.
    #[arg(
        long,
        env = "CATALOG_MESH_CLUSTER_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local",
        value_parser = cluster_domain
    )]
    pub cluster_domain: ClusterDomain,

    /// Istio's root namespace.
    #[arg(
        long,
        env = "CATALOG_MESH_ROOT_NAMESPACE",
        value_name = "NAME",
        default_value = "istio-system"
    )]
    pub root_namespace: String,

    /// Whose locality settings hold where outlier detection is asked for and
    /// locality is not: `off` keeps traffic spread over all zones, `mesh`
    /// leaves it to the mesh's own settings.
    #[arg(
        long,
        env = "CATALOG_MESH_LOCALITY",
        value_name = "WHOSE",
        default_value = "off"
    )]
    pub locality: Locality,

    /// Narrower bounds for values of policies, such as
    /// `timeout=1ms..10s,retries=0..5`.
    #[arg(
        long,
        env = "CATALOG_MESH_BOUNDS",
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    pub bounds: Bounds,
}

/// Flags of `render`.
#[derive(Args, Clone, Debug)]
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
    #[arg(long = "port", value_name = "PORT", conflicts_with = "service",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,

    /// Namespace of what names none.
    #[arg(short = 'n', long, value_name = "NAME", default_value = "default",
          value_parser = Namespace::parse)]
    pub namespace: Namespace,

    /// The cluster's domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local",
          value_parser = ClusterDomain::parse)]
    pub cluster_domain: ClusterDomain,

    /// Whose locality settings hold, as for `run`.
    #[arg(long, value_name = "WHOSE", default_value = "off")]
    pub locality: Locality,

    /// Narrower bounds for values of policies, as for `run`.
    #[arg(
        long,
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    pub bounds: Bounds,

    /// Version of Istio's API.
    #[arg(long, value_name = "VERSION", default_value = "v1", value_parser = ["v1", "v1beta1"])]
    pub istio_api: String,

    /// Add each value of the policy with its source, as comments.
    #[arg(long)]
    pub explain: bool,
}

/// Whose locality settings hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Locality {
    /// Traffic stays spread over all zones.
    Off,
    /// The mesh's own settings.
    Mesh,
}

fn cluster_domain(text: &str) -> Result<ClusterDomain, String> {
    ClusterDomain::parse(text).map_err(|e| e.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let millis = Millis::parse(text).map_err(|e| e.to_string())?;
    if millis.0 == 0 {
        Err("must be more than 0s".to_owned())
    } else {
        Ok(millis.as_duration())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_what_happens_where_nothing_is_said() {
        let cli = Cli::try_parse_from(["catalog-mesh-controller", "--period", "1m30s"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.period, Duration::from_secs(90));
    }

    // trap 19
    #[test]
    fn what_could_never_work_is_refused() {
        for flag in [
            "--catalog-concurrency=0",
            "--catalog-qps=0",
            "--concurrency=0",
            "--own-namespace=My Operators",
            "--max-delete-percent=101",
        ] {
            assert!(Cli::try_parse_from(["x", "run", flag]).is_err(), "{flag}");
        }
    }

    fn served(flags: &[&str]) -> Result<Served, String> {
        let words = ["x", "run"].iter().chain(flags);
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Run(run)) => run.served(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn some_namespaces_are_served_where_the_cluster_is_named() {
        let shop = "--watch-namespaces=shop,billing";
        assert!(served(&[]).unwrap().is_all());
        let some = served(&[shop, "--cluster-id=east"]).unwrap();
        assert!(some.has("shop") && some.has("billing") && !some.has("other"));
        assert!(served(&[shop]).unwrap_err().contains("--cluster-id"));
        let words = ["x", "run", "--watch-namespaces=My Shop"];
        assert!(Cli::try_parse_from(words).is_err());
    }

    #[test]
    fn a_namespace_in_which_bindings_are_to_be_made_is_served() {
        let flags = ["--watch-namespaces=shop", "--cluster-id=east"];
        let with = |more| served(&[flags[0], flags[1], more]);
        assert!(with("--register-namespaces=shop").is_ok());
        let refused = with("--register-namespaces=shop,other").unwrap_err();
        assert!(refused.contains("other"), "{refused}");
        assert!(served(&["--register-namespaces=other"]).is_ok());
    }

    #[test]
    fn a_duration_of_nothing_is_refused() {
        for text in ["0s", "-1s", "soon", ""] {
            assert!(
                Cli::try_parse_from(["x", "run", "--period", text]).is_err(),
                "{text}"
            );
        }
    }
}
