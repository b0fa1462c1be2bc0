//! Does exactly one of two replicas write, whatever becomes of the other?
//! Times are those of the default flags.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, VS, line};
use crate::support::audit::Mark;
use crate::support::catalog::Catalog;
use crate::support::lateness::Lateness;
use crate::support::operator::{ACCOUNT, LEASE, NAMESPACE, Operator, USER};
use crate::support::rig::Rig;
use crate::support::stack::{CATALOG, PATIENCE, Stack};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    who_stands_by_writes_nothing_until_the_leader_is_killed_and_within_16_s_then(20),
    who_stands_by_writes_within_a_second_of_the_leaders_good_end,
    a_leader_that_was_stopped_for_longer_than_its_lease_writes_nothing_any_more(20),
    a_leader_whose_lease_is_taken_or_deleted_stops_and_leaves_it_so
];

const FIRST_PORT: &str = "127.0.0.1:9180";
const SECOND_PORT: &str = "127.0.0.1:9181";

/// A leader, and a replica that stands by.
pub(crate) struct Pair<'a> {
    pub(crate) scene: Scene<'a>,
    pub(crate) second: Operator,
    /// The second replica has an account of its own with the same rights, so
    /// that the audit log tells it from the first, and from that of a test
    /// before, whose last request may be logged late.
    account: String,
}

impl<'a> Pair<'a> {
    pub(crate) async fn start(rig: &'a Rig, name: &str) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), "leadership", CATALOG).await?;
        let url = catalog.url.clone();
        let args = |port| {
            [
                "run",
                "--catalog-url",
                &url,
                "--period",
                "2s",
                "--register=off",
                "--listen",
                port,
            ]
        };
        let first = format!("operator-{name}-1");
        let operator = rig
            .operator(&first, Path::new(PROGRAM), args(FIRST_PORT))
            .await?;
        leads(&operator, FIRST_PORT).await?;

        let account = format!("second-{name}");
        grant(rig, &account).await?;
        let second = Operator::join(
            rig.folder(),
            &rig.api,
            &account,
            &format!("operator-{name}-2"),
            Path::new(PROGRAM),
            args(SECOND_PORT),
        )
        .await?;
        second
            .ready(&format!("http://{SECOND_PORT}/readyz"))
            .await?;
        let stack = Arc::new(Stack { catalog, operator });
        let scene = Scene::beside(rig, stack, name).await?;
        Ok(Self {
            scene,
            second,
            account,
        })
    }

    pub(crate) fn first(&self) -> &Operator {
        &self.scene.stack.operator
    }

    /// The catalog's owner changes the timeout.
    async fn set_timeout(&self, timeout: &str) -> Result<()> {
        let mut record = self.scene.record("web");
        record["timeout"] = json!(timeout);
        self.scene.put(&record).await
    }

    /// Waits until that timeout is in the mesh.
    async fn timeout_is(&self, timeout: &str) -> Result<()> {
        let what = format!("timeout {timeout}");
        self.scene
            .until(VS, "web", &what, |rule| {
                rule.data["spec"]["http"][0]["timeout"] == json!(timeout)
            })
            .await?;
        Ok(())
    }

    /// What the second replica asked to change, the Lease included.
    async fn writes_by_second(&self, since: Mark) -> Result<Vec<String>> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{}", self.account);
        self.writes_by(&user, since).await
    }

    /// The same as far as it is logged by now.
    fn logged_of_second(&self, since: Mark) -> Result<Vec<String>> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{}", self.account);
        let mut entries = self.scene.rig.api.audit.read(since)?;
        entries.retain(|entry| entry.is_write() && entry.user.username == user);
        Ok(entries.iter().map(line).collect())
    }

    /// What that user asked to change, the Lease included.
    async fn writes_by(&self, user: &str, since: Mark) -> Result<Vec<String>> {
        let rig = self.scene.rig;
        let writes = rig.api.audit.writes_by(user, since, &rig.client).await?;
        Ok(writes.iter().map(line).collect())
    }
}

/// Waits until the replica leads.
async fn leads(operator: &Operator, port: &str) -> Result<()> {
    operator.leads(&format!("http://{port}/metrics")).await
}

/// This account may do what the operator's own may.
pub(crate) async fn grant(rig: &Rig, account: &str) -> Result<()> {
    let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
    for (kind, role) in [
        ("ClusterRoleBinding", "ClusterRole"),
        ("RoleBinding", "Role"),
    ] {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": account, "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": ACCOUNT},
            "subjects": subject,
        });
        let file = rig.folder().join(format!("{account}-{kind}.json"));
        std::fs::write(&file, binding.to_string())?;
        rig.api.apply_manifests(&file).await?;
    }
    Ok(())
}

