//! Two operators of which one leads, as the Deployment runs them. Their Lease
//! outlasts any stall of the machine; that of one that was killed is freed, as time
//! would do.

use std::path::Path;

use anyhow::{Result, ensure};

use super::metrics::Samples;
use super::operator::{ACCOUNT, Operator};
use super::rig::Rig;
use super::stack::{OPERATOR, PATIENCE};
use super::wait;

const LISTEN: [&str; 2] = [OPERATOR, "127.0.0.1:9181"];

/// Both operators. Dropping it kills them.
pub struct Replicas {
    operators: [Operator; 2],
}

impl Replicas {
    /// Starts them with these flags besides; the first leads.
    pub async fn start(
        rig: &Rig,
        name: &str,
        program: &Path,
        catalog: &str,
        more: &[&str],
    ) -> Result<Self> {
        let args = |listen| {
            let lease = ["--lease-duration", "2m", "--lease-renew-deadline", "100s"];
            let mut args = vec!["run", "--catalog-url", catalog, "--listen", listen];
            args.extend(lease);
            args.extend(["--lease-retry-period", "500ms"]);
            args.extend(more);
            args
        };
        let [one, two] = [1, 2].map(|number| format!("operator-{name}-{number}"));
        let first = rig.operator(&one, program, args(LISTEN[0])).await?;
        first.leads(&metrics(0)).await?;
        let (run, api) = (rig.folder(), &rig.api);
        let second = Operator::join(run, api, ACCOUNT, &two, program, args(LISTEN[1])).await?;
        let both = Self {
            operators: [first, second],
        };
        both.ready(1).await?;
        Ok(both)
    }

    /// Which one leads, as soon as one does.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader", PATIENCE, async || {
            let mut leaders = Vec::new();
            for which in 0..2 {
                // One that does not run does not lead.
                if let Ok(samples) = self.metrics(which).await
                    && samples.sum("leader_election_master_status", &[]) == Some(1.0)
                {
                    leaders.push(which);
                }
            }
            ensure!(leaders.len() == 1, "{leaders:?} lead");
            Ok(leaders[0])
        })
        .await
    }

    pub async fn metrics(&self, which: usize) -> Result<Samples> {
        self.operators[which].metrics(&metrics(which)).await
    }

    /// Kills these, so that they can let go of nothing. Whoever stands by leads then
    /// as soon as if the Lease had run out.
    pub async fn kill(&self, which: &[usize]) -> Result<()> {
        let led = which.contains(&self.leader().await?);
        for which in which {
            self.operators[*which].process.kill().await?;
        }
        if led {
            self.operators[0].free_lease().await?;
        }
        Ok(())
    }

    /// Ends it as Kubernetes does, well.
    pub async fn end(&self, which: usize) -> Result<()> {
        let well = self.operators[which].process.terminate(PATIENCE).await?;
        ensure!(well, "it ended with a failure");
        Ok(())
    }

    /// Starts it again after its end, as one that knows nothing.
    pub async fn revive(&self, which: usize) -> Result<()> {
        self.operators[which].process.start().await?;
        self.ready(which).await
    }

    async fn ready(&self, which: usize) -> Result<()> {
        let url = format!("http://{}/readyz", LISTEN[which]);
        self.operators[which].ready(&url).await
    }
}

fn metrics(which: usize) -> String {
    format!("http://{}/metrics", LISTEN[which])
}
