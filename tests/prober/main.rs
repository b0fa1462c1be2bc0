//! The prober over real sockets: what endpoints may answer, and what is made of
//! it. Every endpoint is a server of the test's own on loopback.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "../support/answers.rs"]
mod answers;
mod bed;
mod connections;
mod hostile;
#[path = "../support/peer.rs"]
mod peer;
mod tls;
