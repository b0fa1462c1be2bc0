//! What the two roles of docs/catalog-schema.md may do, and what not.

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::report::{HealthReport, ReportedHealth, WriterPosition};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::server::Database;
use crate::source::{Source, make_roles};

const TABLES: [&str; 7] = [
    "catalog_state",
    "services",
    "service_versions",
    "events",
    "report_clusters",
    "health_reports",
    "endpoint_reports",
];

/// Runs statements as this role; all must be refused for want of a right.
async fn all_refused(database: &Database, role: &str, statements: &[String]) {
    let mut connection = PgConnection::connect(&database.url_of(role)).await.unwrap();
    for statement in statements {
        let refused = connection.execute(AssertSqlSafe(statement.clone())).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied"),
            "{role}: {statement}: {refused}"
        );
    }
}

#[tokio::test]
async fn the_reader_can_write_nothing_and_sees_no_reports() {
    let database = Database::postgres();
    let _owners = database.serve(&[]);
    let [reader, _] = make_roles(&database).await;
    let mut statements = Vec::new();
    for table in TABLES {
        statements.push(format!("INSERT INTO {table} SELECT * FROM {table}"));
        statements.push(format!("DELETE FROM {table}"));
        statements.push(format!("TRUNCATE {table}"));
    }
    for (table, column) in [
        ("catalog_state", "epoch"),
        ("services", "record"),
        ("service_versions", "record"),
        ("events", "data"),
    ] {
        statements.push(format!("UPDATE {table} SET {column} = 'x'"));
    }
    for table in &TABLES[4..] {
        statements.push(format!("SELECT * FROM {table}"));
    }
    all_refused(&database, &reader, &statements).await;
}

#[tokio::test]
async fn the_reporter_can_touch_nothing_of_the_owners() {
    let database = Database::postgres();
    let _owners = database.serve(&[]);
    let [_, reporter] = make_roles(&database).await;
    let mut statements = Vec::new();
    for table in &TABLES[..4] {
        for statement in ["SELECT * FROM", "DELETE FROM", "TRUNCATE"] {
            statements.push(format!("{statement} {table}"));
        }
    }
    for table in &TABLES[4..] {
        statements.push(format!("DELETE FROM {table}"));
    }
    for statement in [
        "INSERT INTO services VALUES ('x', 'x', 'x', '{}', '{}', 1)",
        "INSERT INTO events VALUES (99, 'x', 'x', 'x', 0)",
        "UPDATE catalog_state SET epoch = 'x'",
        "UPDATE services SET name = 'x'",
        "UPDATE service_versions SET record = 'x'",
        "UPDATE events SET data = 'x'",
    ] {
        statements.push(statement.to_owned());
    }
    all_refused(&database, &reporter, &statements).await;
}

#[tokio::test]
async fn a_role_that_lacks_a_right_is_unauthorized_and_told_where_the_rights_are() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    // Only one role is given, which is used for both.
    std::fs::remove_file(source.secret.path().join("report-url")).unwrap();
    let writer = WriterPosition {
        cluster: "c".to_owned(),
        epoch: 1,
        sequence: 1,
    };
    let report = HealthReport {
        service_id: "a".to_owned(),
        health: ReportedHealth::Healthy,
        healthy: 1,
        total: 1,
    };
    let refused = source
        .catalog
        .report_health(&writer, std::slice::from_ref(&report))
        .await;
    let Err(CatalogError::Unauthorized { message }) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("docs/catalog-schema.md"), "{message}");
}
