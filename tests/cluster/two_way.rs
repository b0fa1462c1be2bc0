//! The whole way round: does what the catalog's owners write come to hold for
//! requests, and does what happens in the cluster come to stand in the
//! catalog? The same life of one service with PostgreSQL behind the API, and
//! read directly by the two roles of docs/catalog-schema.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, VS, cluster_id};
use crate::support::backend::Behaviour;
use crate::support::catalog::Catalog;
use crate::support::envoy::{Envoy, Options};
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, Stack};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload};

crate::tests![
    ; alone:
    a_service_lives_in_catalog_and_mesh_with_postgresql_behind_the_api(20),
    a_service_lives_in_catalog_and_mesh_with_postgresql_read_directly(15)
];

/// A second is promised; the rest is for a machine that does much else.
const SOON: Duration = Duration::from_secs(10);
/// As its folder of tables says.
const READER: &str = "catalog_reader";
const REPORTER: &str = "catalog_reporter";

/// How the operator reaches the catalog. Its owners use the API either way.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Api,
    Tables,
}

async fn a_service_lives_in_catalog_and_mesh_with_postgresql_behind_the_api(
    rig: &Rig,
) -> Result<()> {
    live(rig, "by-api", Source::Api).await
}

async fn a_service_lives_in_catalog_and_mesh_with_postgresql_read_directly(
    rig: &Rig,
) -> Result<()> {
    live(rig, "by-tables", Source::Tables).await
}

/// A catalog that PostgreSQL keeps, and the Secret that says where it is.
pub(crate) struct Kept {
    pub(crate) postgres: Postgres,
    pub(crate) catalog: Catalog,
    /// Of the database's superuser.
    pub(crate) database: PgConnection,
    /// The folder that the Secret is mounted at.
    pub(crate) secret: PathBuf,
}

/// The database of that catalog.
pub(crate) const DATABASE: &str = "two_way";

impl Kept {
    pub(crate) async fn begin(rig: &Rig, name: &str, source: Source) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let postgres = rig.postgres().await?;
        let url = postgres.create_database(DATABASE).await?;
        let catalog = Catalog::over(rig.folder(), name, CATALOG, &url).await?;
        let mut database = PgConnection::connect(&url).await?;
        let secret = rig.folder().join(format!("secret-{name}"));
        std::fs::create_dir(&secret)?;
        match source {
            Source::Api => std::fs::write(secret.join("api-url"), &catalog.url)?,
            Source::Tables => {
                make_roles(&mut database).await?;
                for (file, role) in [("api-url", READER), ("report-url", REPORTER)] {
                    let of_role = url.replace("postgres@", &format!("{role}@"));
                    ensure!(of_role.contains(role), "{of_role}");
                    std::fs::write(secret.join(file), of_role)?;
                }
            }
        }
        Ok(Self {
            postgres,
            catalog,
            database,
            secret,
        })
    }
}

/// The two roles, as docs/catalog-schema.md says.
async fn make_roles(database: &mut PgConnection) -> Result<()> {
    let statements = AssertSqlSafe(documented_roles()?);
    sqlx::raw_sql(statements).execute(database).await?;
    Ok(())
}

/// Their rights, where the roles are there and the tables are new.
pub(crate) async fn grant_rights(database: &mut PgConnection) -> Result<()> {
    let statements = documented_roles()?;
    let grants = statements.lines().filter(|line| line.starts_with("GRANT "));
    let grants: String = grants.collect();
    sqlx::raw_sql(AssertSqlSafe(grants))
        .execute(database)
        .await?;
    Ok(())
}

/// The service `web`, with all that it lives between.
struct Life<'a> {
    scene: Scene<'a>,
    postgres: Postgres,
    /// Of the database's superuser.
    database: Mutex<PgConnection>,
    cluster: String,
    web: Workload,
    envoy: Envoy,
}

