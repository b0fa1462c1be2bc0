//! The status that a situation leads to. Times move only with what they
//! stand for, so that a status that says the same is the same.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::health::summary::Shown;
use super::reasons as r;
use super::record::CatalogPosition;
use super::situation::{Cell, Fact, InForce, Row, Situation, Truth};
use crate::api::service_binding::{
    ChildStatus, EndpointTransition, PolicyEntry, ServiceBindingStatus, SyncStatus,
};

/// Longest message of a condition; the rest is cut off.
const MESSAGE_LIMIT: usize = 1024;

/// What a look brought, besides the situation.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Effective policy with its sources; absent where none was computed.
    pub policy: Option<Vec<PolicyEntry>>,
    /// The objects as they were stored; absent where none was touched.
    pub children: Option<Vec<ChildStatus>>,
    /// Whether an object was written.
    pub wrote: bool,
    /// Whether all objects were removed.
    pub removed: bool,
    /// Whether catalog or binding ask for health checks; absent: not known.
    pub checked: Option<bool>,
    /// The health of the service; absent: as it is.
    pub health: Option<Shown>,
    /// The last changes of endpoints, as far as they led to that health.
    pub transitions: Vec<EndpointTransition>,
    /// Where the record was seen in the catalog's history, if it was.
    pub seen: Option<CatalogPosition>,
    /// Whether where it was seen before is worth nothing any more.
    pub doubted: bool,
}

/// The next status of a binding of that generation.
pub fn next(
    previous: Option<&ServiceBindingStatus>,
    generation: Option<i64>,
    situation: &Situation,
    findings: Findings,
    now: Timestamp,
) -> ServiceBindingStatus {
    let mut status = previous.cloned().unwrap_or_default();
    let row = situation.row(in_force(&status, generation));
    let frozen = matches!(situation, Situation::Suspended { .. });

    let sync = row.sync;
    // Of a frozen binding all but that it is frozen stays as it is.
    let health = if frozen {
        None
    } else {
        let (shown, transitions) = (findings.health, findings.transitions);
        health(&mut status, shown, transitions, findings.checked)
    };
    set_conditions(&mut status, generation, row, health, now);
    status.sync_status = sync.or(status.sync_status).or(Some(SyncStatus::Syncing));
    // A frozen binding has not been looked at: the generation that was last
    // acted upon stays the observed one.
    if !frozen {
        status.observed_generation = generation;
    }
    if let Some(policy) = findings.policy {
        status.policy = policy;
    }
    if findings.removed {
        status.children.clear();
    }
    // An object that was not reached this time is still what it was.
    for child in findings.children.into_iter().flatten() {
        status.children.retain(|c| c.kind != child.kind);
        status.children.push(child);
    }
    status.children.sort_by(|a, b| a.kind.cmp(&b.kind));
    let first = status.last_sync.is_none() && matches!(situation, Situation::Programmed { .. });
    if findings.wrote || first {
        status.last_sync = Some(Time(now));
    }
    if findings.doubted {
        status.record_seen = None;
    }
    if let Some(seen) = findings.seen
        && (previous != Some(&status) || is_of_another_history(&status, &seen))
    {
        // A mere growth of the revision is not worth a write of its own.
        status.record_seen = Some(seen.to_string());
    }
    status
}

/// Where the status says that the record was last seen.
pub fn record_seen(status: Option<&ServiceBindingStatus>) -> Option<CatalogPosition> {
    CatalogPosition::parse(status?.record_seen.as_deref()?)
}

/// Whether the status says that the service was denied, and no more.
pub fn is_denied(status: Option<&ServiceBindingStatus>) -> bool {
    ready_says(status, r::NOT_FOUND)
}

/// Why the status says that the binding is Ready, or is not; empty where it
/// says neither.
pub fn why_ready(status: &ServiceBindingStatus) -> &str {
    let ready = status.conditions.iter().find(|c| c.type_ == r::READY);
    ready.map_or("", |ready| &ready.reason)
}

/// Whether the status says that another process reports as this cluster.
pub fn tells_of_rival(status: Option<&ServiceBindingStatus>) -> bool {
    says(status, r::CATALOG_SYNCED, r::DUPLICATE_WRITER)
}

/// Which other record the status says to name the same Service, if it does.
pub fn another_record(status: Option<&ServiceBindingStatus>) -> Option<&str> {
    let mut conditions = status.iter().flat_map(|status| &status.conditions);
    let said = conditions.find(|c| c.type_ == r::CATALOG_SYNCED && c.reason == r::ANOTHER_RECORD);
    said.map(|said| said.message.as_str())
}

