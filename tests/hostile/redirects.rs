//! A catalog that sends its clients elsewhere: whatever it names, nobody goes
//! there, and no credential does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::client::HttpCatalogConfig;
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::catalog::http::HttpCatalog;
use catalog_mesh_controller::catalog::report::{
    EndpointReport, HealthReport, ReportedHealth, WriterPosition,
};
use catalog_mesh_controller::domain::names::CatalogServiceId;
use catalog_mesh_controller::domain::record::ServiceFilter;

use serde_json::json;

use crate::canary::Canary;
use crate::site::{Site, answer};
use crate::targets::{LEAST, targets};

const STATUSES: [&str; 5] = [
    "301 Moved Permanently",
    "302 Found",
    "303 See Other",
    "307 Temporary Redirect",
    "308 Permanent Redirect",
];

/// Whatever names an address in the head of an answer. What would end a line is
/// left out.
fn headers(target: &str) -> String {
    let target: String = target.chars().filter(|c| !c.is_ascii_control()).collect();
    format!(
        "Location: {target}\r\nContent-Location: {target}\r\nLink: <{target}>; rel=\"next\"\r\nRefresh: 0; url={target}\r\nAlt-Svc: h2=\"{target}\"\r\nConnection: close\r\n"
    )
}

fn catalog(url: &str) -> HttpCatalog {
    let mut config = HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::Given(url.to_owned()),
        report_url_file: None,
        api_key_file: None,
        token_file: None,
    });
    config.request_deadline = Duration::from_secs(60);
    HttpCatalog::new(config).unwrap()
}

#[tokio::test]
async fn no_call_follows_a_redirect_to_any_of_them() {
    let canary = Canary::start().await;
    let said = Arc::new(Mutex::new(String::new()));
    let says = Arc::clone(&said);
    let site =
        Site::serve(move |n, _| answer(STATUSES[n % STATUSES.len()], &says.lock().unwrap(), ""))
            .await;
    let catalog = catalog(&site.url());
    let writer = WriterPosition {
        cluster: "c".to_owned(),
        epoch: 1,
        sequence: 1,
    };
    let health = [HealthReport {
        service_id: "svc".to_owned(),
        health: ReportedHealth::Healthy,
        healthy: 1,
        total: 1,
    }];
    let endpoints = EndpointReport {
        service_id: "svc".to_owned(),
        endpoints: Vec::new(),
    };
    let id = CatalogServiceId::parse("svc").unwrap();
    let mut asked = 0;
    for target in targets(canary.port) {
        *said.lock().unwrap() = headers(&target);
        assert!(catalog.get_service(&id).await.is_err(), "{target:?}");
        let list = catalog.list_services(&ServiceFilter::default()).await;
        assert!(list.is_err(), "{target:?}");
        let sent = catalog.report_health(&writer, &health).await;
        assert!(sent.is_err(), "{target:?}");
        let sent = catalog.report_endpoints(&writer, &endpoints).await;
        assert!(sent.is_err(), "{target:?}");
        assert!(catalog.subscribe(None).await.is_err(), "{target:?}");
        assert_eq!(canary.hits(), 0, "{target:?}");
        asked += 5;
    }
    assert_eq!(site.requests().len(), asked, "each was asked once");
}

#[tokio::test]
async fn no_field_of_an_answer_is_called() {
    let canary = Canary::start().await;
    let said = Arc::new(Mutex::new((String::new(), String::new())));
    let says = Arc::clone(&said);
    let site = Site::serve(move |_, _| {
        let (headers, body) = says.lock().unwrap().clone();
        answer(
            "200 OK",
            &format!("{headers}Content-Type: application/json\r\n"),
            &body,
        )
    })
    .await;
    let catalog = catalog(&site.url());
    let id = CatalogServiceId::parse("svc").unwrap();
    for target in targets(canary.port) {
        let record = json!({
            "id": "svc", "name": target, "namespace": target, "revision": 1,
            "labels": {target.clone(): target},
            "healthCheck": {"endpoint": target},
            "endpoints": [{"address": target, "port": canary.port}],
            "url": target, "_links": {"self": {"href": target}},
        });
        *said.lock().unwrap() = (headers(&target), record.to_string());
        let read = catalog.get_service(&id).await.unwrap();
        assert_eq!(read.name, target);
        let page = json!({
            "epoch": "e", "revision": 1, "items": [record], "nextCursor": target, "next": target,
        });
        *said.lock().unwrap() = (headers(&target), page.to_string());
        let list = catalog.list_services(&ServiceFilter::default()).await;
        assert!(list.is_err(), "the same cursor again is no end of the list");
    }
    let requests = site.requests();
    for request in &requests {
        let line = request.lines().next().unwrap_or_default();
        assert!(line.starts_with("GET /api/v1/services"), "{line}");
    }
    let cursors = requests
        .iter()
        .filter(|request| request.contains("cursor="));
    assert!(cursors.count() >= LEAST);
    assert_eq!(canary.hits(), 0);
}
