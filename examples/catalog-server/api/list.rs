//! Lists of services in pages.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Shared;
use crate::problem::Problem;
use crate::shape::text::{DNS_LABEL, LABEL_KEY, LABEL_VALUE, SERVICE_ID, TextRule};
use crate::store::list::Filter;

const MOST_ITEMS: usize = 500;
const MOST_IDS: usize = 100;
const MOST_LABELS: usize = 20;

pub(super) async fn list(
    State(app): Shared,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let query = Query::parse(query.as_deref().unwrap_or_default())?;
    let filter = query.filter();
    let (epoch, revision, after) = match &query.cursor {
        Some(cursor) => {
            let cursor = Cursor::parse(cursor).filter(|cursor| cursor.filter == digest(&filter));
            let cursor = cursor.ok_or_else(gone)?;
            (cursor.epoch, cursor.revision, cursor.after)
        }
        None => {
            let state = app.store.state().await?;
            (state.epoch, state.revision, String::new())
        }
    };
    let page = app
        .store
        .page(revision, &after, &filter, query.limit)
        .await?;
    if page.state.epoch != epoch || !(page.state.floor..=page.state.revision).contains(&revision) {
        return Err(gone());
    }
    let items: Vec<_> = page
        .items
        .into_iter()
        .map(|(revision, record)| {
            let mut item = Value::Object(record);
            item["revision"] = json!(revision);
            item
        })
        .collect();
    let mut body = json!({ "epoch": epoch, "revision": revision, "items": items });
    if let Some(after) = page.more_after {
        let cursor = Cursor {
            epoch,
            revision,
            filter: digest(&filter),
            after,
        };
        body["nextCursor"] = cursor.text().into();
    }
    Ok(Json(body))
}

fn gone() -> Problem {
    Problem::new(
        StatusCode::GONE,
        "the cursor is of another list, or its revision is no longer kept; list again from the start",
    )
}

/// The query of a list, checked.
#[derive(Debug)]
struct Query {
    limit: usize,
    cursor: Option<String>,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    ids: BTreeSet<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut query = Self {
            limit: 100,
            cursor: None,
            namespace: None,
            labels: BTreeMap::new(),
            ids: BTreeSet::new(),
        };
        let (mut labels, mut ids) = (0, 0);
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "limit" => query.limit = limit(&value)?,
                "cursor" => query.cursor = Some(kept(&CURSOR, "cursor", &value)?),
                "namespace" => query.namespace = Some(kept(&DNS_LABEL, "namespace", &value)?),
                "label" => {
                    labels += 1;
                    let (key, value) = label(&value)?;
                    let before = query.labels.insert(key.clone(), value.clone());
                    if before.is_some_and(|before| before != value) {
                        let two = format!("asks for two values of {key}; no service has both");
                        return Err(Problem::fault("label", &two));
                    }
                }
                "id" => {
                    ids += 1;
                    query.ids.insert(kept(&SERVICE_ID, "id", &value)?);
                }
                _ => {}
            }
        }
        if labels > MOST_LABELS {
            return Err(Problem::fault("label", "must be given at most 20 times"));
        }
        if ids > MOST_IDS {
            return Err(Problem::fault("id", "must be given at most 100 times"));
        }
        Ok(query)
    }

    fn filter(&self) -> Filter {
        Filter {
            namespace: self.namespace.clone().unwrap_or_default(),
            labels: json!(self.labels).to_string(),
            ids: json!(self.ids).to_string(),
        }
    }
}

static CURSOR: TextRule = TextRule {
    holds: |text| {
        (1..=512).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._:~-".contains(c))
    },
    expected: "must be the nextCursor of a page, as it came",
};

fn kept(rule: &TextRule, field: &str, value: &str) -> Result<String, Problem> {
    if (rule.holds)(value) {
        Ok(value.to_owned())
    } else {
        Err(Problem::fault(field, rule.expected))
    }
}

fn limit(value: &str) -> Result<usize, Problem> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(limit) if plain && (1..=MOST_ITEMS).contains(&limit) => Ok(limit),
        _ => Err(Problem::fault(
            "limit",
            "must be a whole number from 1 to 500",
        )),
    }
}

fn label(value: &str) -> Result<(String, String), Problem> {
    match value.split_once('=') {
        Some((key, value)) if (LABEL_KEY.holds)(key) && (LABEL_VALUE.holds)(value) => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(Problem::fault(
            "label",
            "must be key=value, as labels of a record are",
        )),
    }
}

/// Where a list goes on. Its text has no character that a URL escapes.
#[derive(Debug, Eq, PartialEq)]
struct Cursor {
    epoch: String,
    revision: i64,
    filter: String,
    after: String,
}

impl Cursor {
    fn text(&self) -> String {
        format!(
            "{}.{}.{}.{}",
            self.epoch, self.revision, self.filter, self.after
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '.');
        Some(Self {
            epoch: parts.next()?.to_owned(),
            revision: parts.next()?.parse().ok()?,
            filter: parts.next()?.to_owned(),
            after: parts.next()?.to_owned(),
        })
    }
}

/// Ties a cursor to the filter of its list.
fn digest(filter: &Filter) -> String {
    let text = [&*filter.namespace, &*filter.labels, &*filter.ids].join("\n");
    Sha256::digest(text)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let cursor = Cursor {
            epoch: "0badcafe".to_owned(),
            revision: 7,
            filter: "12345678".to_owned(),
            after: "a.b:c~d-e_f".to_owned(),
        };
        assert!((CURSOR.holds)(&cursor.text()));
        assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
    }

    #[test]
    fn a_bad_query_names_its_parameter() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=+5", "limit"),
            ("cursor=", "cursor"),
            ("namespace=A", "namespace"),
            ("label=novalue", "label"),
            ("label=k=%00", "label"),
            ("id=..", "id"),
        ] {
            let problem = format!("{:?}", Query::parse(query).unwrap_err());
            assert!(
                problem.contains(&format!("field: \"{field}\"")),
                "{query}: {problem}"
            );
        }
    }
}