async fn live(rig: &Rig, name: &str, source: Source) -> Result<()> {
    let mut life = Life::begin(rig, name, source).await?;
    let host = life.web.host();
    life.envoy.wait_for_endpoints(&host, 2).await?;
    // A second client, so that the first one's requests can go on meanwhile.
    let other = rig
        .envoy(&Options::in_namespace(&life.scene.namespace))
        .await?;

    let answered = answering(&other, &host, life.is_registered_changed_and_scaled()).await?;
    life.is_scaled_to_zero_and_back().await?;
    let late = answering(&other, &host, life.is_deregistered()).await?;
    eprintln!(
        "{name}: {answered} requests before zero and {late} after it were answered, all of them"
    );

    life.only_the_right_ones_came(source).await?;
    life.envoy.expect_all_accepted().await?;
    rig.istiod.expect_no_nack().await?;
    life.scene.stack.stop().await?;
    life.postgres.process.kill().await
}

/// Does this while requests go through Envoy, of which not one may fail; gives
/// how many there were.
async fn answering(
    envoy: &Envoy,
    host: &str,
    life: impl Future<Output = Result<()>>,
) -> Result<usize> {
    let mut answered = 0;
    let requests = async {
        loop {
            let answer = envoy.get(host, "/").await?;
            if answer.status != 200 {
                bail!("after {answered} that were answered: {answer:?}");
            }
            answered += 1;
            // The machine is wanted for the rest of it, too.
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        lived = life => lived?,
        failed = requests => failed?,
    }
    ensure!(answered > 20, "only {answered} requests: nothing is proven");
    Ok(answered)
}

impl<'a> Life<'a> {
    async fn begin(rig: &'a Rig, name: &str, source: Source) -> Result<Self> {
        let Kept {
            postgres,
            catalog,
            database,
            secret,
        } = Kept::begin(rig, name, source).await?;
        let operator = rig
            .operator(
                &format!("operator-{name}"),
                Path::new(PROGRAM),
                args(secret),
            )
            .await?;
        stack::leads(&operator).await?;
        let stack = Arc::new(Stack { catalog, operator });
        let scene = Scene::beside(rig, stack, name).await?;
        let web = rig
            .workload(&scene.namespace, "web", &["zone-a", "zone-b"])
            .await?;
        let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
        Ok(Self {
            cluster: cluster_id(rig).await?,
            database: Mutex::new(database),
            scene,
            postgres,
            web,
            envoy,
        })
    }

    async fn is_registered_changed_and_scaled(&mut self) -> Result<()> {
        for pod in &self.web.pods {
            let slow = Behaviour::Delay(Duration::from_secs(6));
            pod.backend.behave_on("/slow", slow);
            pod.backend.behave_on("/fails", Behaviour::Status(500));
        }
        // Registered, and nothing else: no binding is written by hand.
        let mut record = stack::record(&self.scene.id("web"), &self.scene.namespace, "web");
        record["timeout"] = json!("3s");
        record["retries"] = json!({"attempts": 2, "retryOn": "5xx"});
        self.scene.put(&record).await?;
        self.timeout_arrives("3s").await?;
        let binding = self.scene.synced("web").await?;
        let made_for = binding.labels().get("catalog-mesh.aikernel.io/source");
        ensure!(made_for.is_some_and(|by| by == "catalog"), "{binding:?}");
        ensure!(
            self.status_of("/slow").await? == 504,
            "the timeout does not hold"
        );
        ensure!(self.status_of("/fails").await? == 500);
        ensure!(
            self.tries("/fails") == 3,
            "not retried twice: {}",
            self.tries("/fails")
        );
        self.follows(&[0, 1], "registered").await?;

        record["timeout"] = json!("40s");
        record["retries"] = json!(0);
        self.scene.put(&record).await?;
        self.timeout_arrives("40s").await?;
        ensure!(
            self.status_of("/slow").await? == 200,
            "the old timeout holds"
        );
        ensure!(self.status_of("/fails").await? == 500);
        ensure!(
            self.tries("/fails") == 4,
            "retried all the same: {}",
            self.tries("/fails")
        );

        for zone in ["zone-a", "zone-b"] {
            self.web.add_pod(&self.scene.rig.addresses, zone).await?;
        }
        self.is_scaled_to(&[0, 1, 2, 3], "scaled up").await?;
        for place in [0, 1, 2] {
            self.web.delete_pod(place).await?;
        }
        self.is_scaled_to(&[3], "scaled down").await
    }

    async fn is_scaled_to_zero_and_back(&mut self) -> Result<()> {
        self.web.delete_pod(3).await?;
        self.is_scaled_to(&[], "scaled to zero").await?;
        ensure!(self.listed_by_sql().await? == Some(BTreeSet::new()));
        ensure!(self.status_of("/").await? == 503, "who answers?");
        // The service has not gone: its rules stay.
        self.scene.rule(VS, "web").await?;
        self.scene.synced("web").await?;
        let place = self
            .web
            .add_pod(&self.scene.rig.addresses, "zone-a")
            .await?;
        self.is_scaled_to(&[place], "scaled from zero").await
    }

    async fn is_deregistered(&self) -> Result<()> {
        let mark = self.scene.mark().await?;
        let since = Instant::now();
        self.scene
            .stack
            .catalog
            .delete(&self.scene.id("web"))
            .await?;
        self.scene.gone("web").await?;
        let took = since.elapsed();
        eprintln!("deregistered: everything was gone after {took:.1?}");
        ensure!(took < SOON, "{took:?}");
        self.scene.nothing_of("web").await?;
        let mut writes = self.scene.wrote(mark, 4).await?;
        writes.retain(|line| !line.contains("servicebindings/status"));
        ensure!(
            writes
                == [
                    "delete servicebindings web 200",
                    "delete virtualservices web 200",
                    "delete destinationrules web 200",
                    "patch servicebindings web 200",
                ],
            "{writes:?}"
        );
        // Requests go on until Envoy has long had neither, and nobody makes
        // anything anew.
        let host = self.web.host();
        wait::until("an Envoy without our rules", PATIENCE, async || {
            let routes = self.envoy.routes(&host, SERVICE_PORT).await?;
            let routes = format!("{routes:?}");
            ensure!(!routes.contains("virtual-service"), "{routes}");
            let cluster = self.envoy.cluster(&host, SERVICE_PORT).await?;
            let cluster = format!("{cluster:?}");
            ensure!(!cluster.contains("destination-rule"), "{cluster}");
            Ok(())
        })
        .await?;
        sleep(Duration::from_secs(1)).await;
        ensure!(
            self.scene.bindings().get_opt("web").await?.is_none(),
            "made anew"
        );
        ensure!(
            self.listed_by_sql().await?.is_none(),
            "a report of a service that is gone"
        );
        Ok(())
    }

    /// Whoever reads or writes the tables as the operator is who he should be.
    async fn only_the_right_ones_came(&self, source: Source) -> Result<()> {
        let mut database = self.database.lock().await;
        let who: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT usename::text FROM pg_stat_activity
             WHERE application_name = 'catalog-mesh-controller' ORDER BY 1",
        )
        .fetch_all(&mut *database)
        .await?;
        let expected: &[&str] = match source {
            Source::Api => &[],
            Source::Tables => &[READER, REPORTER],
        };
        ensure!(who == expected, "{who:?}");
        Ok(())
    }

    // --- from the catalog to requests -------------------------------------------

    async fn timeout_arrives(&self, timeout: &str) -> Result<()> {
        let since = Instant::now();
        wait::until("the timeout in Envoy", PATIENCE, async || {
            let routes = self.envoy.routes(&self.web.host(), SERVICE_PORT).await?;
            let routes = routes.context("it does not know the host")?;
            let all: Vec<_> = routes.iter().map(|of| &of["route"]["timeout"]).collect();
            ensure!(all == [&json!(timeout)], "{routes:?}");
            Ok(())
        })
        .await?;
        eprintln!("timeout {timeout}: in Envoy after {:.1?}", since.elapsed());
        Ok(())
    }

    async fn status_of(&self, path: &str) -> Result<u16> {
        Ok(self.envoy.get(&self.web.host(), path).await?.status)
    }

    /// Requests that arrived at the pods.
    fn tries(&self, path: &str) -> usize {
        self.web
            .pods
            .iter()
            .map(|pod| pod.backend.count(path))
            .sum()
    }

    // --- from the cluster to the catalog ----------------------------------------

    /// The pods at these places are all that is left.
    async fn is_scaled_to(&self, places: &[usize], what: &str) -> Result<()> {
        self.web.wait_for_endpoints(places.len()).await?;
        self.follows(places, what).await?;
        self.envoy
            .wait_for_endpoints(&self.web.host(), places.len())
            .await
    }

    /// The catalog comes to list just these pods, by SQL and by the API.
    async fn follows(&self, places: &[usize], what: &str) -> Result<()> {
        let since = Instant::now();
        let address = |place: &usize| self.web.pods[*place].address().to_string();
        let expected: BTreeSet<_> = places.iter().map(address).collect();
        wait::until("the list in the database", PATIENCE, async || {
            let listed = self.listed_by_sql().await?;
            ensure!(
                listed.as_ref() == Some(&expected),
                "{listed:?}, not {expected:?}"
            );
            Ok(())
        })
        .await?;
        let took = since.elapsed();
        eprintln!(
            "{what}: the catalog lists {} after {took:.1?}",
            expected.len()
        );
        ensure!(took < SOON, "{what}: {took:?}");
        let record = self.scene.stack.catalog.get(&self.scene.id("web")).await?;
        let listed = record["endpoints"].as_array().context("no endpoints")?;
        let own = |of: &&Value| of["cluster"] == self.cluster.as_str();
        ensure!(listed.iter().all(|of| own(&of)), "{listed:?}");
        ensure!(
            addresses(listed) == expected,
            "{listed:?}, not {expected:?}"
        );
        Ok(())
    }

    /// What this cluster's row lists; nothing where there is none.
    async fn listed_by_sql(&self) -> Result<Option<BTreeSet<String>>> {
        let mut database = self.database.lock().await;
        let row = sqlx::query(
            "SELECT endpoints FROM endpoint_reports WHERE service_id = $1 AND cluster = $2",
        )
        .bind(self.scene.id("web"))
        .bind(&self.cluster)
        .fetch_optional(&mut *database)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let listed: Vec<Value> = serde_json::from_str(row.try_get(0)?)?;
        Ok(Some(addresses(&listed)))
    }
}

