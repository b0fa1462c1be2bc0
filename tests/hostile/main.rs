//! What comes from outside and means ill: texts that name somebody else to
//! call, and bindings that reach into other namespaces. The pure core is asked
//! with all of them; where a connection could come of it, real listeners count.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

mod canary;
mod endpoints;
mod namespaces;
mod paths;
mod redirects;
#[path = "../support/site.rs"]
mod site;
mod targets;
