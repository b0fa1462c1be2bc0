//! Writing reports of health and endpoints. Does IO.
//!
//! The same rules as over the API: a report counts where its epoch is not
//! below the cluster's and its position above that of what it replaces. The
//! first statement takes the writers' turn, by a trigger, and keeps it until
//! the commit, so that nothing moves between judging and storing.

use std::collections::{HashMap, HashSet};

use sqlx::{Connection as _, PgConnection};

use super::session::Role;
use crate::catalog::error::CatalogError;
use crate::catalog::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::catalog::wire;
use crate::domain::names::CatalogServiceId;

const MOST_ITEMS: usize = 1_000;
const MOST_ENDPOINTS: usize = 1_000;

/// Whoever waited for its turn must see what those before stored, whatever
/// level of isolation the database is set to.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Number of a leadership, and of a report within it.
type Position = (i64, i64);

/// Who reports, as the tables have it.
struct Writer<'a> {
    cluster: &'a str,
    position: Position,
}

/// Stores the health of services, in one transaction.
pub(super) async fn health(
    reporter: &Role,
    writer: &WriterPosition,
    items: &[HealthReport],
) -> Result<Vec<ItemOutcome>, CatalogError> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    if items.len() > MOST_ITEMS {
        return Err(CatalogError::unavailable(format!(
            "not sent: a health report of {} items; the most is {MOST_ITEMS}",
            items.len()
        )));
    }
    let writer = checked_writer(writer)?;
    let mut seen = HashSet::new();
    let faults: Vec<_> = items.iter().map(|item| fault(item, &mut seen)).collect();
    let mut lent = reporter.lend().await?;
    let outcomes = store_health(&mut lent.connection, &writer, items, faults)
        .await
        .map_err(|error| reporter.failed(&error))?;
    lent.give_back();
    Ok(outcomes)
}

/// Replaces the endpoints that this cluster has for a service.
pub(super) async fn endpoints(
    reporter: &Role,
    writer: &WriterPosition,
    report: &EndpointReport,
) -> Result<ItemOutcome, CatalogError> {
    if let Err(error) = CatalogServiceId::parse(&report.service_id) {
        return Ok(ItemOutcome::Invalid(error.to_string()));
    }
    if report.endpoints.len() > MOST_ENDPOINTS {
        return Ok(ItemOutcome::Invalid(format!(
            "{} endpoints; the most is {MOST_ENDPOINTS}",
            report.endpoints.len()
        )));
    }
    let writer = checked_writer(writer)?;
    let endpoints = wire::endpoints(report)?;
    let mut lent = reporter.lend().await?;
    let outcome = store_endpoints(
        &mut lent.connection,
        &writer,
        &report.service_id,
        &endpoints,
    )
    .await
    .map_err(|error| reporter.failed(&error))?;
    lent.give_back();
    Ok(outcome)
}

fn checked_writer(writer: &WriterPosition) -> Result<Writer<'_>, CatalogError> {
    let bad = |what| CatalogError::unavailable(format!("not sent: the writer's {what}"));
    CatalogServiceId::parse(&writer.cluster).map_err(|_| bad("cluster cannot be an ID"))?;
    let number = |number: u64| i64::try_from(number).map_err(|_| bad("position is too high"));
    Ok(Writer {
        cluster: &writer.cluster,
        position: (number(writer.epoch)?, number(writer.sequence)?),
    })
}

/// Why an item cannot be stored, whatever is there.
fn fault<'a>(item: &'a HealthReport, seen: &mut HashSet<&'a str>) -> Option<String> {
    if let Err(error) = CatalogServiceId::parse(&item.service_id) {
        return Some(format!("serviceId {error}"));
    }
    if item.healthy > item.total {
        return Some("healthy must not be above total".to_owned());
    }
    let new = seen.insert(&item.service_id);
    (!new).then(|| "serviceId must not be in a batch twice".to_owned())
}

async fn store_health(
    connection: &mut PgConnection,
    writer: &Writer<'_>,
    items: &[HealthReport],
    faults: Vec<Option<String>>,
) -> Result<Vec<ItemOutcome>, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let highest = raise(&mut tx, writer).await?;
    let ids: Vec<_> = items.iter().map(|item| item.service_id.as_str()).collect();
    let known: Vec<(String, Option<i64>, Option<i64>)> = sqlx::query_as(
        "SELECT s.id, h.epoch, h.sequence FROM services s
         LEFT JOIN health_reports h ON h.service_id = s.id AND h.cluster = $1
         WHERE s.id = ANY ($2)",
    )
    .bind(writer.cluster)
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    let known: HashMap<_, _> = known
        .into_iter()
        .map(|(id, epoch, sequence)| (id, epoch.zip(sequence)))
        .collect();

    let mut outcomes = Vec::with_capacity(items.len());
    let mut fresh = Vec::new();
    for (item, fault) in items.iter().zip(faults) {
        let outcome = match (fault, known.get(&item.service_id)) {
            (Some(fault), _) => ItemOutcome::Invalid(fault),
            (None, None) => ItemOutcome::NotFound,
            (None, Some(stored)) => match judge(writer.position, highest, *stored) {
                Verdict::Outdated(position) => outdated(position),
                Verdict::Known => ItemOutcome::Accepted,
                Verdict::Store => {
                    fresh.push(item);
                    ItemOutcome::Accepted
                }
            },
        };
        outcomes.push(outcome);
    }
    if !fresh.is_empty() {
        let column = |count: fn(&HealthReport) -> u32| -> Vec<i64> {
            fresh.iter().map(|item| count(item).into()).collect()
        };
        let ids: Vec<_> = fresh.iter().map(|item| item.service_id.as_str()).collect();
        let health: Vec<_> = fresh.iter().map(|item| wire::health(item.health)).collect();
        sqlx::query(
            "INSERT INTO health_reports (service_id, cluster, epoch, sequence, health, healthy, total)
             SELECT id, $1, $2, $3, health, healthy, total
             FROM unnest($4::text[], $5::text[], $6::bigint[], $7::bigint[])
                  AS fresh (id, health, healthy, total)
             ON CONFLICT (service_id, cluster) DO UPDATE SET
                 epoch = excluded.epoch, sequence = excluded.sequence,
                 health = excluded.health, healthy = excluded.healthy, total = excluded.total",
        )
        .bind(writer.cluster)
        .bind(writer.position.0)
        .bind(writer.position.1)
        .bind(ids)
        .bind(health)
        .bind(column(|item| item.healthy))
        .bind(column(|item| item.total))
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(outcomes)
}

