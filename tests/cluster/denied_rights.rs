//! What happens where one right of rbac/ is missing? Each in turn is taken away:
//! the operator names it in a condition or in its log, does all else as before,
//! and goes on by itself once it is granted.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checked::{Checked, quicker};
use crate::scene::{DR, PROGRAM, Scene, VS, message};
use crate::support::catalog::Catalog;
use crate::support::endpoint::Trouble as Failing;
use crate::support::operator::{ACCOUNT, LEASE, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::rights;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, Stack};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::way::Way;
use crate::support::workload::serve_by_hand;
use crate::write_back;

crate::tests![
    ; alone:
    a_right_that_is_missing_is_named_and_all_else_goes_on(80)
];

const WAY: &str = "127.0.0.1:9443";

/// A verb on a resource.
#[derive(Clone, Debug, PartialEq)]
struct Right {
    verb: String,
    group: String,
    resource: String,
}

/// The rules of both roles as they are shipped.
struct Shipped {
    everywhere: Vec<PolicyRule>,
    here: Vec<PolicyRule>,
}

struct Bed<'a> {
    scene: Scene<'a>,
    way: Way,
    shipped: Shipped,
    /// Where the log has been read to.
    read: usize,
    /// Makes names and values that were not there before.
    number: u32,
    /// The record of a binding that is there all along.
    canary: Value,
    /// Whether an endpoint of the checked service is out.
    out: bool,
    /// Whether the operator cannot know whom to take out.
    blind: bool,
}

async fn a_right_that_is_missing_is_named_and_all_else_goes_on(rig: &Rig) -> Result<()> {
    let mut bed = Bed::start(rig).await?;
    let checked_by = bed.scene.neighbour("denied-checked").await?;
    let checked = Checked::unbound(&checked_by, "web", 7).await?;
    checked
        .bind(json!({"healthCheck": quicker()}), json!({}))
        .await?;
    checked.is_healthy().await?;
    let rights = bed.shipped.rights();
    ensure!(rights.len() > 30, "{rights:?}");
    for right in &rights {
        let begun = Instant::now();
        bed.without(right, &checked)
            .await
            .with_context(|| format!("without the right to {right:?}"))?;
        eprintln!(
            "{} {}: {:.1} s",
            right.verb,
            right.resource,
            begun.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

impl Right {
    fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }

    /// As the API server names it when it denies it.
    fn words(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }

    /// These rules without it.
    fn taken_from(&self, rules: &[PolicyRule]) -> Vec<PolicyRule> {
        let has =
            |list: &Option<Vec<String>>, item: &str| list.iter().flatten().any(|one| one == item);
        let mut left = Vec::new();
        for rule in rules {
            let grants = has(&rule.api_groups, &self.group)
                && has(&rule.resources, &self.resource)
                && rule.verbs.contains(&self.verb);
            if !grants {
                left.push(rule.clone());
                continue;
            }
            let mut others = rule.clone();
            others.resources = others.resources.map(|mut resources| {
                resources.retain(|resource| *resource != self.resource);
                resources
            });
            let mut rest = rule.clone();
            rest.resources = Some(vec![self.resource.clone()]);
            rest.verbs.retain(|verb| *verb != self.verb);
            left.extend(
                [others, rest]
                    .into_iter()
                    .filter(|rule| !rule.verbs.is_empty() && has_any(&rule.resources)),
            );
        }
        left
    }
}

fn has_any(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

impl Shipped {
    async fn read(rig: &Rig) -> Result<Self> {
        let everywhere = cluster_roles(rig).get(ACCOUNT).await?.rules;
        let here = roles(rig).get(ACCOUNT).await?.rules;
        Ok(Self {
            everywhere: everywhere.context("no rules")?,
            here: here.context("no rules")?,
        })
    }

    /// One by one. Those that need a new start of the operator stand together.
    fn rights(&self) -> Vec<Right> {
        let mut rights = Vec::new();
        for rule in self.everywhere.iter().chain(&self.here) {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        rights.push(Right {
                            verb: verb.clone(),
                            group: group.clone(),
                            resource: resource.clone(),
                        });
                    }
                }
            }
        }
        rights
    }

    /// Grants all of it but this right.
    async fn grant(&self, rig: &Rig, but: Option<&Right>) -> Result<()> {
        let less = |rules: &[PolicyRule]| match but {
            Some(right) => right.taken_from(rules),
            None => rules.to_vec(),
        };
        let params = PatchParams::default();
        let rules = json!({"rules": less(&self.everywhere)});
        let patch = Patch::Merge(rules);
        cluster_roles(rig).patch(ACCOUNT, &params, &patch).await?;
        let patch = Patch::Merge(json!({"rules": less(&self.here)}));
        roles(rig).patch(ACCOUNT, &params, &patch).await?;
        Ok(())
    }
}

