//! Do the commands of the documents work as they stand there? Each block runs in
//! a shell, in a folder like the repository, against a cluster with the Service,
//! binding and record that the documents speak of. There is no node: what needs one
//! goes as far as the API server lets it.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{PAUSED, PROGRAM, begin_anew};
use crate::support::catalog;
use crate::support::documents::{Block, Fate, blocks, files, read};
use crate::support::operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, Stack};
use crate::support::tools::{bin_folder, repository};
use crate::support::workload::{self, Workload};

crate::tests![
    ; alone:
    every_command_of_the_documents_works(30)
];

/// What the documents call things, which are not here by that name.
const PLACEHOLDERS: [(&str, &str); 7] = [
    ("http://127.0.0.1:8081", "http://127.0.0.1:9182"),
    (" localhost:8081", " localhost:9182"),
    (
        "postgres://catalog@db.example.org/catalog",
        "sqlite://restored.db",
    ),
    ("https://catalog.example.org", "http://127.0.0.1:9080"),
    ("http://127.0.0.1:8080", "http://127.0.0.1:9080"),
    ("pod POD", "pod web-0"),
    ("<epoch>.<revision>", "epoch.1"),
];

/// The documents' own names.
const NAMESPACE: &str = "shop";
const SERVICES: [&str; 2] = ["web", "api"];
const SECRET: &str = "catalog-credentials";

struct World<'a> {
    rig: &'a Rig,
    stack: Stack,
    folder: PathBuf,
    _workloads: Vec<Workload>,
}

