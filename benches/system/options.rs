//! What is measured, and how much of it? Flags and environment. No IO.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser, ValueEnum};

/// Measures the operator on a real API server, etcd, istiod and catalog, each
/// scenario beside a bare client that does the same in the same run.
///
/// All of it shares this machine's cores, so that only ratios within one run
/// mean something. The table goes to standard output, the figures as JSON and the
/// drawings to target/bench/.
#[derive(Clone, Debug, Parser)]
#[command(name = "make bench", version, max_term_width = 80)]
pub(crate) struct Options {
    /// What to measure; everything where nothing is said.
    #[arg(long, env = "SCENARIO", value_name = "NAME", value_delimiter = ',')]
    pub(crate) scenario: Vec<Scenario>,

    /// Bindings [default: 1000, or 200 with --quick]
    #[arg(long = "bindings", short = 'n', env = "N", value_name = "N")]
    bindings: Option<usize>,

    /// Fewer bindings and shorter loads: tells whether it works, not how fast
    /// it is.
    #[arg(long, env = "QUICK", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(crate) quick: bool,

    /// End with an error where a goal is missed; each is named in any case.
    #[arg(long, env = "CHECK", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(crate) check: bool,

    /// Runs of each short scenario; the table shows their median and spread.
    #[arg(long, env = "RUNS", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,

    /// Changes of the catalog per second [default: 100, or 20 with --quick]
    #[arg(long, env = "RATE", value_name = "N")]
    rate: Option<u32>,

    /// Seconds of load, or of idleness [default: 30, 60 of storm, or 10 with
    /// --quick]
    #[arg(long, env = "SECONDS_OF_LOAD", value_name = "N")]
    seconds: Option<u64>,

    /// Checks of a soak that are judged, at the least [default: 100000, or 10000
    /// with --quick]
    #[arg(long, env = "PROBES", value_name = "N")]
    probes: Option<u64>,

    /// Bindings that the bare client works on at once; the best of these
    /// counts.
    #[arg(
        long,
        env = "IN_FLIGHT",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "4,8,16,32"
    )]
    pub(crate) in_flight: Vec<usize>,

    /// Keep JSON and drawings in docs/benchmarks/ as well.
    #[arg(long, env = "SAVE", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(crate) save: bool,

    /// The operator under test [default: the one that cargo built beside this
    /// program]
    #[arg(long, env = "OPERATOR", value_name = "FILE")]
    operator: Option<PathBuf>,

    /// Further flags of the operator, separated by spaces.
    #[arg(
        long,
        env = "OPERATOR_FLAGS",
        value_name = "FLAGS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    operator_flags: String,

    /// `cargo bench` says so to every program.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// Bindings exist, the operator starts: time until all are Ready.
    ColdStart,
    /// A change in the catalog: time until the API server tells of the new
    /// VirtualService; a deregistration: until all that was made is gone; a
    /// Service is scaled: until the catalog lists its endpoints.
    Change,
    /// Endpoints die and heal: time until the mesh has dropped them, and has
    /// them back.
    Ejection,
    /// Some endpoints answer whatever they like: how much later are the others
    /// checked?
    Hostile,
    /// Nothing changes: writes, CPU and memory.
    Idle,
    /// Endpoints are checked: how many a second, and what one costs.
    Probe,
    /// Ten endpoints serve behind every Service: writes, CPU and memory, with
    /// checks and without.
    Serving,
    /// Endpoints that are well are checked while whoever checks is not: how
    /// often is one taken for dead?
    Soak,
    /// All is in force, the operator starts again: time until all is verified.
    WarmRestart,
    /// One service of the catalog changes 10,000 times a second: what that
    /// costs, and how long the others' changes take.
    Storm,
}

impl Scenario {
    /// Its name in files and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::Change => "change",
            Self::Ejection => "ejection",
            Self::Hostile => "hostile",
            Self::Idle => "idle",
            Self::Probe => "probe",
            Self::Serving => "serving",
            Self::Soak => "soak",
            Self::WarmRestart => "warm-restart",
            Self::Storm => "storm",
        }
    }

    /// Whether it is measured on a cluster.
    pub(crate) fn needs_cluster(self) -> bool {
        !matches!(self, Self::Hostile | Self::Probe | Self::Soak)
    }
}

impl Options {
    /// What the files of a scenario's figures are called: one that was asked for
    /// with other numbers has its own.
    pub(crate) fn file(&self, scenario: Scenario) -> String {
        let with = |letter: &str, number: Option<String>| {
            number.map_or_else(String::new, |number| format!("-{letter}{number}"))
        };
        let bindings = self.bindings.map(|bindings| bindings.to_string());
        let rate = self.rate.map(|rate| rate.to_string());
        scenario.name().to_owned() + &with("n", bindings) + &with("r", rate)
    }

    /// How many bindings there are.
    pub(crate) fn bindings(&self) -> usize {
        self.bindings.unwrap_or(if self.quick { 200 } else { 1000 })
    }

    /// Changes of the catalog per second.
    pub(crate) fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.quick { 20 } else { 100 })
    }

    /// How long a load, or idleness, lasts.
    pub(crate) fn span(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 10 } else { 30 }))
    }

    /// How long a storm lasts, and what it is compared with.
    pub(crate) fn storm(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 10 } else { 60 }))
    }

    /// How many checks of a soak are judged, at the least.
    pub(crate) fn probes(&self) -> u64 {
        self.probes
            .unwrap_or(if self.quick { 10_000 } else { 100_000 })
    }

    /// The operator under test.
    pub(crate) fn operator(&self) -> PathBuf {
        let beside = || env!("CARGO_BIN_EXE_catalog-mesh-controller").into();
        self.operator.clone().unwrap_or_else(beside)
    }

    /// Further flags of the operator.
    pub(crate) fn operator_flags(&self) -> impl Iterator<Item = &str> {
        self.operator_flags.split_whitespace()
    }

    /// The scenarios, in the order in which they are run.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        if self.scenario.is_empty() {
            Scenario::value_variants().to_vec()
        } else {
            self.scenario.clone()
        }
    }
}