fn cluster_roles(rig: &Rig) -> Api<ClusterRole> {
    Api::all(rig.client.clone())
}

fn roles(rig: &Rig) -> Api<Role> {
    Api::namespaced(rig.client.clone(), NAMESPACE)
}

impl<'a> Bed<'a> {
    async fn start(rig: &'a Rig) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), "denied", CATALOG).await?;
        let way = Way::open(rig, WAY)?;
        let kubeconfig = way.kubeconfig(rig, NAMESPACE, ACCOUNT).await?;
        let kubeconfig = kubeconfig.to_str().context("path")?;
        let flags = [
            "--kubeconfig",
            kubeconfig,
            "--register=on",
            "--register-service-labels=made=yes",
            "--max-delete-percent=100",
        ];
        let program = Path::new(PROGRAM);
        let url = catalog.url.clone();
        let operator = stack::operator(rig, "operator-denied", program, &url, &flags).await?;
        let stack = Arc::new(Stack { catalog, operator });
        let scene = Scene::beside(rig, stack, "denied").await?;
        for name in ["canary", "edited"] {
            scene.bound(name).await?;
        }
        Ok(Self {
            canary: scene.record("canary"),
            scene,
            way,
            shipped: Shipped::read(rig).await?,
            read: 0,
            number: 100,
            out: false,
            blind: false,
        })
    }

    fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    /// Takes the right away, sees what follows, and gives it back.
    async fn without(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        self.read = self.log()?.len();
        match (right.verb.as_str(), right.resource.as_str()) {
            (_, "leases") => self.without_lease(right, checked).await,
            ("list", resource) => {
                // First one that needs the right again, having listed once.
                self.deny(right).await?;
                self.way.expire(resource);
                self.is_named(right).await?;
                ensure!(self.way.has_expired(resource), "nobody asked for a list");
                if right.group == "networking.istio.io" {
                    // What cannot be seen any more is not written either.
                    self.no_policy(right).await?;
                    self.rest_goes_on(right, checked).await?;
                } else {
                    self.all_else_goes_on(right, checked).await?;
                }
                self.read = self.log()?.len();
                self.without_at_the_start(right, checked).await
            }
            ("get", "namespaces") => self.without_at_the_start(right, checked).await,
            ("watch", _) => {
                self.deny(right).await?;
                self.way.cut();
                self.is_named(right).await?;
                self.all_else_goes_on(right, checked).await?;
                self.grant().await
            }
            _ => self.without_under_way(right, checked).await,
        }
    }

    /// What is needed before anything else.
    async fn without_at_the_start(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        let operator = &self.scene.stack.operator;
        operator.process.kill().await?;
        self.deny(right).await?;
        operator.start_again().await?;
        self.is_named(right).await?;
        let needed = ["servicebindings", "services", "namespaces"];
        let nothing_goes = right.verb == "list" && needed.contains(&right.resource.as_str());
        let blocks = right.verb == "list" && right.group == "networking.istio.io";
        let sees = ["pods", "endpointslices"];
        self.blind = right.verb == "list" && sees.contains(&right.resource.as_str());
        if nothing_goes {
            let (status, said) = page("readyz").await?;
            ensure!(status == 503, "it is ready: {said}");
            let gate = said.to_lowercase().replace(' ', "");
            ensure!(
                gate.contains(&format!("firstlistof{}", right.resource)),
                "{said}"
            );
        } else if blocks {
            self.no_policy(right).await?;
            stack::leads(&self.scene.stack.operator).await?;
            self.rest_goes_on(right, checked).await?;
        } else {
            stack::leads(&self.scene.stack.operator).await?;
            self.all_else_goes_on(right, checked).await?;
        }
        let (status, said) = page("livez").await?;
        ensure!(status == 200, "{said}");
        self.grant().await?;
        self.blind = false;
        stack::leads(&self.scene.stack.operator).await?;
        self.scene.synced("canary").await?;
        self.all_else_goes_on(right, checked).await
    }

    /// There is no policy without both kinds, which the bindings say; the rest
    /// does not need them.
    async fn no_policy(&self, right: &Right) -> Result<()> {
        let reason = "False MeshApiMissing";
        wait::until("the word of the right", PATIENCE, async || {
            let said = self.scene.says("canary", "MeshProgrammed", reason).await?;
            let said = message(&said, "MeshProgrammed");
            ensure!(said.contains(&right.words()), "{said}");
            Ok(())
        })
        .await
    }

