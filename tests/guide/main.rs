//! Does the guide for users say what is so? Fields, outcomes, reasons, versions,
//! and the tests that stand behind a statement are compared with the program,
//! its schema and the tests themselves.
//!
//! `UPDATE_DOCS=1 cargo test --test guide` writes the generated parts anew.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "the helpers of tests are tests, which clippy cannot tell; some files are shared with other tests"
)]

#[path = "../support/documents.rs"]
mod documents;
#[path = "../support/situations.rs"]
mod situations;

mod argo;
mod commands;
mod fields;
mod operations;
mod outcomes;
mod page;
mod troubleshooting;
mod upgrade;
