//! On which machine, and with which versions, was something measured? Reads
//! /proc, asks git and the API server.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::support::tools::repository;

/// Machine and versions; `client` is of the cluster, where there is one.
pub(crate) async fn describe(client: Option<&kube::Client>) -> Result<Value> {
    let cpus = read("/proc/cpuinfo");
    let model = field(&cpus, "model name").unwrap_or("unknown");
    let memory_kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kubernetes = match client {
        Some(client) => Some(client.apiserver_version().await?.git_version),
        None => None,
    };
    Ok(json!({
        "machine": {
            "cores": std::thread::available_parallelism()?.get(),
            "cpu": model,
            "memoryMiB": memory_kib / 1024,
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
        },
        "versions": {
            "operator": env!("CARGO_PKG_VERSION"),
            "commit": commit(),
            "kubernetes": kubernetes,
        },
    }))
}

/// The load averages of the last 1, 5 and 15 minutes: what else the machine did.
pub(crate) fn load() -> String {
    let load = read("/proc/loadavg");
    load.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let answer = Command::new("git")
            .args(args)
            .current_dir(repository())
            .output();
        answer
            .ok()
            .filter(|answer| answer.status.success())
            .map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    match git(&["rev-parse", "--short", "HEAD"]) {
        Some(commit) if changed => format!("{commit} and changes"),
        Some(commit) => commit,
        None => "unknown".to_owned(),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