fn ready_says(status: Option<&ServiceBindingStatus>, reason: &str) -> bool {
    says(status, r::READY, reason)
}

fn says(status: Option<&ServiceBindingStatus>, type_: &str, reason: &str) -> bool {
    let conditions = status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|c| c.type_ == type_)
        .any(|c| c.reason == reason)
}

fn is_of_another_history(status: &ServiceBindingStatus, seen: &CatalogPosition) -> bool {
    record_seen(Some(status))
        .is_none_or(|last| last.epoch != seen.epoch || last.revision > seen.revision)
}

/// Which generation of the binding the mesh holds.
fn in_force(status: &ServiceBindingStatus, generation: Option<i64>) -> InForce {
    let programmed = status
        .conditions
        .iter()
        .find(|c| c.type_ == r::MESH_PROGRAMMED && c.status == Truth::True.as_str());
    match programmed {
        Some(c) if c.observed_generation == generation => InForce::ThisGeneration,
        Some(_) => InForce::AnEarlierOne,
        None => InForce::Nothing,
    }
}

/// Takes what is known of the service's health into the status, and returns what
/// its condition says. Before the first endpoint was judged the health is what
/// it was: a restart of the operator is no news.
fn health(
    status: &mut ServiceBindingStatus,
    shown: Option<Shown>,
    transitions: Vec<EndpointTransition>,
    checked: Option<bool>,
) -> Cell {
    let before = status.conditions.iter().find(|c| c.type_ == r::HEALTHY);
    let unset = before.is_none_or(|c| [r::PROGRESSING, r::NOT_CONFIGURED].contains(&&*c.reason));
    // A look knows of a check before anything was found of it.
    let shown = shown.filter(|shown| *shown != Shown::NotConfigured || checked != Some(true));
    let shown = match (shown, checked) {
        // Where nothing was ever checked there is nothing to take back.
        (Some(Shown::NotInForce), _) if unset => return None,
        (Some(shown), _) => shown,
        (None, Some(false)) => Shown::NotConfigured,
        (None, Some(true)) if unset => {
            return Some(Fact {
                truth: Truth::Unknown,
                reason: r::PROBING,
                message: String::new(),
            });
        }
        (None, _) => return None,
    };
    let (fact, counts) = (shown.fact(), shown.endpoints());
    let same = before.is_some_and(|c| c.reason == fact.reason && c.message == fact.message);
    // Changes that left everything as it was are not worth a write of their own.
    if !same || status.endpoints != counts {
        let checked = counts.is_some();
        status.endpoint_transitions = transitions.into_iter().filter(|_| checked).collect();
    }
    status.health_status = shown.status();
    status.endpoints = counts;
    Some(fact)
}

fn set_conditions(
    status: &mut ServiceBindingStatus,
    generation: Option<i64>,
    row: Row,
    health: Cell,
    now: Timestamp,
) {
    let fact = |truth, reason| Fact {
        truth,
        reason,
        message: String::new(),
    };
    // What each condition says where nothing is known of this binding yet.
    let cells = [
        (r::READY, row.ready, fact(Truth::False, r::PROGRESSING)),
        (
            r::CATALOG_SYNCED,
            row.catalog,
            fact(Truth::Unknown, r::PROGRESSING),
        ),
        (
            r::MESH_PROGRAMMED,
            row.mesh,
            fact(Truth::Unknown, r::PROGRESSING),
        ),
        (r::HEALTHY, health, fact(Truth::Unknown, r::PROGRESSING)),
        (
            r::CONFLICT,
            row.conflict,
            fact(Truth::False, r::NO_CONFLICT),
        ),
        (r::SUSPENDED, row.suspended, fact(Truth::False, r::ACTIVE)),
    ];
    let before = std::mem::take(&mut status.conditions);
    status.conditions = cells
        .into_iter()
        .map(|(type_, cell, unknown)| {
            let previous = before.iter().find(|c| c.type_ == type_);
            match (cell, previous) {
                (None, Some(previous)) => previous.clone(),
                (None, None) => condition(type_, unknown, None, generation, now),
                (Some(fact), previous) => condition(type_, fact, previous, generation, now),
            }
        })
        .collect();
}

