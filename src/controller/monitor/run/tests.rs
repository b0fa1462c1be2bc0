//! What the monitor keeps of a binding from one round to the next, beside an
//! API server in memory, in paused time.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::api::policy::EjectionMode;
use crate::catalog::error::CatalogError;
use crate::catalog::fake::FakeCatalog;
use crate::catalog::follow::Follower;
use crate::controller::changes;
use crate::controller::fixtures::{Bed, record};

const S: Duration = Duration::from_secs(1);

/// `shop/web` with a check, as its record in this catalog says.
async fn checked(catalog: &Arc<FakeCatalog>) -> Bed {
    catalog.set(record("web"));
    let bed = Bed::start(catalog.clone(), &["web"]).await;
    edit(&bed, |spec| spec["healthCheck"] = json!({}));
    bed.until(10 * S, "web", "Ready", "True Synced").await;
    sleep(S).await;
    bed
}

fn edit(bed: &Bed, edit: impl FnOnce(&mut Value)) {
    let mut server = bed.server();
    let mut binding = server.get("servicebindings", "web").unwrap();
    edit(&mut binding["spec"]);
    server.put("servicebindings", binding);
}

fn suspend(bed: &Bed, suspended: bool) {
    edit(bed, |spec| spec["suspend"] = json!(suspended));
}

fn pause(bed: &Bed, namespace: &str, paused: bool) {
    let annotations = json!({"catalog-mesh.aikernel.io/paused": paused.to_string()});
    let metadata = json!({"name": namespace, "annotations": annotations});
    let namespace = json!({ "metadata": metadata });
    bed.server().put("namespaces", namespace);
}

/// Whether nobody is to leave or come back, a round after what has just changed;
/// nothing where nobody is checked.
async fn held(bed: &Bed, rounds: &mut Rounds) -> Option<bool> {
    sleep(S).await;
    rounds.go(&bed.ctx, Vec::new());
    let known = rounds.fleet.known(EjectionMode::Draining, false);
    known.services.first().map(|checked| checked.service.held)
}

/// A binding is frozen and thaws whichever way that is said.
async fn freezes_and_thaws(bed: &Bed, rounds: &mut Rounds) {
    assert_eq!(held(bed, rounds).await, Some(false));
    suspend(bed, true);
    assert_eq!(held(bed, rounds).await, Some(true), "suspended");
    suspend(bed, false);
    assert_eq!(held(bed, rounds).await, Some(false), "no longer suspended");
    for namespace in ["shop", "operators"] {
        pause(bed, namespace, true);
        assert_eq!(held(bed, rounds).await, Some(true), "{namespace} is paused");
        pause(bed, namespace, false);
        assert_eq!(held(bed, rounds).await, Some(false), "{namespace} no more");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ejected_for_a_binding_that_is_frozen_while_its_record_is_bad() {
    let catalog = Arc::new(FakeCatalog::new());
    let bed = checked(&catalog).await;
    let metrics = bed.ctx.metrics.catalog().clone();
    let known = Arc::clone(&bed.ctx.known);
    tokio::spawn(Follower::new(catalog.clone(), known, || None, metrics).run());
    tokio::spawn(changes::follow(Arc::clone(&bed.ctx)));
    let mut rounds = Rounds::new();
    freezes_and_thaws(&bed, &mut rounds).await;
    catalog.set_bad("web", "timeout", "is no duration");
    bed.until(10 * S, "web", "Ready", "False InvalidRecord")
        .await;
    freezes_and_thaws(&bed, &mut rounds).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ejected_for_a_binding_that_is_frozen_where_only_its_status_is_known() {
    let catalog = Arc::new(FakeCatalog::new());
    let bed = checked(&catalog).await;
    catalog.away(Some(CatalogError::Unavailable {
        message: "it is away".to_owned(),
    }));
    // A new process knows no record.
    bed.ctx.monitor.marks().records.clear();
    freezes_and_thaws(&bed, &mut Rounds::new()).await;
}

#[test]
fn rounds_that_take_long_leave_the_process_four_times_as_long_to_others() {
    let long = Duration::from_millis(50);
    assert_eq!(rest_after(long), Duration::from_millis(200));
    // One that was stopped, and not at work, holds nobody up for longer.
    assert_eq!(rest_after(Duration::from_secs(30)), S);
}
