//! Registers the services of a file. Does IO.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shape::read;
use crate::shape::record::RECORD;
use crate::store::Store;
use crate::store::services::{Precondition, Written};

/// Registers the services of a JSON list that the catalog does not have;
/// those that it has stay as they are.
pub(crate) async fn load(store: &Store, file: &Path) -> anyhow::Result<()> {
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    let entries: Vec<Value> =
        serde_json::from_slice(&text).with_context(|| format!("{shown} is not a JSON list"))?;
    let mut registered = 0;
    for (index, entry) in entries.iter().enumerate() {
        let record = match read(entry, &RECORD) {
            Ok(record) => record,
            Err(faults) => {
                let first = faults
                    .first()
                    .map(|fault| format!("{} {}", fault.field, fault.message));
                bail!(
                    "entry {} of {shown}: {}",
                    index + 1,
                    first.unwrap_or_default()
                );
            }
        };
        let Some(id) = record.get("id").and_then(Value::as_str).map(str::to_owned) else {
            bail!("entry {} of {shown}: id must be given", index + 1);
        };
        if let Written::Created(_) = store.put(&id, record, &Precondition::Absent).await? {
            registered += 1;
        }
    }
    tracing::info!(registered, entries = entries.len(), "seeded the catalog");
    Ok(())
}
