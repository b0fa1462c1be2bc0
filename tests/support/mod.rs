//! The rig: a Kubernetes API server, istiod and Envoy as real processes, in a
//! network namespace of their own, for the tests, the demo and the benchmark.
//! Does IO of every kind, none of it beyond loopback and the target folder.
//!
//! Each of its three users includes this folder by `#[path]`, needs another
//! part of it, and is a binary, from which nothing can be reached: hence the
//! `allow` below.
#![allow(dead_code, unreachable_pub)]

pub mod address;
pub mod alertmanager;
pub mod answers;
pub mod apiserver;
pub mod audit;
pub mod backend;
pub mod catalog;
pub mod chaos;
pub mod cut;
pub mod documents;
pub mod endpoint;
pub mod envoy;
pub mod fleet;
pub mod front;
pub mod generated;
pub mod istiod;
pub mod kubectl;
pub mod kubelet;
pub mod lateness;
pub mod metrics;
pub mod namespace;
pub mod operator;
pub mod peer;
pub mod pki;
pub mod policy;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod replicas;
pub mod rig;
pub mod rights;
pub mod rundir;
pub mod runner;
pub mod shell;
pub mod shifted;
pub mod sidecar;
pub mod stack;
pub mod synthetic;
pub mod token;
pub mod tools;
pub mod traffic;
pub mod wait;
pub mod way;
pub mod workload;