    /// What leadership needs.
    async fn without_lease(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        let rig = self.scene.rig;
        let operator = &self.scene.stack.operator;
        let lease = ["lease", LEASE, "-n", NAMESPACE];
        let hold = async |holder: &str| {
            let patch = json!({"spec": {"holderIdentity": holder}}).to_string();
            let words = [
                "patch",
                "lease",
                LEASE,
                "-n",
                NAMESPACE,
                "--type=merge",
                "-p",
            ];
            rig.kubectl(&[&words[..], &[patch.as_str()]].concat()).await
        };
        if right.verb == "update" {
            self.deny(right).await?;
            self.is_named(right).await?;
            self.all_else_goes_on(right, checked).await?;
            return self.grant().await;
        }
        operator.process.kill().await?;
        match right.verb.as_str() {
            "create" => rig.kubectl(&[&["delete"], &lease[..]].concat()).await?,
            "watch" => hold("somebody").await?,
            _ => hold("").await?,
        };
        self.deny(right).await?;
        operator.process.start().await?;
        self.is_named(right).await?;
        // It stands by with all it needs, and waits.
        operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
        let (status, said) = page("livez").await?;
        ensure!(status == 200, "{said}");
        self.grant().await?;
        if right.verb == "watch" {
            hold("").await?;
        }
        stack::leads(operator).await?;
        self.all_else_goes_on(right, checked).await
    }

    /// What is needed when something changes.
    async fn without_under_way(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        let name = format!("w{}", self.next());
        let scene = &self.scene;
        let is_rule = right.group == "networking.istio.io";
        let kind = if right.resource == "virtualservices" {
            VS
        } else {
            DR
        };
        // What has to be there before.
        match right.verb.as_str() {
            "delete" if is_rule => {
                scene.bound(&name).await?;
            }
            "delete" => self.made(&name).await?,
            _ => {}
        }
        self.deny(right).await?;
        let scene = &self.scene;
        if is_rule && ["get", "patch"].contains(&right.verb.as_str()) {
            let rule = scene.rule(kind, "edited").await?;
            let mut spec = rule.data["spec"].clone();
            let own = spec.clone();
            match kind {
                VS => spec["http"][0]["timeout"] = json!("99s"),
                _ => spec["trafficPolicy"]["outlierDetection"]["interval"] = json!("99s"),
            }
            scene.edit(kind, "edited", json!({"spec": spec})).await?;
            self.is_named(right).await?;
            self.all_else_goes_on(right, checked).await?;
            self.grant().await?;
            let field = |spec: &Value| match kind {
                VS => spec["http"][0]["timeout"].clone(),
                _ => spec["trafficPolicy"]["outlierDetection"]["interval"].clone(),
            };
            let back = |now: &kube::api::DynamicObject| {
                let now = field(&now.data["spec"]);
                now != "99s" && (kind == VS || now == field(&own))
            };
            let scene = &self.scene;
            scene.until(kind, "edited", "our field again", back).await?;
            scene.synced("edited").await?;
            return Ok(());
        }
        if right.is("patch", "pods") {
            checked.endpoints[0].fail(Failing::Status(500)).await?;
            self.is_named(right).await?;
            self.all_else_goes_on(right, checked).await?;
            self.grant().await?;
            let out: &[usize] = if self.out { &[0, 1] } else { &[0] };
            checked.are_out(out).await?;
            checked.endpoints[0].recover().await?;
            checked.endpoints[1].recover().await?;
            self.out = false;
            return checked.is_healthy().await;
        }
        match (right.verb.as_str(), right.resource.as_str()) {
            ("create", "servicebindings") => self.labelled(&name).await?,
            ("delete", "servicebindings") => scene.stack.catalog.delete(&scene.id(&name)).await?,
            ("delete", _) => scene.delete_binding(&name).await?,
            ("create" | "patch", _) => {
                scene.service(&name).await?;
                scene.put(&scene.record(&name)).await?;
                scene.create(&scene.binding(&name)).await?;
            }
            _ => bail!("nobody knows what needs {right:?}"),
        }
        self.is_named(right).await?;
        self.all_else_goes_on(right, checked).await?;
        self.grant().await?;
        match right.verb.as_str() {
            "delete" => self.scene.gone(&name).await,
            _ if right.resource == "events" => Ok(()),
            _ => self.scene.synced(&name).await.map(|_| ()),
        }
    }

