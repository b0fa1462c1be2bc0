//! Catalog-Mesh keeps a company's service catalog and its Istio mesh in step.

pub mod admin;
pub mod alert;
pub mod api;
pub mod app;
pub mod args;
pub mod catalog;
pub mod controller;
pub mod crd;
pub mod diff;
pub mod domain;
mod files;
pub mod health;
pub mod metrics;
pub mod render;
pub mod telemetry;
