//! Reading and writing the owners' part of one service. Does IO.

use serde_json::{Map, Value, json};
use sqlx::{Any, Executor, Row};

use super::{Store, StoreError, Writing, now};

/// The owners' part of a service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Epoch in which it was read.
    pub(crate) epoch: String,
    /// Revision of the owners' last write.
    pub(crate) revision: i64,
    /// The record without `revision`.
    pub(crate) record: Map<String, Value>,
}

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Written {
    /// The service is new.
    Created(Service),
    /// The service was there.
    Replaced(Service),
    /// The ID is taken.
    Exists,
    /// There is no such service.
    Missing,
    /// The record has none of the tags that the caller allows.
    Mismatch,
}

/// Which record a write may replace or delete.
#[derive(Clone, Debug)]
pub(crate) enum Precondition {
    /// Whatever is there, or nothing.
    None,
    /// Nothing.
    Absent,
    /// One with any of these tags; `*` is any record.
    Tags(Vec<String>),
}

/// The kind of an event that an owner's write makes.
#[derive(Clone, Copy)]
enum Change {
    Registered,
    Updated,
    Deregistered,
}

impl Service {
    /// The strong tag of the owners' part.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}.{}\"", self.epoch, self.revision)
    }
}

impl Store {
    /// The service of that ID.
    pub(crate) async fn service(&self, id: &str) -> Result<Option<Service>, StoreError> {
        read(&self.pool, id).await
    }

    /// Creates or replaces the service whose validated record this is.
    pub(crate) async fn put(
        &self,
        id: &str,
        record: Map<String, Value>,
        precondition: &Precondition,
    ) -> Result<Written, StoreError> {
        let mut writing = self.begin().await?;
        let before = read(&mut *writing.tx, id).await?;
        match (precondition, &before) {
            (Precondition::Absent, Some(_)) => return writing.abandon(Written::Exists).await,
            (Precondition::Tags(tags), before) if !allows(tags, before.as_ref()) => {
                return writing.abandon(Written::Mismatch).await;
            }
            _ => {}
        }
        let (epoch, revision) = writing.next_revision().await?;
        let change = match before {
            None => Change::Registered,
            Some(_) => {
                writing.end_version(id, revision).await?;
                Change::Updated
            }
        };
        let service = Service {
            epoch,
            revision,
            record,
        };
        writing.store_record(id, &service).await?;
        writing
            .add_event(change, id, &service.record, revision)
            .await?;
        writing.commit().await?;
        Ok(match change {
            Change::Registered => Written::Created(service),
            Change::Updated | Change::Deregistered => Written::Replaced(service),
        })
    }

    /// Deletes the service, and the reports about it.
    pub(crate) async fn delete(
        &self,
        id: &str,
        precondition: &Precondition,
    ) -> Result<Written, StoreError> {
        let mut writing = self.begin().await?;
        let Some(before) = read(&mut *writing.tx, id).await? else {
            return writing.abandon(Written::Missing).await;
        };
        if let Precondition::Tags(tags) = precondition
            && !allows(tags, Some(&before))
        {
            return writing.abandon(Written::Mismatch).await;
        }
        let (_, revision) = writing.next_revision().await?;
        writing.end_version(id, revision).await?;
        sqlx::query("DELETE FROM services WHERE id = $1")
            .bind(id)
            .execute(&mut *writing.tx)
            .await?;
        writing
            .add_event(Change::Deregistered, id, &before.record, revision)
            .await?;
        writing.commit().await?;
        Ok(Written::Replaced(before))
    }
}

impl Writing<'_> {
    async fn end_version(&mut self, id: &str, revision: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE service_versions SET to_revision = $1
             WHERE id = $2 AND to_revision = 9223372036854775807",
        )
        .bind(revision)
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn store_record(&mut self, id: &str, service: &Service) -> Result<(), StoreError> {
        let text = |field: &str| {
            service
                .record
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let labels = service
            .record
            .get("labels")
            .map_or("{}".to_owned(), Value::to_string);
        let record = serde_json::to_string(&service.record)?;
        sqlx::query(
            "INSERT INTO services (id, name, namespace, labels, record, revision)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET
                 name = excluded.name, namespace = excluded.namespace, labels = excluded.labels,
                 record = excluded.record, revision = excluded.revision",
        )
        .bind(id)
        .bind(text("name"))
        .bind(text("namespace"))
        .bind(&labels)
        .bind(&record)
        .bind(service.revision)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "INSERT INTO service_versions (id, from_revision, namespace, labels, record)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id)
        .bind(service.revision)
        .bind(text("namespace"))
        .bind(&labels)
        .bind(&record)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn add_event(
        &mut self,
        change: Change,
        id: &str,
        record: &Map<String, Value>,
        revision: i64,
    ) -> Result<(), StoreError> {
        let data = json!({
            "id": id,
            "name": record.get("name"),
            "namespace": record.get("namespace"),
            "revision": revision,
        });
        sqlx::query(
            "INSERT INTO events (revision, type, service_id, data, at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(revision)
        .bind(change.event())
        .bind(id)
        .bind(data.to_string())
        .bind(now())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

impl Change {
    fn event(self) -> &'static str {
        match self {
            Self::Registered => "ServiceRegistered",
            Self::Updated => "ServiceUpdated",
            Self::Deregistered => "ServiceDeregistered",
        }
    }
}

async fn read(
    executor: impl Executor<'_, Database = Any>,
    id: &str,
) -> Result<Option<Service>, StoreError> {
    let row = sqlx::query(
        "SELECT c.epoch, s.revision, s.record FROM services s, catalog_state c WHERE s.id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.map(|row| {
        Ok(Service {
            epoch: row.try_get(0)?,
            revision: row.try_get(1)?,
            record: serde_json::from_str(row.try_get(2)?)?,
        })
    })
    .transpose()
}

fn allows(tags: &[String], service: Option<&Service>) -> bool {
    service.is_some_and(|service| {
        let own = service.etag();
        tags.iter().any(|tag| tag == "*" || *tag == own)
    })
}
