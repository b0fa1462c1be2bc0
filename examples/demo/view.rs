//! How are objects and answers shown? Turns values into text. No IO.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use serde_json::Value;

/// A table with a head, its columns as wide as they must be.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in &lines {
        let padded = line
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        text.push_str(padded.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// The binding's conditions.
pub(crate) fn conditions(binding: &ServiceBinding) -> String {
    let conditions = binding.status.iter().flat_map(|status| &status.conditions);
    let rows: Vec<_> = conditions
        .map(|c| vec![c.type_.clone(), c.status.clone(), c.reason.clone()])
        .collect();
    table(&["CONDITION", "STATUS", "REASON"], &rows)
}

/// Each value of the policy, and where it comes from.
pub(crate) fn policy(binding: &ServiceBinding) -> String {
    let policy = binding.status.iter().flat_map(|status| &status.policy);
    let rows: Vec<_> = policy
        .map(|p| vec![p.field.clone(), p.value.clone(), format!("{:?}", p.source)])
        .collect();
    table(&["FIELD", "VALUE", "SOURCE"], &rows)
}

/// Who answered how often, with a bar for each.
pub(crate) fn tally(counts: &BTreeMap<String, usize>) -> String {
    let most = counts.values().copied().max().unwrap_or(1).max(1);
    let rows: Vec<_> = counts
        .iter()
        .map(|(who, &count)| {
            let bar = "█".repeat((count * 30).div_ceil(most));
            vec![who.clone(), format!("{count:>3}"), bar]
        })
        .collect();
    table(&["ANSWERED BY", "  #", ""], &rows)
}

/// The spec of an object, as YAML.
pub(crate) fn spec(object: &Value) -> Result<String> {
    let spec = object.get("spec").context("the object has no spec")?;
    Ok(serde_saphyr::to_string(spec)?)
}

/// The timeout of the first route that Envoy has for the host.
pub(crate) fn envoy_timeout(dump: &Value, host: &str) -> Option<String> {
    let claims = |value: &Value| {
        let domains = value.get("domains").and_then(Value::as_array);
        domains.is_some_and(|domains| domains.iter().any(|domain| domain == host))
    };
    if claims(dump) {
        let timeout = dump.pointer("/routes/0/route/timeout")?;
        return timeout.as_str().map(str::to_owned);
    }
    match dump {
        Value::Array(items) => items.iter().find_map(|item| envoy_timeout(item, host)),
        Value::Object(fields) => fields.values().find_map(|field| envoy_timeout(field, host)),
        _ => None,
    }
}
