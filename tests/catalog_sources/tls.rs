//! A server with a certificate and passwords, as one away from the machine is.

use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::by_url::CatalogByUrl;
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::event::EventKind;
use catalog_mesh_controller::domain::record::CatalogPosition;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::events::next;
use crate::pki::Pki;
use crate::postgres::Postgres;
use crate::server::{self, Database};
use crate::source::{config, id, make_roles, write};

/// Files are read again after a second.
const READ_AGAIN: Duration = Duration::from_millis(1_100);

/// A catalog in a server whose certificate is for 127.0.0.1.
struct Guarded {
    pki: Pki,
    server: Postgres,
    port: u16,
    database: Database,
    owners: server::Catalog,
    reader: String,
    secret: TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pki = Pki::create().unwrap();
        let identity = pki.server(&[]).unwrap();
        let (server, port) = Postgres::with_tls(&identity.certificate, &identity.key);
        let database = Database::of(&server);
        let owners = database.serve(&[]);
        let [reader, _] = make_roles(&database).await;
        let password = format!("ALTER ROLE {reader} PASSWORD 'hunter2'");
        database.execute(&password).await;
        let guarded = Self {
            secret: tempfile::tempdir().unwrap(),
            pki,
            server,
            port,
            database,
            owners,
            reader,
        };
        guarded.register("a").await;
        guarded.place("127.0.0.1", "hunter2", "verify-full");
        write(&guarded.secret, "ca.crt", &guarded.pki.authority());
        guarded
    }

    async fn register(&self, id: &str) {
        let body = json!({ "name": id, "namespace": "ns" });
        let path = format!("/api/v1/services/{id}");
        let (status, answer) = self.owners.call(Method::PUT, &path, &body).await;
        assert!(status.is_success(), "{status} {answer}");
    }

    /// Writes `api-url`.
    fn place(&self, host: &str, password: &str, sslmode: &str) {
        let (reader, port) = (&self.reader, self.port);
        let url = format!("postgres://{reader}:{password}@{host}:{port}/test0?sslmode={sslmode}");
        write(&self.secret, "api-url", &url);
    }

    /// With the file `ca.crt` as it is now.
    fn catalog(&self) -> CatalogByUrl {
        let mut config = config(self.secret.path());
        config.ca_file = Some(self.secret.path().join("ca.crt"));
        CatalogByUrl::new(config).unwrap()
    }

    async fn refusal(&self, catalog: &CatalogByUrl) -> CatalogError {
        let error = catalog.get_service(&id("a")).await.unwrap_err();
        assert!(!error.to_string().contains("hunter"), "{error}");
        error
    }
}

#[tokio::test]
async fn a_certificate_is_accepted_from_its_authority_for_its_host_only() {
    let guarded = Guarded::start().await;
    let catalog = guarded.catalog();
    catalog.get_service(&id("a")).await.unwrap();
    let mut stream = catalog.subscribe(None).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    let encrypted = format!(
        "DO $$ BEGIN
             ASSERT (SELECT count(*) >= 2 AND bool_and(ssl)
                     FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE usename = '{}');
         END $$",
        guarded.reader
    );
    guarded.database.execute(&encrypted).await;

    guarded.place("localhost", "hunter2", "verify-full");
    let error = guarded.refusal(&guarded.catalog()).await.to_string();
    assert!(error.contains("not valid for name"), "{error}");
    guarded.place("localhost", "hunter2", "verify-ca");
    guarded.catalog().get_service(&id("a")).await.unwrap();

    let stranger = Pki::create().unwrap().authority();
    write(&guarded.secret, "ca.crt", &stranger);
    for sslmode in ["verify-full", "verify-ca", "require"] {
        guarded.place("127.0.0.1", "hunter2", sslmode);
        let error = guarded.refusal(&guarded.catalog()).await;
        assert!(matches!(error, CatalogError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("--catalog-ca-file"), "{error}");
    }
    // Nor is it accepted where no authority is given.
    guarded.place("127.0.0.1", "hunter2", "verify-full");
    let catalog = CatalogByUrl::new(config(guarded.secret.path())).unwrap();
    guarded.refusal(&catalog).await;
}

#[tokio::test]
async fn a_new_password_and_a_new_authority_are_used_without_a_restart() {
    let guarded = Guarded::start().await;
    let catalog = guarded.catalog();
    catalog.get_service(&id("a")).await.unwrap();
    guarded.place("127.0.0.1", "hunter3", "verify-full");
    tokio::time::sleep(READ_AGAIN).await;
    let error = guarded.refusal(&catalog).await;
    assert!(
        matches!(error, CatalogError::Unauthorized { .. }),
        "{error}"
    );
    let change = format!("ALTER ROLE {} PASSWORD 'hunter3'", guarded.reader);
    guarded.database.execute(&change).await;
    catalog.get_service(&id("a")).await.unwrap();

    let stranger = Pki::create().unwrap().authority();
    write(&guarded.secret, "ca.crt", &stranger);
    tokio::time::sleep(READ_AGAIN).await;
    let error = guarded.refusal(&catalog).await;
    assert!(matches!(error, CatalogError::Unavailable { .. }), "{error}");
    write(&guarded.secret, "ca.crt", &guarded.pki.authority());
    tokio::time::sleep(READ_AGAIN).await;
    catalog.get_service(&id("a")).await.unwrap();
}

#[tokio::test]
async fn a_restart_of_the_server_ends_streams_and_loses_nothing() {
    let mut guarded = Guarded::start().await;
    let catalog = guarded.catalog();
    let mut stream = catalog.subscribe(None).await.unwrap();
    let CatalogPosition { epoch, revision } = next(&mut stream).await.unwrap().unwrap().position;
    guarded.server.restart();
    let lost = loop {
        match next(&mut stream).await.unwrap() {
            Ok(event) => assert_eq!(event.kind, EventKind::Bookmark),
            Err(error) => break error,
        }
    };
    assert!(matches!(lost, CatalogError::Unavailable { .. }), "{lost}");
    assert!(next(&mut stream).await.is_none());
    // The connection that lay idle is dead, too.
    catalog.get_service(&id("a")).await.unwrap();
    guarded.register("b").await;
    let after = CatalogPosition { epoch, revision };
    let mut stream = catalog.subscribe(Some(&after)).await.unwrap();
    let event = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(event.kind, EventKind::Registered(id("b")));
    assert_eq!(event.position.revision, revision + 1);
}
