//! Reading services. Does IO.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::columns;
use super::session::Role;
use crate::catalog::error::CatalogError;
use crate::catalog::pages::{self, MOST_SERVICES};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{
    BadRecord, CatalogPosition, ServiceFilter, ServiceList, ServiceRecord,
};

/// The largest record that is read, as over the API.
const LARGEST_RECORD: i32 = 1024 * 1024;

/// The service of that ID. The row of `catalog_state` shows that this is a
/// catalog, so that what has no services is not taken for one that lost them.
pub(super) async fn get(
    reader: &Role,
    id: &CatalogServiceId,
) -> Result<Arc<ServiceRecord>, CatalogError> {
    let mut lent = reader.lend().await?;
    let (revision, record): (Option<i64>, Option<String>) = sqlx::query_as(
        "SELECT s.revision, CASE WHEN octet_length(s.record) <= $2 THEN s.record END
         FROM catalog_state c LEFT JOIN services s ON s.id = $1",
    )
    .bind(id.as_str())
    .bind(LARGEST_RECORD)
    .fetch_one(&mut lent.connection)
    .await
    .map_err(|error| reader.failed(&error))?;
    lent.give_back();
    let revision = revision.ok_or(CatalogError::NotFound)?;
    read(id.as_str(), revision, record)
        .map(Arc::new)
        .map_err(CatalogError::BadRecord)
}

/// All services that the filter leaves, of one moment.
pub(super) async fn list(
    reader: &Role,
    filter: &ServiceFilter,
    deadline: Duration,
) -> Result<ServiceList, CatalogError> {
    let mut lent = reader.lend().await?;
    let list = snapshot(&mut lent.connection, filter, deadline)
        .await
        .map_err(|error| reader.failed(&error))?;
    let Some(list) = list else {
        // The rest of the rows, and the end of the transaction, are not read:
        // the connection is closed.
        return Err(CatalogError::unavailable(format!(
            "the list is longer than {MOST_SERVICES} services"
        )));
    };
    lent.give_back();
    Ok(list)
}

/// Nothing where there are too many. The rows are read one by one as the
/// server sends them, so that what is in memory is the list and one row.
async fn snapshot(
    connection: &mut PgConnection,
    filter: &ServiceFilter,
    deadline: Duration,
) -> Result<Option<ServiceList>, sqlx::Error> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut tx = connection.begin_with(begin).await?;
    let most = deadline.as_millis() * 4 / 5;
    tx.execute(AssertSqlSafe(format!(
        "SET LOCAL statement_timeout = {most}"
    )))
    .await?;
    let (epoch, revision): (String, i64) =
        sqlx::query_as("SELECT epoch, revision FROM catalog_state")
            .fetch_one(&mut *tx)
            .await?;
    let ids: Vec<_> = filter.ids.iter().map(CatalogServiceId::as_str).collect();
    let mut services = Vec::new();
    let mut rows = sqlx::query(
        "SELECT id, revision, CASE WHEN octet_length(labels) <= $1 THEN labels ELSE '' END,
                CASE WHEN octet_length(record) <= $1 THEN record END
         FROM services
         WHERE ($2 = '' OR namespace = $2) AND (cardinality($3::text[]) = 0 OR id = ANY ($3))",
    )
    .bind(LARGEST_RECORD)
    .bind(filter.namespace.as_deref().unwrap_or_default())
    .bind(ids)
    .fetch(&mut *tx);
    while let Some(row) = rows.try_next().await? {
        let (id, labels): (&str, &str) = (row.try_get(0)?, row.try_get(2)?);
        let service = listed(id, row.try_get(1)?, row.try_get(3)?);
        let left = match &service {
            Ok(record) => filter.admits(record),
            Err(_) => columns::carries(labels, &filter.labels),
        };
        if left {
            services.push(service);
        }
        if services.len() > MOST_SERVICES {
            return Ok(None);
        }
    }
    drop(rows);
    tx.commit().await?;
    services.sort_by(|a, b| pages::id(a).cmp(&pages::id(b)));
    let position = CatalogPosition {
        epoch,
        revision: revision.unsigned_abs(),
    };
    Ok(Some(ServiceList { position, services }))
}

/// One record of a list; the ID is part of what may be wrong.
fn listed(id: &str, revision: i64, record: Option<String>) -> Result<ServiceRecord, BadRecord> {
    CatalogServiceId::parse(id).map_err(|error| BadRecord {
        id: None,
        revision: None,
        field: "id".to_owned(),
        message: error.to_string(),
    })?;
    read(id, revision, record)
}

fn read(id: &str, revision: i64, record: Option<String>) -> Result<ServiceRecord, BadRecord> {
    let Some(record) = record else {
        return Err(BadRecord {
            id: Some(id.to_owned()),
            revision: u64::try_from(revision).ok(),
            field: "record".to_owned(),
            message: format!("is larger than {LARGEST_RECORD} bytes"),
        });
    };
    columns::record(id, revision, &record)
}
