//! What happens to unhealthy endpoints: a flag of `run`.

use clap::ValueEnum;

/// What happens to an endpoint that is unhealthy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Ejection {
    /// Its Pod is labelled, and every proxy drops it.
    Draining,
    /// It stays; Envoy's outlier detection is tightened.
    OutlierOnly,
    /// Nothing; the log says what `draining` would do.
    Observe,
    /// Nothing.
    Off,
}
