//! The pure core: values in, values out.
//!
//! The controller observes (`inputs`), then `validate` turns the observation
//! into a binding that cannot be wrong, or says why not; `build` makes the
//! VirtualService and the DestinationRule of it and cannot fail; `plan`
//! compares them with what the cluster holds; `status` says what came of it.
//! Nothing here does IO, reads a clock, draws a random number or logs.

#![warn(missing_docs)]

pub mod brake;
pub mod build;
pub mod dense;
pub mod desired;
pub mod duration;
pub mod election;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod health;
pub mod inputs;
pub mod label_set;
pub mod labels;
pub mod liveness;
pub mod names;
pub mod one_to_many;
pub mod ownership;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod ports;
pub mod readiness;
pub mod reasons;
pub mod record;
pub mod registration;
pub mod resource_version;
pub mod retry;
pub mod rule;
pub mod selector;
pub mod served;
pub mod situation;
pub mod slice;
pub mod status;
pub mod target;
pub mod uid;
pub mod validate;
