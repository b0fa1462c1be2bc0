//! A catalog with its owners, and a client of one of the two kinds. Does IO.

use std::path::Path;
use std::time::Duration;

use catalog_mesh_controller::catalog::by_url::CatalogByUrl;
use catalog_mesh_controller::catalog::client::HttpCatalogConfig;
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::domain::names::CatalogServiceId;
use catalog_mesh_controller::domain::record::CatalogPosition;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{self, Database};

/// Generous: it bounds a hang, and nobody asserts on it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One catalog.
pub(crate) struct Source {
    pub(crate) database: Database,
    /// What the owners use, and how the test sees what was stored.
    pub(crate) owners: server::Catalog,
    pub(crate) catalog: CatalogByUrl,
    /// With `api-url`, and for a database `report-url`.
    pub(crate) secret: TempDir,
    /// The role that reads the database, where it is reached so.
    pub(crate) reader: String,
}

impl Source {
    /// Reached by its API.
    pub(crate) async fn api() -> Self {
        Self::api_with(&[])
    }

    /// The same from a server with these arguments.
    pub(crate) fn api_with(args: &[&str]) -> Self {
        let database = Database::postgres();
        let owners = database.serve(args);
        let secret = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        write(&secret, "api-url", &owners.url);
        Self::new(database, owners, secret, String::new())
    }

    /// Reached in its database, by the two roles of docs/catalog-schema.md.
    pub(crate) async fn database() -> Self {
        let database = Database::postgres();
        let owners = database.serve(&[]);
        let [reader, reporter] = make_roles(&database).await;
        let secret = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        write(&secret, "api-url", &database.url_of(&reader));
        write(&secret, "report-url", &database.url_of(&reporter));
        Self::new(database, owners, secret, reader)
    }

    fn new(database: Database, owners: server::Catalog, secret: TempDir, reader: String) -> Self {
        let catalog = CatalogByUrl::new(config(secret.path())).unwrap();
        Self {
            database,
            owners,
            catalog,
            secret,
            reader,
        }
    }

    /// Registers or updates a service, and gives its revision.
    pub(crate) async fn put(&self, id: &str, fields: Value) -> u64 {
        let mut body = json!({ "name": id, "namespace": "ns" });
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let path = format!("/api/v1/services/{id}");
        let (status, record) = self.owners.call(Method::PUT, &path, &body).await;
        assert!(status.is_success(), "{status} {record}");
        record["revision"].as_u64().unwrap()
    }

    pub(crate) async fn delete(&self, id: &str) {
        let path = format!("/api/v1/services/{id}");
        let (status, answer) = self.owners.call(Method::DELETE, &path, &Value::Null).await;
        assert!(status.is_success(), "{status} {answer}");
    }

    /// Puts something into the tables that the server would refuse.
    pub(crate) async fn spoil(&self, id: &str, record: &str) {
        let statements = format!(
            "UPDATE services SET record = $r${record}$r$ WHERE id = '{id}';
             UPDATE service_versions SET record = $r${record}$r$ WHERE id = '{id}';"
        );
        self.database.execute(&statements).await;
    }

    /// Cuts every connection to the database at the server's end.
    pub(crate) async fn cut(&self) {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.database.execute(cut).await;
    }

    /// Where the catalog stands.
    pub(crate) async fn position(&self) -> CatalogPosition {
        let page = self.owners.json("/api/v1/services?limit=1").await;
        CatalogPosition {
            epoch: page["epoch"].as_str().unwrap().to_owned(),
            revision: page["revision"].as_u64().unwrap(),
        }
    }
}

/// Runs the statements that docs/catalog-schema.md gives for the two roles,
/// under names of this database's own: roles belong to the whole server.
pub(crate) async fn make_roles(database: &Database) -> [String; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/catalog-schema.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, from_there) = page.split_once("```sql\n").unwrap();
    let (statements, _) = from_there.split_once("```").unwrap();
    let name = database.url.rsplit_once('/').map_or("", |_| {
        let (_, path) = database.url.split_once("@localhost").unwrap();
        let (_, name) = path.split_once('/').unwrap();
        name.split_once('?').unwrap().0
    });
    let roles = ["reader", "reporter"].map(|role| format!("{role}_of_{name}"));
    let statements = statements
        .replace("catalog_reader", &roles[0])
        .replace("catalog_reporter", &roles[1]);
    database.execute(&statements).await;
    roles
}

/// What the operator would be started with.
pub(crate) fn config(secret: &Path) -> HttpCatalogConfig {
    HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::File(secret.join("api-url")),
        report_url_file: Some(secret.join("report-url")),
        api_key_file: Some(secret.join("api-key")),
        token_file: None,
    })
}

pub(crate) fn write(folder: &TempDir, name: &str, content: &str) {
    std::fs::write(folder.path().join(name), content).unwrap();
}

pub(crate) fn id(id: &str) -> CatalogServiceId {
    CatalogServiceId::parse(id).unwrap()
}