fn condition(
    type_: &str,
    fact: Fact,
    previous: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = fact.truth.as_str();
    let since = previous
        .filter(|p| p.status == status)
        .map(|p| p.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: fact.reason.to_owned(),
        message: fact.message.chars().take(MESSAGE_LIMIT).collect(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// A change that users are told of by an Event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Reason of the condition that changed.
    pub reason: String,
    /// Its message, or what happened.
    pub note: String,
    /// Whether it is bad news.
    pub warning: bool,
}

/// What changed between two statuses, as far as it is worth an Event: Ready
/// with its reason, Suspended, that nothing is reported back any more, that
/// another record names the Service, and that the service's health cannot be
/// told.
pub fn transitions(
    before: Option<&ServiceBindingStatus>,
    after: &ServiceBindingStatus,
) -> Vec<Transition> {
    let find = |status: &ServiceBindingStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).cloned()
    };
    let changed = |type_: &str| {
        let new = find(after, type_)?;
        let old = before.and_then(|status| find(status, type_));
        let same = old
            .as_ref()
            .is_some_and(|old| old.status == new.status && old.reason == new.reason);
        (!same).then_some((old, new))
    };
    let mut found = Vec::new();
    if let Some((_, new)) = changed(r::CATALOG_SYNCED)
        && [r::DUPLICATE_WRITER, r::ANOTHER_RECORD].contains(&&*new.reason)
    {
        found.push(Transition {
            reason: new.reason,
            note: new.message,
            warning: true,
        });
    }
    if let Some((_, new)) = changed(r::READY) {
        let warning = new.status != Truth::True.as_str();
        let note = if new.message.is_empty() {
            format!("Ready is {}", new.status)
        } else {
            new.message
        };
        found.push(Transition {
            reason: new.reason,
            note,
            warning,
        });
    }
    if let Some((old, new)) = changed(r::SUSPENDED)
        && (old.is_some() || new.status == Truth::True.as_str())
    {
        let note = if new.message.is_empty() {
            "work for this binding goes on".to_owned()
        } else {
            new.message
        };
        found.push(Transition {
            reason: new.reason,
            note,
            warning: false,
        });
    }
    if let Some((_, new)) = changed(r::HEALTHY)
        && TELLS_NOTHING.contains(&&*new.reason)
    {
        found.push(Transition {
            reason: new.reason,
            note: new.message,
            warning: true,
        });
    }
    found
}

