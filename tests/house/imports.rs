//! Who may import whom.

use std::path::Path;

use crate::source::{self, production, tokens};

/// Which libraries a module may use.
enum Libraries {
    /// These, and the standard library.
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

/// A row of the table. Paths stand for all below them.
struct Layer {
    /// Module below src/.
    module: &'static str,
    /// What it may use of the package beside itself.
    own: &'static [&'static str],
    /// What it may use of others.
    libraries: Libraries,
}

use Libraries::{AllBut, Only};

/// What the catalog's edge must not know: the cluster, and how it is wired.
const CLUSTER_AND_WIRING: &[&str] = &[
    "kube",
    "kube_runtime",
    "k8s_openapi",
    "anyhow",
    "clap",
    "prometheus",
];

/// The table. `lib` only lists the modules. Nobody but `main` imports `app`.
#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    Layer { module: "admin",      own: &["metrics"], libraries: AllBut(&["kube", "kube_runtime", "k8s_openapi", "reqwest", "sqlx", "anyhow", "clap"]) },
    Layer { module: "alert",      own: &["domain", "metrics", "catalog::answer::no_answer", "catalog::client", "catalog::credentials", "catalog::error"], libraries: Only(&["fastrand", "futures", "jiff", "reqwest", "rustls", "serde", "serde_json", "thiserror", "tokio", "tracing"]) },
    Layer { module: "api",        own: &[], libraries: Only(&["serde", "serde_json", "schemars", "k8s_openapi", "kube::CustomResource", "kube::KubeSchema", "kube::Resource", "kube::core"]) },
    Layer { module: "app",        own: &["*"], libraries: AllBut(&[]) },
    Layer { module: "args",       own: &["domain"], libraries: AllBut(&["kube", "kube_runtime", "tokio", "reqwest", "sqlx", "prometheus"]) },
    Layer { module: "catalog",    own: &["domain", "metrics"], libraries: AllBut(CLUSTER_AND_WIRING) },
    Layer { module: "controller", own: &["alert::Alerts", "alert::value", "api", "domain", "metrics", "catalog::Catalog", "catalog::error", "catalog::event", "catalog::known", "catalog::report", "health::prober::Prober", "health::target", "health::view"], libraries: AllBut(&["reqwest", "sqlx", "axum", "anyhow", "clap", "prometheus"]) },
    Layer { module: "crd",        own: &["api"], libraries: AllBut(&["kube::Client", "kube::client", "kube_runtime", "tokio", "reqwest", "anyhow", "clap"]) },
    Layer { module: "diff",       own: &["api", "args", "domain", "files", "catalog::Catalog", "catalog::error", "controller::apply::in_time", "controller::error", "controller::mesh_api", "controller::mirror", "controller::readable", "controller::sources", "controller::world"], libraries: AllBut(&["reqwest", "hyper_util", "sqlx", "axum", "anyhow", "clap", "prometheus"]) },
    Layer { module: "domain",     own: &["api"], libraries: Only(&["hashbrown", "internment", "serde", "serde_json", "sha2", "smallvec", "thiserror", "jiff", "k8s_openapi::apimachinery", "k8s_openapi::jiff"]) },
    Layer { module: "files",      own: &["api", "domain"], libraries: AllBut(&["kube", "kube_runtime", "tokio", "reqwest", "hyper_util", "sqlx", "anyhow", "clap", "prometheus"]) },
    Layer { module: "health",     own: &["domain", "metrics"], libraries: Only(&["fastrand", "futures::FutureExt", "httparse", "jiff", "rustls", "slab", "thiserror", "tokio", "tokio_rustls", "tracing", "webpki"]) },
    Layer { module: "main",       own: &["*"], libraries: AllBut(&[]) },
    Layer { module: "metrics",    own: &[], libraries: Only(&["prometheus", "thiserror"]) },
    Layer { module: "render",     own: &["api", "args", "domain", "files"], libraries: AllBut(&["kube", "kube_runtime", "tokio", "reqwest", "hyper_util", "sqlx", "anyhow", "prometheus"]) },
    Layer { module: "telemetry",  own: &[], libraries: AllBut(&["kube", "kube_runtime", "reqwest", "sqlx", "anyhow", "clap"]) },
];