    /// A Service that gets a binding once its record is there, and that record.
    async fn labelled(&self, name: &str) -> Result<()> {
        let service = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"made": "yes"}},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }))?;
        let params = PostParams::default();
        self.scene.services().create(&params, &service).await?;
        self.scene.put(&self.scene.record(name)).await
    }

    /// A binding that was made for the catalog.
    async fn made(&self, name: &str) -> Result<()> {
        self.labelled(name).await?;
        let bindings = self.scene.bindings();
        wait::until("the catalog's binding", PATIENCE, async || {
            bindings.get(name).await?;
            Ok(())
        })
        .await?;
        self.scene.synced(name).await.map(|_| ())
    }

    async fn deny(&self, right: &Right) -> Result<()> {
        self.shipped.grant(self.scene.rig, Some(right)).await?;
        self.takes_hold(right, false).await
    }

    async fn grant(&self) -> Result<()> {
        self.shipped.grant(self.scene.rig, None).await
    }

    /// Waits until the API server knows of it.
    async fn takes_hold(&self, right: &Right, allowed: bool) -> Result<()> {
        let (resource, sub) = match right.resource.split_once('/') {
            Some((resource, sub)) => (resource, sub),
            None => (right.resource.as_str(), ""),
        };
        let namespace = if right.resource == "leases" {
            NAMESPACE
        } else {
            ""
        };
        let name = match (right.verb.as_str(), right.resource.as_str()) {
            ("create", _) => "",
            (_, "leases") => LEASE,
            ("get", "namespaces") => "kube-system",
            _ => "",
        };
        let attributes = json!({
            "verb": right.verb, "group": right.group, "resource": resource,
            "subresource": sub, "namespace": namespace, "name": name,
        });
        let client = &self.scene.rig.client;
        let user = crate::support::operator::USER;
        rights::takes_hold(client, user, &attributes, allowed).await
    }

    /// The right is named by the log or by a condition.
    async fn is_named(&self, right: &Right) -> Result<()> {
        let words = right.words();
        wait::until(&format!("the words {words:?}"), PATIENCE, async || {
            let log = self.log()?;
            let log = log
                .get(self.read..)
                .unwrap_or_default()
                .replace("\\\"", "\"");
            if log.contains(&words) {
                return Ok(());
            }
            let bindings = self.scene.bindings().list(&Default::default()).await?;
            let said = bindings.items.iter().any(|binding| {
                let conditions = binding.status.iter().flat_map(|status| &status.conditions);
                conditions.into_iter().any(|c| c.message.contains(&words))
            });
            ensure!(said, "neither the log nor a condition has them");
            Ok(())
        })
        .await
    }

    fn log(&self) -> Result<String> {
        let log = self.scene.stack.operator.process.log();
        Ok(std::fs::read_to_string(log)?)
    }

    /// Whatever does not need the right: the catalog's next change comes to the
    /// mesh, an endpoint leaves it or comes back, and the catalog hears of
    /// another one.
    async fn all_else_goes_on(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        let number = self.next();
        let timeout = format!("{number}s");
        // One object is written where the other may not be.
        let of_route = right.resource == "destinationrules";
        if of_route {
            self.canary["timeout"] = json!(timeout);
        } else {
            self.canary["circuitBreaker"]["interval"] = json!(timeout);
        }
        let scene = &self.scene;
        scene.put(&self.canary).await?;
        self.rest_goes_on(right, checked).await?;
        let scene = &self.scene;
        let what = format!("the change {number}");
        if of_route {
            let there = |vs: &kube::api::DynamicObject| {
                vs.data["spec"]["http"][0]["timeout"] == timeout.as_str()
            };
            scene.until(VS, "canary", &what, there).await?;
        } else {
            let there = |dr: &kube::api::DynamicObject| {
                dr.data["spec"]["trafficPolicy"]["outlierDetection"]["interval"] == timeout.as_str()
            };
            scene.until(DR, "canary", &what, there).await?;
        }
        Ok(())
    }

    /// The same without the catalog's changes. Endpoints leave and come back in
    /// turn, which is what takes time.
    async fn rest_goes_on(&mut self, right: &Right, checked: &Checked<'_>) -> Result<()> {
        let number = self.next();
        let turns = !right.is("patch", "pods") && !self.blind;
        if turns {
            self.out = !self.out;
            let endpoint = &checked.endpoints[1];
            if self.out {
                endpoint.fail(Failing::Status(500)).await?;
            } else {
                endpoint.recover().await?;
            }
        }
        let scene = &self.scene;
        // Who does not know its cluster's name reports as nobody.
        let nameless = right.is("get", "namespaces");
        if right.resource != "endpointslices" && !nameless {
            let address = format!("10.9.{}.{}", number / 250, number % 250 + 1);
            let here = [(address.clone(), true)];
            serve_by_hand(&scene.rig.client, &scene.namespace, "canary", &here).await?;
            let expected = [format!("{address} true")].into();
            write_back::lists(scene, "canary", &expected).await?;
        }
        if turns {
            let out: &[usize] = if self.out { &[1] } else { &[] };
            checked.are_out(out).await?;
        }
        Ok(())
    }
}

/// What the operator's port says, with the status.
async fn page(path: &str) -> Result<(u16, String)> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let asked = http.get(format!("http://{OPERATOR}/{path}"));
    let answer = asked.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}
