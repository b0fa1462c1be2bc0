//! What do roles in manifests grant, and does that cover a request?

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::audit::{Entry, ObjectRef};
use super::stack::PATIENCE;
use super::tools::repository;
use super::wait;

/// Waits until the API server knows whether this user may do that: its own copy of
/// the roles comes a moment later.
pub async fn takes_hold(
    client: &kube::Client,
    user: &str,
    attributes: &Value,
    allowed: bool,
) -> Result<()> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {"user": user, "resourceAttributes": attributes},
    });
    wait::until("the API server's own copy", PATIENCE, async || {
        let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
            .header("content-type", "application/json")
            .body(review.to_string().into_bytes())?;
        let answer: Value = client.request(request).await?;
        ensure!(answer["status"]["allowed"] == allowed, "{answer}");
        Ok(())
    })
    .await
}

/// The same of whoever was given a role that has this among others: all bindings.
pub async fn may_list_bindings(client: &kube::Client, user: &str) -> Result<()> {
    let list = json!({"verb": "list", "group": "aikernel.io", "resource": "servicebindings"});
    takes_hold(client, user, &list, true).await
}

/// One verb on one resource.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Grant {
    /// Of the role: a namespace, or the whole cluster.
    namespace: Option<String>,
    group: String,
    resource: String,
    /// One object alone.
    name: Option<String>,
    verb: String,
}

impl Grant {
    /// Whether it is of a role in this namespace.
    pub fn is_of(&self, namespace: &str) -> bool {
        self.namespace.as_deref() == Some(namespace)
    }

    fn covers(&self, verb: &str, object: &ObjectRef) -> bool {
        let resource = match object.subresource.as_str() {
            "" => object.resource.clone(),
            sub => format!("{}/{sub}", object.resource),
        };
        let within = self.namespace.as_ref();
        let named = self.name.as_ref();
        self.verb == verb
            && self.group == object.api_group
            && self.resource == resource
            && within.is_none_or(|namespace| *namespace == object.namespace)
            && named.is_none_or(|name| *name == object.name)
    }
}

/// Everything that some roles grant.
#[derive(Clone, Debug, Default)]
pub struct Grants(pub BTreeSet<Grant>);

impl Grants {
    /// Those of the operator in rbac/.
    pub fn of_the_operator() -> Result<Self> {
        let mut grants = Self::default();
        for file in ["20-clusterrole.yaml", "40-role.yaml"] {
            let path = repository().join("rbac").join(file);
            grants.add(&read(&path)?)?;
        }
        Ok(grants)
    }

    /// Those of further installations: the Role of rbac/ in a namespace of their
    /// own, each called by its account.
    pub fn of_installations<'a>(accounts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut grants = Self::default();
        let mut role = read(&repository().join("rbac/40-role.yaml"))?;
        for account in accounts {
            role["metadata"]["namespace"] = account.into();
            grants.add(&role)?;
        }
        Ok(grants)
    }

    /// Adds those of this Role or ClusterRole.
    pub fn add(&mut self, role: &Value) -> Result<()> {
        let namespace = role["metadata"]["namespace"].as_str().map(str::to_owned);
        for rule in role["rules"].as_array().context("a role without rules")? {
            let names = match rule.get("resourceNames") {
                Some(_) => list(rule, "resourceNames")?.into_iter().map(Some).collect(),
                None => vec![None],
            };
            for group in list(rule, "apiGroups")? {
                for resource in list(rule, "resources")? {
                    for verb in list(rule, "verbs")? {
                        for name in &names {
                            self.0.insert(Grant {
                                namespace: namespace.clone(),
                                group: group.clone(),
                                resource: resource.clone(),
                                name: name.clone(),
                                verb: verb.clone(),
                            });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The grants that these requests make use of, and the requests that none
    /// covers. A question about the API itself takes no grant.
    pub fn compare<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> (BTreeSet<Grant>, Vec<&'a Entry>) {
        let (mut used, mut beyond) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            let Some(object) = &entry.object_ref else {
                continue;
            };
            let mut verbs = vec![entry.verb.as_str()];
            // An apply that creates asks for both.
            if entry.verb == "patch" && entry.response_status.code == 201 {
                verbs.push("create");
            }
            for verb in verbs {
                let covering: Vec<_> = self.0.iter().filter(|g| g.covers(verb, object)).collect();
                if covering.is_empty() {
                    beyond.push(entry);
                }
                used.extend(covering.into_iter().cloned());
            }
        }
        (used, beyond)
    }
}

fn list(rule: &Value, key: &str) -> Result<Vec<String>> {
    let list = rule[key].as_array().with_context(|| format!("no {key}"))?;
    Ok(list
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect())
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}