async fn store_endpoints(
    connection: &mut PgConnection,
    writer: &Writer<'_>,
    id: &str,
    endpoints: &str,
) -> Result<ItemOutcome, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let highest = raise(&mut tx, writer).await?;
    let known: Option<(Option<i64>, Option<i64>)> = sqlx::query_as(
        "SELECT e.epoch, e.sequence FROM services s
         LEFT JOIN endpoint_reports e ON e.service_id = s.id AND e.cluster = $1
         WHERE s.id = $2",
    )
    .bind(writer.cluster)
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    let outcome = match known {
        None => ItemOutcome::NotFound,
        Some((epoch, sequence)) => match judge(writer.position, highest, epoch.zip(sequence)) {
            Verdict::Outdated(position) => outdated(position),
            Verdict::Known => ItemOutcome::Accepted,
            Verdict::Store => {
                sqlx::query(
                    "INSERT INTO endpoint_reports (service_id, cluster, epoch, sequence, endpoints)
                     VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT (service_id, cluster) DO UPDATE SET
                         epoch = excluded.epoch, sequence = excluded.sequence,
                         endpoints = excluded.endpoints",
                )
                .bind(id)
                .bind(writer.cluster)
                .bind(writer.position.0)
                .bind(writer.position.1)
                .bind(endpoints)
                .execute(&mut *tx)
                .await?;
                ItemOutcome::Accepted
            }
        },
    };
    tx.commit().await?;
    Ok(outcome)
}

/// Raises the cluster's highest position to the writer's, and gives it.
async fn raise(
    connection: &mut PgConnection,
    writer: &Writer<'_>,
) -> Result<Position, sqlx::Error> {
    sqlx::query(
        "INSERT INTO report_clusters (cluster, epoch, sequence) VALUES ($1, $2, $3)
         ON CONFLICT (cluster) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence
         WHERE (excluded.epoch, excluded.sequence) > (report_clusters.epoch, report_clusters.sequence)",
    )
    .bind(writer.cluster)
    .bind(writer.position.0)
    .bind(writer.position.1)
    .execute(&mut *connection)
    .await?;
    sqlx::query_as("SELECT epoch, sequence FROM report_clusters WHERE cluster = $1")
        .bind(writer.cluster)
        .fetch_one(connection)
        .await
}

/// What is to be done with a report.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Store,
    Known,
    Outdated(Position),
}

/// Compares a report with the highest position of its cluster, and with what
/// is stored for its cluster and service.
fn judge(report: Position, cluster: Position, stored: Option<Position>) -> Verdict {
    match stored {
        _ if report.0 < cluster.0 => Verdict::Outdated(cluster),
        Some(stored) if report < stored => Verdict::Outdated(stored),
        Some(stored) if report == stored => Verdict::Known,
        _ => Verdict::Store,
    }
}

fn outdated((epoch, sequence): Position) -> ItemOutcome {
    ItemOutcome::Outdated {
        epoch: epoch.unsigned_abs(),
        sequence: sequence.unsigned_abs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_by_its_leadership_and_its_number() {
        for (report, cluster, stored, verdict) in [
            ((2, 1), (2, 1), None, Verdict::Store),
            ((2, 1), (2, 9), None, Verdict::Store),
            ((2, 2), (2, 9), Some((2, 1)), Verdict::Store),
            ((3, 0), (3, 0), Some((2, 9)), Verdict::Store),
            ((2, 1), (2, 9), Some((2, 1)), Verdict::Known),
            ((2, 1), (2, 9), Some((2, 2)), Verdict::Outdated((2, 2))),
            ((2, 9), (3, 0), None, Verdict::Outdated((3, 0))),
            ((2, 9), (3, 0), Some((2, 1)), Verdict::Outdated((3, 0))),
        ] {
            assert_eq!(
                judge(report, cluster, stored),
                verdict,
                "{report:?} {cluster:?} {stored:?}"
            );
        }
    }
}