/// Libraries of Cargo.toml by which a layer could be left. A path that begins
/// with another name is a module or a type of the file's own.
const LIBRARIES: &[&str] = &[
    "anyhow",
    "axum",
    "clap",
    "fastrand",
    "futures",
    "hashbrown",
    "http",
    "httparse",
    "hyper_util",
    "internment",
    "jiff",
    "json_patch",
    "k8s_openapi",
    "kube",
    "kube_runtime",
    "lz4_flex",
    "prometheus",
    "reqwest",
    "rustls",
    "schemars",
    "serde",
    "serde_json",
    "serde_path_to_error",
    "serde_saphyr",
    "sha2",
    "slab",
    "smallvec",
    "sqlx",
    "thiserror",
    "tokio",
    "tokio_rustls",
    "tower",
    "tracing",
    "tracing_subscriber",
    "url",
    "webpki",
];

/// The modules of the table, in order.
pub(crate) fn modules() -> Vec<String> {
    LAYERS.iter().map(|layer| layer.module.to_owned()).collect()
}

/// Imports of this file (as in `src/domain/build.rs`) that the table forbids.
pub(crate) fn broken(file: &Path, source: &str) -> Vec<String> {
    let here = module_path(file);
    let Some(layer) = LAYERS
        .iter()
        .find(|layer| here.first().is_some_and(|first| first == layer.module))
    else {
        return Vec::new();
    };
    let words = production(&tokens(source));
    let complaint = |path: source::Path| {
        let forbidden = match absolute(&here, &path.names) {
            Some(own) => !may_use_own(layer, &own),
            None => !may_use_library(layer, &path.names),
        };
        forbidden.then(|| {
            format!(
                "{}: line {}: {} must not use {}",
                file.display(),
                path.line,
                layer.module,
                path.names.join("::")
            )
        })
    };
    source::paths(&words)
        .into_iter()
        .filter_map(complaint)
        .collect()
}

/// `src/domain/policy/mod.rs` is `domain::policy`.
fn module_path(file: &Path) -> Vec<String> {
    let names = file.with_extension("");
    let names = names
        .iter()
        .skip(1)
        .map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "mod").collect()
}

/// The path within the package; none where it leads to a library.
fn absolute(here: &[String], names: &[String]) -> Option<Vec<String>> {
    let supers = names.iter().take_while(|name| *name == "super").count();
    match names.first().map(String::as_str) {
        Some("crate" | "catalog_mesh_controller") => Some(names[1..].to_vec()),
        Some("super") => {
            let base = &here[..here.len().saturating_sub(supers)];
            Some(base.iter().chain(&names[supers..]).cloned().collect())
        }
        _ => None,
    }
}

fn may_use_own(layer: &Layer, names: &[String]) -> bool {
    let inside = names.first().is_some_and(|first| first == layer.module);
    inside || layer.own.contains(&"*") || layer.own.iter().any(|allowed| begins(names, allowed))
}

fn may_use_library(layer: &Layer, names: &[String]) -> bool {
    if !names
        .first()
        .is_some_and(|first| LIBRARIES.contains(&first.as_str()))
    {
        return true;
    }
    match &layer.libraries {
        Only(allowed) => allowed.iter().any(|allowed| begins(names, allowed)),
        AllBut(forbidden) => !forbidden.iter().any(|forbidden| begins(names, forbidden)),
    }
}

fn begins(names: &[String], path: &str) -> bool {
    let path: Vec<_> = path.split("::").collect();
    names.len() >= path.len() && names.iter().zip(&path).all(|(name, part)| name == part)
}

mod tests {
    use std::fs;

    use super::*;
    use crate::root;

    #[track_caller]
    fn found(file: &str, source: &str) {
        assert_eq!(broken(Path::new(file), source).len(), 1, "{file}: {source}");
    }

    #[track_caller]
    fn passes(file: &str, source: &str) {
        assert_eq!(broken(Path::new(file), source), Vec::<String>::new());
    }