/// Why a check says nothing. Of what it does say the endpoints' own Events tell.
const TELLS_NOTHING: [&str; 5] = [
    r::CHECK_NEVER_SUCCEEDED,
    r::MTLS_REQUIRED,
    r::NO_MESH_CERTIFICATE,
    r::NOT_CHECKABLE,
    r::NO_ENDPOINTS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::service_binding::HealthStatus;
    use crate::domain::fixtures::at;

    fn programmed() -> Situation {
        Situation::Programmed {
            mismatch: None,
            rival: None,
            beside: None,
            notes: Vec::new(),
        }
    }

    fn away() -> Situation {
        Situation::CatalogAway {
            reason: r::CATALOG_UNAVAILABLE,
            message: "refused".to_owned(),
        }
    }

    fn suspended() -> Situation {
        Situation::Suspended {
            reason: r::PAUSED,
            message: "by somebody".to_owned(),
        }
    }

    fn wrote() -> Findings {
        Findings {
            wrote: true,
            checked: Some(false),
            ..Findings::default()
        }
    }

    fn at_rest() -> Findings {
        Findings {
            checked: Some(false),
            ..Findings::default()
        }
    }

    fn said(status: &ServiceBindingStatus, type_: &str) -> String {
        let c = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
        format!("{} {}", c.status, c.reason)
    }

    #[test]
    fn a_restart_is_no_news_of_a_service_s_health() {
        use crate::domain::health::judge::{self, Failure, Verdict};
        use crate::domain::health::service::Counts;
        use crate::domain::health::summary::Summary;
        use crate::domain::health::transitions;
        let checked = |health| Findings {
            checked: Some(true),
            health,
            ..Findings::default()
        };
        let first = next(None, Some(1), &programmed(), checked(None), at(1));
        assert_eq!(said(&first, r::HEALTHY), "Unknown Probing");
        let of_two = |healthy| {
            Shown::Service(Summary {
                counts: Counts {
                    total: 2,
                    healthy,
                    ..Counts::default()
                },
                proven: true,
                ..Summary::default()
            })
        };
        let shown = checked(Some(of_two(2)));
        let judged = next(Some(&first), Some(1), &programmed(), shown, at(2));
        assert_eq!(said(&judged, r::HEALTHY), "True Healthy");
        assert_eq!(judged.health_status, Some(HealthStatus::Healthy));
        let again = next(Some(&judged), Some(1), &programmed(), checked(None), at(3));
        assert_eq!(again, judged);

        // Changes that left no trace are said with the next one that does.
        let change = |second| {
            let address = ([10, 0, 0, 1], 80).into();
            let transition = judge::Transition {
                at: at(second).into(),
                from: Verdict::Healthy,
                to: Verdict::Unhealthy(Failure::Refused),
            };
            transitions::seen(address, None, &transition).unwrap()
        };
        let moved = |healthy, second| Findings {
            transitions: vec![change(second)],
            ..checked(Some(of_two(healthy)))
        };
        let again = next(Some(&judged), Some(1), &programmed(), moved(2, 4), at(5));
        assert_eq!(again, judged);
        let one = next(Some(&judged), Some(1), &programmed(), moved(1, 6), at(7));
        assert_eq!(one.endpoint_transitions, [change(6)]);
        let still = next(Some(&one), Some(1), &programmed(), moved(1, 8), at(9));
        assert_eq!(still, one);

        // One that was just asked for is known by the look before anything else.
        let none = next(None, Some(1), &programmed(), at_rest(), at(1));
        let shown = checked(Some(Shown::NotConfigured));
        let asked = next(Some(&none), Some(2), &programmed(), shown, at(2));
        assert_eq!(said(&asked, r::HEALTHY), "Unknown Probing");

        // A check that is taken away is said, and takes its counts along.
        let last = Findings {
            transitions: vec![change(6)],
            ..at_rest()
        };
        let without = next(Some(&one), Some(1), &programmed(), last, at(10));
        assert_eq!(without.endpoint_transitions, []);
        assert_eq!(said(&without, r::HEALTHY), "Unknown NotConfigured");
        assert_eq!((without.health_status, without.endpoints), (None, None));
    }

    #[test]
    fn a_binding_that_was_never_checked_says_nothing_new_when_it_is_no_longer_in_force() {
        let first = next(None, Some(1), &programmed(), at_rest(), at(1));
        let out = |shown| Findings {
            health: Some(shown),
            ..Findings::default()
        };
        let after = next(
            Some(&first),
            Some(1),
            &programmed(),
            out(Shown::NotInForce),
            at(2),
        );
        assert_eq!(after, first);
    }

    #[test]
    fn of_a_frozen_binding_the_health_stays_as_it_is() {
        let shown = Findings {
            health: Some(Shown::NotConfigured),
            ..Findings::default()
        };
        let frozen = next(None, Some(1), &suspended(), shown, at(1));
        assert_eq!(said(&frozen, r::HEALTHY), "Unknown Progressing");
    }

    #[test]
    fn a_status_that_says_the_same_later_is_the_same() {
        let first = next(None, Some(1), &programmed(), wrote(), at(10));
        assert_eq!(first.last_sync, Some(Time(at(10))));
        let later = next(Some(&first), Some(1), &programmed(), at_rest(), at(99));
        assert_eq!(later, first);
        let failing = next(Some(&first), Some(1), &away(), Findings::default(), at(100));
        let still = next(
            Some(&failing),
            Some(1),
            &away(),
            Findings::default(),
            at(200),
        );
        assert_eq!(still, failing);
    }

    #[test]
    fn last_sync_moves_only_when_something_was_written() {
        let first = next(None, Some(1), &programmed(), at_rest(), at(10));
        assert_eq!(
            first.last_sync,
            Some(Time(at(10))),
            "found in force for the first time"
        );
        let written = next(Some(&first), Some(2), &programmed(), wrote(), at(20));
        assert_eq!(written.last_sync, Some(Time(at(20))));
        let failing = next(
            Some(&written),
            Some(2),
            &away(),
            Findings::default(),
            at(30),
        );
        assert_eq!(failing.last_sync, Some(Time(at(20))));
    }

    #[test]
    fn a_transition_time_moves_with_the_value_and_not_with_the_reason() {
        let first = next(None, Some(1), &away(), Findings::default(), at(10));
        let other = next(
            Some(&first),
            Some(1),
            &Situation::NotFound,
            Findings::default(),
            at(20),
        );
        let ready = |s: &ServiceBindingStatus| {
            let c = s.conditions.iter().find(|c| c.type_ == r::READY).unwrap();
            (c.reason.clone(), c.last_transition_time.0)
        };
        assert_eq!(ready(&other), (r::NOT_FOUND.to_owned(), at(10)));
        let good = next(Some(&other), Some(1), &programmed(), wrote(), at(30));
        assert_eq!(ready(&good), (r::SYNCED.to_owned(), at(30)));
    }

    #[test]
    fn with_the_catalog_away_the_generation_in_force_stays_ready_and_a_new_one_is_not() {
        let good = next(None, Some(1), &programmed(), wrote(), at(10));
        let same = next(Some(&good), Some(1), &away(), Findings::default(), at(20));
        assert_eq!(said(&same, r::READY), "True Synced");
        assert_eq!(same.sync_status, Some(SyncStatus::Error));
        let newer = next(Some(&same), Some(2), &away(), Findings::default(), at(30));
        assert_eq!(said(&newer, r::READY), "False CatalogUnavailable");
        assert_eq!(said(&newer, r::MESH_PROGRAMMED), "True Programmed");
        let never = next(None, Some(1), &away(), Findings::default(), at(20));
        assert_eq!(said(&never, r::MESH_PROGRAMMED), "False CatalogUnavailable");
    }

    #[test]
    fn a_binding_that_was_born_frozen_is_in_progress_and_says_so() {
        let status = next(None, Some(1), &suspended(), Findings::default(), at(10));
        assert_eq!(said(&status, r::READY), "False Progressing");
        assert_eq!(said(&status, r::CATALOG_SYNCED), "Unknown Progressing");
        assert_eq!(said(&status, r::MESH_PROGRAMMED), "Unknown Progressing");
        assert_eq!(said(&status, r::SUSPENDED), "True Paused");
        assert_eq!(status.sync_status, Some(SyncStatus::Syncing));
        assert_eq!(status.observed_generation, None);
    }

    #[test]
    fn freezing_keeps_all_else_as_it_is_and_a_new_generation_unobserved() {
        let good = next(None, Some(1), &programmed(), wrote(), at(10));
        let frozen = next(
            Some(&good),
            Some(2),
            &suspended(),
            Findings::default(),
            at(20),
        );
        assert_eq!(said(&frozen, r::READY), "True Synced");
        assert_eq!(frozen.observed_generation, Some(1));
        assert_eq!(frozen.sync_status, good.sync_status);
    }

    #[test]
    fn an_object_that_was_not_reached_stays_recorded_and_a_removed_one_does_not() {
        let child = |kind: &str, hash: &str| ChildStatus {
            kind: kind.to_owned(),
            hash: hash.to_owned(),
            ..ChildStatus::default()
        };
        let children = |list: Vec<ChildStatus>| Findings {
            children: Some(list),
            ..wrote()
        };
        let both = vec![child("DestinationRule", "1"), child("VirtualService", "1")];
        let first = next(None, Some(1), &programmed(), children(both), at(10));
        let half = children(vec![child("DestinationRule", "2")]);
        let refused = Situation::WriteRefused {
            reason: r::WRITE_REFUSED,
            message: String::new(),
        };
        let second = next(Some(&first), Some(2), &refused, half, at(20));
        let hashes: Vec<_> = second.children.iter().map(|c| c.hash.as_str()).collect();
        assert_eq!(hashes, ["2", "1"]);
        let gone = Findings {
            removed: true,
            ..wrote()
        };
        let third = next(
            Some(&second),
            Some(2),
            &Situation::Removed { kept: None },
            gone,
            at(30),
        );
        assert!(third.children.is_empty());
    }

    #[test]
    fn events_tell_transitions_and_nothing_else() {
        let told = |before: Option<&ServiceBindingStatus>, after| {
            let reasons = transitions(before, after)
                .into_iter()
                .map(|t| (t.reason, t.warning));
            reasons.collect::<Vec<_>>()
        };
        let bad = next(None, Some(1), &away(), Findings::default(), at(10));
        assert_eq!(
            told(None, &bad),
            [(r::CATALOG_UNAVAILABLE.to_owned(), true)]
        );
        let good = next(Some(&bad), Some(1), &programmed(), wrote(), at(20));
        assert_eq!(told(Some(&bad), &good), [(r::SYNCED.to_owned(), false)]);
        let again = next(Some(&good), Some(2), &programmed(), wrote(), at(30));
        assert_eq!(told(Some(&good), &again), []);
        let frozen = next(
            Some(&again),
            Some(2),
            &suspended(),
            Findings::default(),
            at(40),
        );
        assert_eq!(told(Some(&again), &frozen), [(r::PAUSED.to_owned(), false)]);
        let thawed = next(Some(&frozen), Some(2), &programmed(), at_rest(), at(50));
        assert_eq!(
            told(Some(&frozen), &thawed),
            [(r::ACTIVE.to_owned(), false)]
        );
    }

    #[test]
    fn that_nothing_is_reported_back_any_more_is_worth_an_event() {
        let overtaken = Situation::Programmed {
            mismatch: None,
            rival: Some("somebody else".to_owned()),
            beside: None,
            notes: Vec::new(),
        };
        assert_eq!(
            told_after(&overtaken),
            [(r::DUPLICATE_WRITER.to_owned(), true)]
        );
    }

    #[test]
    fn that_another_record_names_the_service_is_worth_an_event() {
        let doubled = Situation::Programmed {
            mismatch: None,
            rival: None,
            beside: Some("record b".to_owned()),
            notes: Vec::new(),
        };
        assert_eq!(told_after(&doubled), [(r::ANOTHER_RECORD.to_owned(), true)]);
        let status = next(None, Some(1), &doubled, wrote(), at(10));
        assert_eq!(another_record(Some(&status)), Some("record b"));
        let status = next(Some(&status), Some(1), &programmed(), at_rest(), at(20));
        assert_eq!(another_record(Some(&status)), None);
    }

    /// The Events of a binding that was in force and comes to that, which has
    /// none when it stays so.
    fn told_after(situation: &Situation) -> Vec<(String, bool)> {
        let before = next(None, Some(1), &programmed(), wrote(), at(10));
        let after = next(Some(&before), Some(1), situation, at_rest(), at(20));
        let again = next(Some(&after), Some(1), situation, at_rest(), at(30));
        assert_eq!(transitions(Some(&after), &again), []);
        let told = transitions(Some(&before), &after).into_iter();
        told.map(|t| (t.reason, t.warning)).collect()
    }

    #[test]
    fn where_the_record_was_seen_costs_a_write_for_a_new_epoch_only() {
        let seen = |text: &str| Findings {
            seen: CatalogPosition::parse(text),
            ..at_rest()
        };
        let first = next(None, Some(1), &programmed(), seen("a.5"), at(10));
        assert_eq!(first.record_seen.as_deref(), Some("a.5"));
        let later = next(Some(&first), Some(1), &programmed(), seen("a.6"), at(20));
        assert_eq!(later, first);
        let restored = next(Some(&first), Some(1), &programmed(), seen("b.2"), at(20));
        assert_eq!(record_seen(Some(&restored)), CatalogPosition::parse("b.2"));
        // Written anyway, it says the latest; not seen, it says the last.
        let newer = next(Some(&first), Some(2), &programmed(), seen("a.7"), at(30));
        assert_eq!(newer.record_seen.as_deref(), Some("a.7"));
        let gone = Situation::DeletionHeld(String::new());
        let held = next(Some(&newer), Some(2), &gone, Findings::default(), at(40));
        assert_eq!(held.record_seen.as_deref(), Some("a.7"));
        let rewound = next(Some(&newer), Some(2), &programmed(), seen("a.3"), at(40));
        assert_eq!(rewound.record_seen.as_deref(), Some("a.3"));
    }

    #[test]
    fn what_was_held_in_doubt_counts_as_never_seen_until_it_is_seen_again() {
        let seen = |text: &str| Findings {
            seen: CatalogPosition::parse(text),
            ..at_rest()
        };
        let first = next(None, Some(1), &programmed(), seen("a.5"), at(10));
        let gone = Situation::DeletionHeld(String::new());
        let doubted = || Findings {
            doubted: true,
            ..Findings::default()
        };
        let held = next(Some(&first), Some(1), &gone, doubted(), at(20));
        assert_eq!(held.record_seen, None);
        let told = transitions(Some(&first), &held);
        let told: Vec<_> = told
            .iter()
            .map(|told| (told.reason.as_str(), told.warning))
            .collect();
        assert_eq!(told, [(r::DELETION_HELD, true)]);
        let still = next(Some(&held), Some(1), &gone, doubted(), at(30));
        assert_eq!(still, held, "it costs one write");
        let back = next(Some(&held), Some(1), &programmed(), seen("a.5"), at(40));
        assert_eq!(back.record_seen.as_deref(), Some("a.5"));
    }

    #[test]
    fn a_message_is_bounded() {
        let long = Situation::InvalidRecord("x".repeat(5000));
        let status = next(None, Some(1), &long, Findings::default(), at(10));
        assert!(
            status
                .conditions
                .iter()
                .all(|c| c.message.len() <= MESSAGE_LIMIT)
        );
    }
}
