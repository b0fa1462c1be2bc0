//! How does a list of many pages become one list of one revision? Asks for
//! pages through a function, so that it does no IO of its own.

use std::collections::{BTreeSet, HashSet};

use futures::future::BoxFuture;

use super::error::CatalogError;
use super::wire::Page;
use crate::domain::record::{
    BadRecord, CatalogPosition, ServiceFilter, ServiceList, ServiceRecord,
};

const PAGE_SIZE: &str = "500";
const IDS_AT_ONCE: usize = 100;
const MOST_PAGES: usize = 2_000;
/// Most services of a list.
pub(super) const MOST_SERVICES: usize = 100_000;
const LONGEST_CURSOR: usize = 4_096;

/// The parameters of one request.
pub(super) type Query = Vec<(&'static str, String)>;

/// What asking for one page gave.
pub(super) enum PageAnswer {
    Page(Page),
    /// The catalog no longer keeps the revision that the cursor stands for.
    CursorGone,
}

/// Asks for one page.
pub(super) type Ask<'a> =
    dyn Fn(Query) -> BoxFuture<'a, Result<PageAnswer, CatalogError>> + Send + Sync + 'a;

/// Why a run through the pages ended early.
enum Stop {
    /// The catalog moved on: a second run may do better.
    Moved,
    Failed(CatalogError),
}

/// Lists what the filter leaves. A filter of more than 100 IDs takes several
/// lists; all of them must be of one revision, like the pages of one. Where
/// the catalog moved on under way, the whole is begun again, once.
pub(super) async fn list(
    filter: &ServiceFilter,
    ask: &Ask<'_>,
) -> Result<ServiceList, CatalogError> {
    for _ in 0..2 {
        match run(filter, ask).await {
            Ok(list) => return Ok(list),
            Err(Stop::Moved) => {}
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Err(CatalogError::unavailable("the list changed under way"))
}

async fn run(filter: &ServiceFilter, ask: &Ask<'_>) -> Result<ServiceList, Stop> {
    let mut collected = Collected::default();
    for query in queries(filter) {
        let mut cursors = HashSet::new();
        let mut next = query.clone();
        loop {
            let page = match ask(next).await.map_err(Stop::Failed)? {
                PageAnswer::Page(page) => page,
                PageAnswer::CursorGone => return Err(Stop::Moved),
            };
            let cursor = page.next_cursor.clone();
            collected.add(page, filter)?;
            let Some(cursor) = cursor else { break };
            if cursor.is_empty() || cursor.len() > LONGEST_CURSOR {
                return Err(failed("a cursor of the list is empty or too long"));
            }
            if !cursors.insert(cursor.clone()) {
                return Err(failed("the list repeats a cursor and would not end"));
            }
            next = query.clone();
            next.push(("cursor", cursor));
        }
    }
    collected.finish()
}

/// The parameters of each list that the filter takes.
fn queries(filter: &ServiceFilter) -> Vec<Query> {
    let mut common = vec![("limit", PAGE_SIZE.to_owned())];
    common.extend(
        filter
            .namespace
            .iter()
            .map(|namespace| ("namespace", namespace.clone())),
    );
    common.extend(
        filter
            .labels
            .iter()
            .map(|(key, value)| ("label", format!("{key}={value}"))),
    );
    if filter.ids.is_empty() {
        return vec![common];
    }
    let ids: Vec<_> = BTreeSet::from_iter(&filter.ids).into_iter().collect();
    let query = |ids: &[&_]| {
        let ids = ids.iter().map(|id| ("id", ToString::to_string(id)));
        common.iter().cloned().chain(ids).collect()
    };
    ids.chunks(IDS_AT_ONCE).map(query).collect()
}

#[derive(Default)]
struct Collected {
    position: Option<CatalogPosition>,
    pages: usize,
    services: Vec<Result<ServiceRecord, BadRecord>>,
}

impl Collected {
    fn add(&mut self, page: Page, filter: &ServiceFilter) -> Result<(), Stop> {
        if *self.position.get_or_insert_with(|| page.position.clone()) != page.position {
            return Err(Stop::Moved);
        }
        // A catalog that knows less of filters than we do sends too much.
        self.services
            .extend(page.services.into_iter().filter(|service| match service {
                Ok(record) => filter.admits(record),
                Err(bad) => bad.id.as_ref().is_none_or(|id| filter.admits_id(id)),
            }));
        self.pages += 1;
        if self.pages > MOST_PAGES || self.services.len() > MOST_SERVICES {
            return Err(failed(format!(
                "the list is longer than {MOST_PAGES} pages or {MOST_SERVICES} services"
            )));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ServiceList, Stop> {
        self.services.sort_by(|a, b| id(a).cmp(&id(b)));
        let twice = |pair: &[_]| id(&pair[0]).is_some() && id(&pair[0]) == id(&pair[1]);
        if self.services.windows(2).any(twice) {
            return Err(failed("the list holds a service twice"));
        }
        let position = self
            .position
            .ok_or_else(|| failed("the list has no page"))?;
        Ok(ServiceList {
            position,
            services: self.services,
        })
    }
}

/// What a list is ordered by.
pub(super) fn id(service: &Result<ServiceRecord, BadRecord>) -> Option<&str> {
    match service {
        Ok(record) => Some(&record.id),
        Err(bad) => bad.id.as_deref(),
    }
}

fn failed(message: impl Into<String>) -> Stop {
    Stop::Failed(CatalogError::unavailable(message))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;

    use super::*;
    use crate::domain::names::CatalogServiceId;

    fn page(revision: u64, ids: &[&str], next: Option<&str>) -> PageAnswer {
        let record = |id: &&str| {
            Ok(ServiceRecord {
                id: (*id).to_owned(),
                ..Default::default()
            })
        };
        PageAnswer::Page(Page {
            position: CatalogPosition {
                epoch: "e".to_owned(),
                revision,
            },
            next_cursor: next.map(str::to_owned),
            services: ids.iter().map(record).collect(),
        })
    }

    /// Lists with the answers that `answer` gives to the queries.
    async fn list_with(
        filter: &ServiceFilter,
        answer: impl FnMut(Query) -> PageAnswer + Send,
    ) -> Result<ServiceList, CatalogError> {
        let answer = Mutex::new(answer);
        list(filter, &|query| {
            let answer = (*answer.lock().unwrap())(query);
            async { Ok(answer) }.boxed()
        })
        .await
    }

    /// Lists with these answers, and says how many pages were asked for.
    async fn listed(answers: Vec<PageAnswer>) -> (Result<Vec<String>, String>, usize) {
        let (mut answers, mut asked) = (answers.into_iter(), 0);
        let list = list_with(&ServiceFilter::default(), |_| {
            asked += 1;
            answers.next().expect("one page too many was asked for")
        })
        .await;
        let ids = |list: ServiceList| list.services.into_iter().map(|s| s.unwrap().id).collect();
        (list.map(ids).map_err(|error| error.to_string()), asked)
    }

    #[tokio::test]
    async fn pages_are_followed_to_the_last_and_ordered_by_id() {
        let answers = vec![page(1, &["b", "c"], Some("x")), page(1, &["a"], None)];
        assert_eq!(
            listed(answers).await,
            (Ok(vec!["a".into(), "b".into(), "c".into()]), 2)
        );
    }

    #[tokio::test]
    async fn a_list_that_moved_under_way_is_begun_again_once() {
        let moved = || [page(1, &["a"], Some("x")), page(2, &["b"], None)];
        let whole = page(3, &["a"], None);
        let answers = moved().into_iter().chain([whole]).collect();
        assert_eq!(listed(answers).await, (Ok(vec!["a".to_owned()]), 3));
        let (list, asked) = listed(moved().into_iter().chain(moved()).collect()).await;
        assert!(list.unwrap_err().contains("the list changed under way"));
        assert_eq!(asked, 4);
    }

    #[tokio::test]
    async fn a_cursor_that_is_gone_begins_the_list_again_once() {
        let gone = || [page(1, &["a"], Some("x")), PageAnswer::CursorGone];
        let answers = gone().into_iter().chain([page(3, &["c"], None)]).collect();
        assert_eq!(listed(answers).await, (Ok(vec!["c".to_owned()]), 3));
        let (list, _) = listed(gone().into_iter().chain(gone()).collect()).await;
        assert!(list.is_err());
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_trusted_is_refused() {
        for (answers, why) in [
            (
                vec![page(1, &["a"], Some("x")), page(1, &["b"], Some("x"))],
                "repeats a cursor",
            ),
            (vec![page(1, &["a"], Some(""))], "empty or too long"),
            (
                vec![page(1, &["a"], Some(&"x".repeat(5_000)))],
                "empty or too long",
            ),
            (
                vec![page(1, &["a"], Some("x")), page(1, &["a"], None)],
                "twice",
            ),
        ] {
            let (list, _) = listed(answers).await;
            assert!(
                list.as_ref().is_err_and(|error| error.contains(why)),
                "{list:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_list_without_end_is_given_up() {
        let mut asked = 0;
        let list = list_with(&ServiceFilter::default(), |_| {
            asked += 1;
            page(1, &[], Some(&asked.to_string()))
        })
        .await;
        assert!(list.is_err());
        assert_eq!(asked, MOST_PAGES + 1);
    }

    #[tokio::test]
    async fn many_ids_are_asked_for_in_parts_of_a_hundred_each_once() {
        let id = |i: usize| CatalogServiceId::parse(&format!("s{i:03}")).unwrap();
        let ids = (0..250).chain(0..10).map(id).collect();
        let labels = [("tier".to_owned(), "a b&c".to_owned())].into();
        let filter = ServiceFilter {
            namespace: Some("n".to_owned()),
            labels,
            ids,
        };
        let mut asked = Vec::new();
        let list = list_with(&filter, |query| {
            asked.push(query);
            page(1, &[], None)
        })
        .await;
        assert!(list.is_ok());
        let of = |query: &Query, name| query.iter().filter(|(n, _)| *n == name).count();
        assert_eq!(
            asked.iter().map(|q| of(q, "id")).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        for query in &asked {
            assert_eq!(of(query, "namespace"), 1);
            assert!(query.contains(&("label", "tier=a b&c".to_owned())));
        }
    }

    #[tokio::test]
    async fn what_the_filter_does_not_leave_is_dropped_though_the_catalog_sent_it() {
        let filter = ServiceFilter {
            ids: vec![CatalogServiceId::parse("b").unwrap()],
            ..Default::default()
        };
        let list = list_with(&filter, |_| page(1, &["a", "b", "c"], None))
            .await
            .unwrap();
        assert_eq!(list.services.len(), 1);
        assert_eq!(list.services[0].as_ref().unwrap().id, "b");
    }
}