    #[test]
    fn every_library_of_the_program_is_one_that_is_looked_for() {
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
        let lines = rest.lines().take_while(|line| !line.starts_with('['));
        let names = lines.filter_map(|line| line.split_once(" = ").map(|(name, _)| name));
        for name in names.filter(|name| !name.starts_with('#')) {
            let path = match name {
                "rustls-webpki" => "webpki".to_owned(),
                // Nothing is taken from it but a feature.
                "sqlx-core" => continue,
                name => name.replace('-', "_"),
            };
            assert!(LIBRARIES.contains(&path.as_str()), "{path} is missing");
        }
    }

    #[test]
    fn an_import_across_a_layer_is_found_however_it_is_written() {
        for source in [
            "use crate::catalog::Catalog;",
            "use crate::{api::policy, catalog::error};",
            "use super::super::catalog::error::CatalogError;",
            "fn x(y: crate::metrics::Metrics) {}",
            "use tokio::time;",
            "use tokio;",
            "fn x() { tracing::info!(\"y\") }",
            "use kube::Client;",
            "use k8s_openapi::api::core::v1::Pod;",
        ] {
            found("src/domain/build.rs", source);
        }
        found(
            "src/domain/policy/merge/mod.rs",
            "use super::super::super::controller;",
        );
    }

    #[test]
    fn what_a_layer_may_use_passes() {
        passes(
            "src/domain/build.rs",
            "use std::fmt; use serde_json::{Value, json}; use super::policy::Retries; use crate::api::policy;
             use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition; use self::inner::X;",
        );
        passes(
            "src/domain/policy/mod.rs",
            "use super::names; use super::super::api::policy; use bounds::Bounds;",
        );
        passes(
            "src/domain/plan.rs",
            "#[cfg(test)] mod tests { use tokio::time; use crate::catalog::fake; }",
        );
        passes(
            "src/app.rs",
            "use crate::controller; use anyhow::Context; use kube::Client;",
        );
    }

    #[test]
    fn each_row_forbids_something() {
        for (file, source) in [
            ("src/admin.rs", "use crate::controller::context;"),
            ("src/alert/mod.rs", "use crate::catalog::Catalog;"),
            ("src/alert/mod.rs", "use crate::controller::leadership;"),
            ("src/alert/mod.rs", "use kube::Client;"),
            ("src/api/policy.rs", "use crate::domain::duration;"),
            ("src/api/policy.rs", "use kube::Client;"),
            ("src/args.rs", "use crate::app;"),
            ("src/catalog/http.rs", "use crate::api::policy;"),
            ("src/catalog/http.rs", "use kube::Client;"),
            (
                "src/controller/observe.rs",
                "use crate::catalog::http::HttpCatalog;",
            ),
            ("src/controller/observe.rs", "use crate::health::prober;"),
            ("src/controller/observe.rs", "use reqwest::Client;"),
            ("src/controller/observe.rs", "use crate::args::RunArgs;"),
            ("src/crd.rs", "use crate::domain::names;"),
            ("src/diff/mod.rs", "use crate::controller::apply::perform;"),
            ("src/diff/mod.rs", "use crate::controller::{watches};"),
            ("src/diff/mod.rs", "use reqwest::Client;"),
            ("src/files/mod.rs", "use crate::args::RenderArgs;"),
            ("src/files/mod.rs", "use kube::Client;"),
            ("src/health/prober.rs", "use crate::controller::world;"),
            ("src/health/prober.rs", "use crate::catalog::Catalog;"),
            ("src/health/probe/mod.rs", "use kube::Client;"),
            ("src/health/probe/mod.rs", "use reqwest::Client;"),
            ("src/metrics.rs", "use crate::domain::names;"),
            ("src/metrics.rs", "use tokio::sync;"),
            ("src/render/mod.rs", "use crate::controller::apply;"),
            ("src/render/mod.rs", "use std::{fs}; use tokio::fs::File;"),
            ("src/telemetry.rs", "use crate::args;"),
        ] {
            found(file, source);
        }
    }
}
