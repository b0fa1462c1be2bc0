//! One check of one endpoint: what is asked, what comes back, and what does it.

mod answer;
mod body;
mod head;
pub(super) mod net;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::target::Check;
use crate::domain::health::judge::Answer;
use crate::metrics::health::SetAside;

/// What a check came to.
pub(super) struct Outcome<K> {
    /// The answer, or why it says nothing about the endpoint.
    pub(super) answer: Result<Answer, SetAside>,
    /// Time to the head of the answer, or to its failure.
    pub(super) took: Duration,
    /// A connection that can be used again.
    pub(super) kept: Option<K>,
}

/// Whoever asks. Ends by the check's timeout, or soon after.
pub(super) trait Probe: Clone + Send + Sync + 'static {
    /// A connection between two checks.
    type Kept: Send + 'static;

    /// Asks an endpoint once; a connection to it that was kept may be used.
    fn probe(
        &self,
        check: Arc<Check>,
        address: SocketAddr,
        kept: Option<Self::Kept>,
    ) -> impl Future<Output = Outcome<Self::Kept>> + Send;
}