async fn every_command_of_the_documents_works(rig: &Rig) -> Result<()> {
    let world = World::make(rig).await?;
    let mut failed = Vec::new();
    let mut run = 0;
    for file in files() {
        let blocks = blocks(&file, &read(&file)?);
        for block in blocks.iter().filter(|block| block.fate == Fate::Run) {
            world.as_it_was(block).await.context(file.clone())?;
            if let Err(error) = world.run(block).await {
                failed.push(format!("{}:{}: {error:#}", block.file, block.line));
            }
            run += 1;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    ensure!(run > 20, "only {run} blocks");
    Ok(())
}

impl<'a> World<'a> {
    async fn make(rig: &'a Rig) -> Result<Self> {
        let stack = Stack::start(rig, Path::new(PROGRAM)).await?;
        // What other tests left would be told of as well.
        begin_anew(rig, &stack.catalog).await?;
        rig.api
            .apply_manifests(&repository().join("deploy"))
            .await?;
        workload::make_namespace(&rig.client, NAMESPACE).await?;
        let mut workloads = Vec::new();
        for name in SERVICES {
            stack.catalog.put(&entry(name)).await?;
            let zones = ["zone-a", "zone-b"];
            workloads.push(rig.workload(NAMESPACE, name, &zones).await?);
            stack::create(rig, &stack::binding(NAMESPACE, name, &id(name))).await?;
        }
        let folder = rig.folder().join("documented");
        let world = Self {
            rig,
            stack,
            folder,
            _workloads: workloads,
        };
        world.lay_out()?;
        Ok(world)
    }

    /// The folder that the commands run in.
    fn lay_out(&self) -> Result<()> {
        std::fs::create_dir(&self.folder)?;
        for name in ["crds", "rbac", "deploy", "docs", "examples"] {
            symlink(repository().join(name), self.folder.join(name))?;
        }
        let bin = self.folder.join("bin");
        std::fs::create_dir(&bin)?;
        symlink(PROGRAM, bin.join("catalog-mesh-controller"))?;
        symlink(catalog::program()?, bin.join("catalog-server"))?;
        let binding = stack::binding(NAMESPACE, "web", &id("web"));
        std::fs::write(self.folder.join("binding.yaml"), binding.to_string())?;
        std::fs::write(self.folder.join("entry.json"), entry("web").to_string())?;
        // In whose namespace a reader works.
        let mut config: Value = serde_json::from_slice(&std::fs::read(&self.rig.api.kubeconfig)?)?;
        config["contexts"][0]["context"]["namespace"] = json!(NAMESPACE);
        std::fs::write(self.folder.join("kubeconfig"), config.to_string())?;
        Ok(())
    }

    /// Undoes what the block before did, as far as the next one could mind.
    async fn as_it_was(&self, block: &Block) -> Result<()> {
        let client = &self.rig.client;
        let change = PatchParams::default();
        let unpaused = json!({"metadata": {"annotations": {PAUSED: null}}});
        Api::<Namespace>::all(client.clone())
            .patch(NAMESPACE, &change, &Patch::Merge(unpaused))
            .await?;
        self.secret(block).await?;
        let bindings = Api::<ServiceBinding>::namespaced(client.clone(), NAMESPACE);
        let active = Patch::Merge(json!({"spec": {"suspend": false}}));
        for name in SERVICES {
            self.stack.catalog.put(&entry(name)).await?;
            bindings.patch(name, &change, &active).await?;
            stack::wait_for(self.rig, NAMESPACE, name, "Ready", "True Synced").await?;
            stack::wait_for(self.rig, NAMESPACE, name, "Suspended", "False Active").await?;
        }
        Ok(())
    }

    /// Has the Secret be there, unless the block makes it.
    async fn secret(&self, block: &Block) -> Result<()> {
        let secrets = Api::<Secret>::namespaced(self.rig.client.clone(), operator::NAMESPACE);
        let commands = &block.commands;
        if commands.contains("create secret generic") && !commands.contains("--dry-run") {
            let gone = secrets.delete(SECRET, &DeleteParams::default()).await;
            return match gone {
                Err(kube::Error::Api(status)) if status.code != 404 => {
                    Err(kube::Error::Api(status).into())
                }
                _ => Ok(()),
            };
        }
        let params = PatchParams::apply("a-user").force();
        let there = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": {"api-url": "http://catalog.example.org"},
        });
        secrets.patch(SECRET, &params, &Patch::Apply(there)).await?;
        Ok(())
    }

    /// Runs a block in a shell; an error unless it succeeds.
    async fn run(&self, block: &Block) -> Result<()> {
        let mut commands = without_a_node(&block.commands);
        for (word, meaning) in PLACEHOLDERS {
            commands = commands.replace(word, meaning);
        }
        let output = Command::new("sh")
            .args(["-eu", "-c", &commands])
            .current_dir(&self.folder)
            .env("PATH", self.search_path()?)
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .env("HOME", &self.folder)
            .env("CATALOG", format!("http://{CATALOG}"))
            .env("CATALOG_MESH_CATALOG_URL", &self.stack.catalog.url)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{}\n{commands}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn search_path(&self) -> Result<OsString> {
        let own = [self.folder.join("bin"), bin_folder()];
        let others = std::env::var_os("PATH").unwrap_or_default();
        let all = own.into_iter().chain(std::env::split_paths(&others));
        Ok(std::env::join_paths(all)?)
    }
}

/// The same commands as far as they come without a kubelet: a Pod to be looked into
/// is admitted and not made, and whoever forwards a port or runs a program in a Pod
/// waits for one in vain.
/// (Logs of no Pod are empty, and no error.)
fn without_a_node(commands: &str) -> String {
    let lines = commands.lines().map(|line| {
        for action in [" port-forward ", " exec "] {
            if line.contains(action) {
                let line = line.trim_end_matches(" &");
                let soon = line.replace(action, &format!("{action}--pod-running-timeout=1s "));
                return format!("{soon} 2>said && exit 1\ngrep 'timed out waiting' said");
            }
        }
        line.replace("kubectl run ", "kubectl run --dry-run=server ")
            .replace(" -it --rm ", " ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn id(name: &str) -> String {
    format!("{name}-1")
}

fn entry(name: &str) -> Value {
    let mut entry = stack::record(&id(name), NAMESPACE, name);
    entry["timeout"] = json!("5s");
    entry["healthCheck"] = json!({});
    entry
}