async fn who_stands_by_writes_nothing_until_the_leader_is_killed_and_within_16_s_then(
    rig: &Rig,
) -> Result<()> {
    let mark = rig.audit_mark().await?;
    let pair = Pair::start(rig, "killed").await?;
    pair.scene.bound("web").await?;
    pair.set_timeout("6s").await?;
    pair.timeout_is("6s").await?;
    let before = pair.writes_by_second(mark).await?;
    ensure!(before.is_empty(), "{before:?}");

    let late = Lateness::watch();
    pair.first().process.kill().await?;
    let killed = Instant::now();
    pair.set_timeout("7s").await?;
    pair.timeout_is("7s").await?;
    let (after, late) = (killed.elapsed(), late.sum());
    eprintln!(
        "SIGKILL: the other wrote {:.1} s later",
        after.as_secs_f64()
    );
    ensure!(
        after < Duration::from_secs(16) + late,
        "{after:?}, on a machine that was late by {late:?}"
    );
    let by_whom = pair.writes_by_second(mark).await?;
    ensure!(
        by_whom
            .iter()
            .any(|write| write.starts_with("patch virtualservices")),
        "{by_whom:?}"
    );
    Ok(())
}

async fn who_stands_by_writes_within_a_second_of_the_leaders_good_end(rig: &Rig) -> Result<()> {
    let pair = Pair::start(rig, "ended").await?;
    pair.scene.bound("web").await?;
    // A write is due at any time: the first that finds the second leading is
    // its own.
    let owner = async {
        for millis in 1_000.. {
            pair.set_timeout(&format!("{millis}ms")).await?;
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    let handover = async {
        let before = rig.audit_mark().await?;
        let (told, late) = (Instant::now(), Lateness::watch());
        let (ended, wrote) = tokio::join!(pair.first().process.terminate(PATIENCE), async {
            wait::until("a write of the second", PATIENCE, async || {
                let writes = pair.logged_of_second(before)?;
                let of_rule = |line: &&String| line.starts_with("patch virtualservices web 200");
                ensure!(writes.iter().any(|line| of_rule(&line)), "{writes:?}");
                Ok((told.elapsed(), late.sum()))
            })
            .await
        });
        ensure!(ended?, "it ended with a failure");
        wrote
    };
    let (wrote, late) = tokio::select! {
        failed = owner => return failed,
        wrote = handover => wrote?,
    };
    eprintln!(
        "SIGTERM: the other wrote {:.2} s later",
        wrote.as_secs_f64()
    );
    ensure!(
        wrote < Duration::from_secs(1) + late,
        "{wrote:?}, on a machine that was late by {late:?}"
    );
    Ok(())
}

async fn a_leader_that_was_stopped_for_longer_than_its_lease_writes_nothing_any_more(
    rig: &Rig,
) -> Result<()> {
    let pair = Pair::start(rig, "stopped").await?;
    pair.scene.bound("web").await?;
    pair.first().process.signal(Signal::SIGSTOP).await?;
    leads(&pair.second, SECOND_PORT).await?;
    // Something that it would write, had it not been replaced.
    pair.set_timeout("7s").await?;
    pair.timeout_is("7s").await?;

    let mark = rig.audit_mark().await?;
    pair.first().process.signal(Signal::SIGCONT).await?;
    let well = pair.first().process.ended(PATIENCE).await?;
    ensure!(
        !well,
        "a leader that lost its Lease ended as if all were well"
    );
    let writes = pair.writes_by(USER, mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    let log = std::fs::read_to_string(pair.first().process.log())?;
    ensure!(log.contains("LeadershipLost"), "it does not say why");
    pair.set_timeout("8s").await?;
    pair.timeout_is("8s").await?;
    Ok(())
}

async fn a_leader_whose_lease_is_taken_or_deleted_stops_and_leaves_it_so(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let args = [
        "run",
        "--catalog-url",
        "http://127.0.0.1:1",
        "--listen",
        FIRST_PORT,
    ];
    let lease = ["lease", LEASE, "-n", NAMESPACE];
    let thief = r#"{"spec": {"holderIdentity": "thief"}}"#;
    for (name, said, change) in [
        (
            "taken",
            "thief",
            [&["patch"], &lease[..], &["--type=merge", "-p", thief]].concat(),
        ),
        ("deleted", "deleted", [&["delete"], &lease[..]].concat()),
    ] {
        let name = format!("operator-lease-{name}");
        let operator = rig.operator(&name, Path::new(PROGRAM), args).await?;
        leads(&operator, FIRST_PORT).await?;
        rig.kubectl(&change).await?;
        let well = operator.process.ended(PATIENCE).await?;
        ensure!(!well, "{name}: it ended as if all were well");
        let log = std::fs::read_to_string(operator.process.log())?;
        let words = log.lines().last().unwrap_or_default();
        ensure!(words.contains(said), "{name}: {words}");

        // The server would make a Lease by a PUT that nothing keeps from it.
        let holder = [
            "get",
            "lease",
            LEASE,
            "-n",
            NAMESPACE,
            "--ignore-not-found",
            "-o",
            "json",
        ];
        let now = rig.kubectl(&holder).await?;
        let now: Value = serde_json::from_str(&now).unwrap_or_default();
        let expected = if said == "thief" {
            json!("thief")
        } else {
            Value::Null
        };
        ensure!(now["spec"]["holderIdentity"] == expected, "{name}: {now}");
    }
    Ok(())
}