/// Those of the endpoints that are ready.
fn addresses(endpoints: &[Value]) -> BTreeSet<String> {
    let ready = endpoints.iter().filter(|of| of["ready"] == true);
    ready
        .filter_map(|of| of["address"].as_str().map(str::to_owned))
        .collect()
}

/// Started as the Deployment does: the catalog is where the Secret says. No
/// look comes from the period.
fn args(secret: PathBuf) -> Vec<std::ffi::OsString> {
    let args = ["run", "--listen", OPERATOR, "--period", "10m"].into_iter();
    // It is not about who leads.
    let lease = ["--lease-duration=2m", "--lease-renew-deadline=100s"];
    let mut args: Vec<std::ffi::OsString> = args.chain(lease).map(Into::into).collect();
    args.extend(["--catalog-credentials".into(), secret.into_os_string()]);
    args
}

/// The statements that docs/catalog-schema.md gives for the two roles.
fn documented_roles() -> Result<String> {
    let page = std::fs::read_to_string(repository().join("docs/catalog-schema.md"))?;
    let (_, after) = page.split_once("```sql\n").context("no statements")?;
    let (statements, _) = after.split_once("```").context("no end of them")?;
    ensure!(statements.contains(READER) && statements.contains(REPORTER));
    Ok(statements.to_owned())
}
