//! Kubernetes data types: serde and schema only, no behaviour that can fail.
//!
//! `service_binding` is our own kind; `policy` holds the blocks that a
//! ServiceBinding and a catalog record share; `schema` has the rules by which
//! the API server refuses a bad value; `virtual_service` and `destination_rule`
//! are the subset of Istio's API that we write; `mesh_rule`, `endpoint_slice`, `pod`
//! and `service` are what is read of kinds that a cluster may have very many of, and
//! `unmanaged` is what is read of their metadata.

pub mod destination_rule;
pub mod endpoint_slice;
pub mod mesh_rule;
pub mod pod;
pub mod policy;
mod schema;
pub mod service;
pub mod service_binding;
pub(crate) mod unmanaged;
pub mod virtual_service;
