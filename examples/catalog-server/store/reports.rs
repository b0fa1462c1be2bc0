//! What clusters report: health and endpoints. Does IO.
//!
//! A report carries its writer's position. The highest position is kept for
//! each cluster, service and kind of report, so that a late report about one
//! service does not block another. A cluster's epoch is compared over all its
//! reports: once a new leader has written, the old one is outdated
//! everywhere.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::Row;

use super::{Store, StoreError, Writing};

/// Who reports, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// Identity of the cluster.
    pub(crate) cluster: String,
    /// Where it stands.
    pub(crate) position: Position,
}

/// Number of a leadership, and of a report within it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Position {
    pub(crate) epoch: i64,
    pub(crate) sequence: i64,
}

/// What became of one report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Stored, or known already.
    Accepted,
    /// Ignored, since this later position is known.
    Outdated(Position),
    /// There is no such service.
    NotFound,
}

/// What is to be done with a report.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Store,
    Known,
    Outdated(Position),
}

/// Compares a report with the highest positions known for its cluster and for
/// its cluster, service and kind.
fn judge(report: Position, cluster: Position, service: Option<Position>) -> Verdict {
    if report.epoch < cluster.epoch {
        return Verdict::Outdated(cluster);
    }
    match service {
        Some(known) if report < known => Verdict::Outdated(known),
        Some(known) if report == known => Verdict::Known,
        _ => Verdict::Store,
    }
}

impl Store {
    /// Stores the health of services: pairs of an ID, and an object with
    /// serviceId, health, healthy and total. One outcome per item, in order.
    pub(crate) async fn report_health(
        &self,
        writer: &Writer,
        items: &[(&str, &Value)],
    ) -> Result<Vec<Outcome>, StoreError> {
        let mut writing = self.begin().await?;
        let cluster = writing.raise(writer).await?;
        let ids = json!(items.iter().map(|(id, _)| id).collect::<Vec<_>>());
        let mut known = HashMap::new();
        for row in sqlx::query(self.dialect.known_positions())
            .bind(&writer.cluster)
            .bind(ids.to_string())
            .fetch_all(&mut *writing.tx)
            .await?
        {
            let position = Position {
                epoch: row.try_get(1)?,
                sequence: row.try_get(2)?,
            };
            known.insert(
                row.try_get::<String, _>(0)?,
                (position.epoch >= 0).then_some(position),
            );
        }
        let mut outcomes = Vec::with_capacity(items.len());
        let mut fresh = Vec::new();
        for (id, item) in items {
            outcomes.push(match known.get(*id) {
                None => Outcome::NotFound,
                Some(service) => match judge(writer.position, cluster, *service) {
                    Verdict::Outdated(position) => Outcome::Outdated(position),
                    Verdict::Known => Outcome::Accepted,
                    Verdict::Store => {
                        fresh.push(*item);
                        Outcome::Accepted
                    }
                },
            });
        }
        if !fresh.is_empty() {
            sqlx::query(self.dialect.store_health())
                .bind(&writer.cluster)
                .bind(writer.position.epoch)
                .bind(writer.position.sequence)
                .bind(json!(fresh).to_string())
                .execute(&mut *writing.tx)
                .await?;
        }
        writing.commit().await?;
        Ok(outcomes)
    }

    /// Replaces the endpoints that a cluster has for a service.
    pub(crate) async fn report_endpoints(
        &self,
        writer: &Writer,
        id: &str,
        endpoints: &Value,
    ) -> Result<Outcome, StoreError> {
        let mut writing = self.begin().await?;
        let cluster = writing.raise(writer).await?;
        let row = sqlx::query(
            "SELECT coalesce(e.epoch, -1), coalesce(e.sequence, -1) FROM services s
             LEFT JOIN endpoint_reports e ON e.service_id = s.id AND e.cluster = $1
             WHERE s.id = $2",
        )
        .bind(&writer.cluster)
        .bind(id)
        .fetch_optional(&mut *writing.tx)
        .await?;
        let outcome = match row {
            None => Outcome::NotFound,
            Some(row) => {
                let known = Position {
                    epoch: row.try_get(0)?,
                    sequence: row.try_get(1)?,
                };
                let known = (known.epoch >= 0).then_some(known);
                match judge(writer.position, cluster, known) {
                    Verdict::Outdated(position) => Outcome::Outdated(position),
                    Verdict::Known => Outcome::Accepted,
                    Verdict::Store => {
                        writing.store_endpoints(writer, id, endpoints).await?;
                        Outcome::Accepted
                    }
                }
            }
        };
        writing.commit().await?;
        Ok(outcome)
    }

    /// What the clusters reported about a service: health, then endpoints.
    pub(crate) async fn reports(&self, id: &str) -> Result<(Vec<Value>, Vec<Value>), StoreError> {
        let mut health = Vec::new();
        for row in sqlx::query(
            "SELECT cluster, epoch, sequence, health, healthy, total
             FROM health_reports WHERE service_id = $1 ORDER BY cluster",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?
        {
            health.push(json!({
                "cluster": row.try_get::<String, _>(0)?,
                "epoch": row.try_get::<i64, _>(1)?,
                "sequence": row.try_get::<i64, _>(2)?,
                "health": row.try_get::<String, _>(3)?,
                "healthy": row.try_get::<i64, _>(4)?,
                "total": row.try_get::<i64, _>(5)?,
            }));
        }
        let mut endpoints = Vec::new();
        for row in sqlx::query(
            "SELECT cluster, endpoints FROM endpoint_reports WHERE service_id = $1 ORDER BY cluster",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?
        {
            let cluster: String = row.try_get(0)?;
            let list: Vec<serde_json::Map<String, Value>> = serde_json::from_str(row.try_get(1)?)?;
            for mut endpoint in list {
                endpoint.insert("cluster".to_owned(), cluster.clone().into());
                endpoints.push(Value::Object(endpoint));
            }
        }
        Ok((health, endpoints))
    }
}

impl Writing<'_> {
    /// Raises the cluster's highest position to the writer's, and gives it.
    async fn raise(&mut self, writer: &Writer) -> Result<Position, StoreError> {
        sqlx::query(
            "INSERT INTO report_clusters (cluster, epoch, sequence) VALUES ($1, $2, $3)
             ON CONFLICT (cluster) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence
             WHERE (excluded.epoch, excluded.sequence) > (report_clusters.epoch, report_clusters.sequence)",
        )
        .bind(&writer.cluster)
        .bind(writer.position.epoch)
        .bind(writer.position.sequence)
        .execute(&mut *self.tx)
        .await?;
        let row = sqlx::query("SELECT epoch, sequence FROM report_clusters WHERE cluster = $1")
            .bind(&writer.cluster)
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(Position {
            epoch: row.try_get(0)?,
            sequence: row.try_get(1)?,
        })
    }

    async fn store_endpoints(
        &mut self,
        writer: &Writer,
        id: &str,
        endpoints: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO endpoint_reports (service_id, cluster, epoch, sequence, endpoints)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (service_id, cluster) DO UPDATE SET
                 epoch = excluded.epoch, sequence = excluded.sequence, endpoints = excluded.endpoints",
        )
        .bind(id)
        .bind(&writer.cluster)
        .bind(writer.position.epoch)
        .bind(writer.position.sequence)
        .bind(endpoints.to_string())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
