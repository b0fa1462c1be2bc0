//! Catalog-Mesh keeps a company's service catalog and its Istio mesh in step.

pub mod api;
pub mod catalog;
pub mod domain;
pub mod render;
