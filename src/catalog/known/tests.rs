//! What is known after which lists and events.

use super::state::State;
use super::*;
use crate::catalog::event::EventKind;
use crate::catalog::report::WriterPosition;

fn id(text: &str) -> CatalogServiceId {
    CatalogServiceId::parse(text).unwrap()
}

fn at(epoch: &str, revision: u64) -> CatalogPosition {
    CatalogPosition {
        epoch: epoch.to_owned(),
        revision,
    }
}

fn record(id: &str, revision: u64) -> ServiceRecord {
    ServiceRecord {
        id: id.to_owned(),
        revision,
        ..Default::default()
    }
}

fn list_of(position: CatalogPosition, services: &[(&str, u64)]) -> ServiceList {
    let services = services
        .iter()
        .map(|(id, revision)| Ok(record(id, *revision)));
    ServiceList {
        position,
        services: services.collect(),
    }
}

fn bad(id: &str, revision: Option<u64>) -> Read {
    Read::Unreadable(BadRecord {
        id: Some(id.to_owned()),
        revision,
        field: "timeout".to_owned(),
        message: "is bad".to_owned(),
    })
}

fn read(id: &str, revision: u64) -> Read {
    Read::Record(Arc::new(record(id, revision)))
}

#[test]
fn what_is_known_of_a_service_is_two_pointers_and_its_id_is_kept_once_however_often_it_is_listed() {
    assert_eq!(size_of::<Service>(), 2 * size_of::<usize>());
    let mut state = State::default();
    for revision in 1..4 {
        let list = list_of(at("e", revision), &[("a", revision)]);
        state.list(list).unwrap();
        let changed = state.take_changed();
        let place = |id: &CatalogServiceId| id.as_str().as_ptr();
        let known = state.services.keys().next();
        assert_eq!(changed.first().map(place), known.map(place));
    }
}

/// A state that follows since it has listed a, b and c at e.10.
struct Scene(State, Instant);

impl Scene {
    fn new() -> Self {
        let mut state = State::default();
        let services = [("a", 1), ("b", 2), ("c", 3)];
        state.list(list_of(at("e", 10), &services)).unwrap();
        state.resumed();
        let mut scene = Self(state, Instant::now());
        scene.say("e", 10, EventKind::Bookmark);
        assert!(scene.0.is_live());
        assert_eq!(scene.changed(), "a b c");
        scene
    }

    fn say(&mut self, epoch: &str, revision: u64, kind: EventKind) {
        let position = at(epoch, revision);
        self.0
            .hear(&CatalogEvent { position, kind }, Some("ours"), self.1);
    }

    fn updated(&mut self, revision: u64, of: &str) {
        self.say("e", revision, EventKind::Updated(id(of)));
    }

    fn deregistered(&mut self, revision: u64, of: &str) {
        self.say("e", revision, EventKind::Deregistered(id(of)));
    }

    fn list(&mut self, epoch: &str, revision: u64, services: &[(&str, u64)]) {
        self.0.list(list_of(at(epoch, revision), services)).unwrap();
    }

    fn wait(&mut self, millis: u64) {
        self.1 += Duration::from_millis(millis);
    }

    /// What is read now, and answered with this.
    fn reads(&mut self, answer: Read) -> String {
        let ids = self.0.next_reads(self.1);
        for id in &ids {
            self.0.read(id, answer.clone(), self.1);
        }
        words(ids)
    }

    fn changed(&mut self) -> String {
        words(std::mem::take(&mut self.0.changed))
    }

    /// As in `7` (present, of that revision), `bad`, `gone e.8`, `?`.
    fn presence(&self, of: &str) -> String {
        match self.0.presence(&id(of)) {
            Presence::Unknown => "?".to_owned(),
            Presence::Present(record) => record.revision.to_string(),
            Presence::Unreadable(_) => "bad".to_owned(),
            Presence::Absent { since } => format!("gone {since}"),
        }
    }

    fn position(&self) -> String {
        self.0.position().unwrap().to_string()
    }

    fn registered(&mut self, revision: u64, of: &str) {
        self.say("e", revision, EventKind::Registered(id(of)));
    }

    /// When the service came.
    fn came(&self, of: &str) -> Option<u64> {
        self.0.came(&id(of))
    }
}

fn words(ids: impl IntoIterator<Item = CatalogServiceId>) -> String {
    let ids: Vec<_> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(" ")
}

fn reset() -> EventKind {
    let reason = "because".to_owned();
    EventKind::Reset { reason }
}

#[test]
fn before_a_list_nothing_is_known_and_one_is_needed() {
    let state = State::default();
    assert_eq!(state.presence(&id("a")), Presence::Unknown);
    assert_eq!(state.list_needed(), Some(WhyList::First));
    assert!(!state.is_live() && state.is_starting());
}

#[test]
fn a_change_makes_what_is_known_stale_until_it_is_read() {
    let mut s = Scene::new();
    s.updated(11, "a");
    assert_eq!((s.presence("a"), s.presence("b")), ("?".into(), "2".into()));
    assert_eq!((s.position(), s.changed()), ("e.11".into(), String::new()));
    assert_eq!(s.reads(read("a", 11)), "a");
    assert_eq!((s.presence("a"), s.changed()), ("11".into(), "a".into()));
    assert_eq!(s.reads(read("a", 11)), "", "it is known");
}

#[test]
fn an_event_that_is_known_already_needs_no_read() {
    let mut s = Scene::new();
    s.updated(11, "a");
    // Read before the second event was heard.
    s.reads(read("a", 12));
    s.updated(12, "a");
    assert_eq!(
        (s.presence("a"), s.position()),
        ("12".into(), "e.12".into())
    );
    s.updated(12, "a");
    s.say("e", 12, EventKind::Deregistered(id("b")));
    assert_eq!(
        s.presence("b"),
        "2",
        "an event that is told again was taken for another"
    );
}

#[test]
fn a_record_that_is_older_than_its_event_is_not_taken() {
    let mut s = Scene::new();
    s.updated(11, "a");
    for wait in [300, 600, 1200] {
        assert_eq!(s.reads(read("a", 1)), "a");
        assert_eq!(s.presence("a"), "?");
        s.wait(wait - 1);
        assert_eq!(s.reads(read("a", 1)), "", "it is asked again too soon");
        s.wait(1);
    }
    assert_eq!(s.reads(read("a", 11)), "a");
    assert_eq!(s.presence("a"), "11");
}

#[test]
fn however_often_a_service_changes_it_is_read_every_300_ms_and_its_changes_are_told() {
    let mut s = Scene::new();
    let (mut reads, mut told) = (0, 0);
    for n in 0..3_000 {
        s.updated(11 + n, "a");
        // Another event comes while the answer is on its way.
        if !s.reads(read("a", 11 + n)).is_empty() {
            reads += 1;
        }
        s.wait(1);
        told += usize::from(!s.changed().is_empty());
    }
    assert_eq!((reads, told), (10, 10));
}

#[test]
fn an_event_wakes_those_who_wait_only_where_there_is_something_for_them() {
    let known = Known::default();
    known
        .list(list_of(at("e", 10), &[("a", 1), ("b", 2)]))
        .unwrap();
    known.resumed();
    let mut moved = known.watch();
    let mut wakes = |revision, kind| {
        let position = at("e", revision);
        known.hear(&CatalogEvent { position, kind }, None);
        let wakes = moved.has_changed().unwrap();
        moved.mark_unchanged();
        // Those who wait take what there is.
        known.state().take_changed();
        known.state().returned = false;
        wakes
    };
    assert!(wakes(10, EventKind::Bookmark), "it is followed");
    let storm = (11..1_000).filter(|revision| wakes(*revision, EventKind::Updated(id("a"))));
    assert_eq!(storm.count(), 0);
    assert!(!wakes(999, EventKind::Bookmark));
    assert!(wakes(1_000, EventKind::Deregistered(id("a"))), "it is gone");
    assert!(
        wakes(1_002, EventKind::Updated(id("b"))),
        "a gap: nothing is followed"
    );
}

#[test]
fn many_changes_are_read_together_but_no_more_than_a_page() {
    let mut s = Scene::new();
    for n in 0..250 {
        s.updated(11 + n, &format!("s{n}"));
    }
    let reads: Vec<_> = (0..4).map(|_| s.0.next_reads(s.1).len()).collect();
    assert_eq!(reads, [100, 100, 50, 0]);
}

#[test]
fn what_went_is_absent_at_once_and_since_then_however_often_it_is_listed() {
    let mut s = Scene::new();
    s.deregistered(11, "a");
    assert_eq!(
        (s.presence("a"), s.changed()),
        ("gone e.11".into(), "a".into())
    );
    assert_eq!(s.reads(Read::Denied), "", "it needs no read");
    s.say("e", 15, reset());
    s.list("e", 15, &[("b", 2), ("c", 3)]);
    assert_eq!(
        (s.presence("a"), s.changed()),
        ("gone e.11".into(), String::new())
    );
    s.say("e", 16, EventKind::Registered(id("a")));
    s.reads(read("a", 16));
    assert_eq!(s.presence("a"), "16");
    s.deregistered(17, "a");
    assert_eq!(s.presence("a"), "gone e.17");
}

#[test]
fn what_was_never_there_is_absent_since_the_first_list() {
    let mut s = Scene::new();
    s.updated(11, "b");
    s.say("e", 20, reset());
    s.list("e", 20, &[("b", 11)]);
    assert_eq!(s.presence("x"), "gone e.10");
    assert_eq!(s.presence("a"), "gone e.20");
}

#[test]
fn a_health_report_of_others_is_told_and_ours_is_not_and_neither_is_read() {
    let mut s = Scene::new();
    for (revision, cluster, told) in [(11, "ours", ""), (12, "theirs", "a")] {
        let writer = WriterPosition {
            cluster: cluster.to_owned(),
            epoch: 1,
            sequence: 1,
        };
        let writer = Some(writer);
        s.say(
            "e",
            revision,
            EventKind::HealthChanged {
                id: id("a"),
                writer,
            },
        );
        assert_eq!((s.changed(), s.presence("a")), (told.into(), "1".into()));
        assert_eq!(s.reads(Read::Denied), "");
    }
    assert_eq!(s.position(), "e.12");
}

#[test]
fn a_list_after_a_reset_tells_only_what_differs() {
    let mut s = Scene::new();
    assert_eq!(s.0.history(), Some(1));
    s.say("e", 50, reset());
    assert_eq!(s.0.list_needed(), Some(WhyList::Reset));
    assert!(!s.0.is_live());
    assert_eq!((s.position(), s.presence("a")), ("e.10".into(), "1".into()));
    s.list("e", 51, &[("a", 1), ("b", 30), ("d", 40)]);
    assert_eq!((s.changed(), s.position()), ("b c d".into(), "e.51".into()));
    assert_eq!(s.presence("c"), "gone e.51");
    assert!(s.0.is_live() && s.0.list_needed().is_none());
    // The list has shown it.
    s.deregistered(51, "a");
    assert_eq!(s.presence("a"), "1");
    s.deregistered(52, "a");
    assert_eq!(s.presence("a"), "gone e.52");
}

#[test]
fn what_was_heard_while_a_list_was_under_way_is_kept() {
    let mut s = Scene::new();
    s.0.denied(&id("c"));
    assert_eq!(s.0.list_needed(), Some(WhyList::Denied));
    assert!(s.0.is_live());
    s.updated(11, "a");
    s.reads(read("a", 11));
    s.deregistered(12, "b");
    s.updated(13, "d");
    s.changed();
    s.list("e", 10, &[("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(
        [
            s.presence("a"),
            s.presence("b"),
            s.presence("c"),
            s.presence("d")
        ],
        ["11", "gone e.12", "3", "?"]
    );
    // Whoever was denied it is told that somebody has looked.
    assert_eq!((s.changed(), s.position()), ("c".into(), "e.13".into()));
    assert_eq!(s.0.list_needed(), None);
}

#[test]
fn an_event_that_was_left_out_needs_a_list_that_is_new_enough() {
    for lost in [
        EventKind::Updated(id("a")),
        EventKind::Bookmark,
        EventKind::Other,
    ] {
        let mut s = Scene::new();
        s.say("e", 12, lost.clone());
        assert_eq!(s.0.list_needed(), Some(WhyList::Gap), "{lost:?}");
        assert!(!s.0.is_live());
        assert_eq!(s.position(), "e.10", "nobody resumes behind the gap");
        let old = list_of(at("e", 11), &[]);
        assert!(s.0.list(old).unwrap_err().contains("e.12"));
        assert_eq!(s.presence("b"), "2", "a list that is too old was taken");
        s.list("e", 12, &[("a", 12), ("b", 2), ("c", 3)]);
        assert_eq!((s.presence("a"), s.0.is_live()), ("12".into(), true));
    }
}

#[test]
fn a_revision_that_goes_back_is_another_history() {
    let mut s = Scene::new();
    assert_eq!(s.0.history(), Some(1));
    s.deregistered(11, "a");
    s.updated(12, "c");
    s.changed();
    s.say("e", 5, EventKind::Deregistered(id("b")));
    assert_eq!(s.0.list_needed(), Some(WhyList::Rewound));
    assert_eq!(
        s.presence("b"),
        "?",
        "what is said in another history ends nothing"
    );
    s.list("e", 6, &[("a", 1), ("c", 3)]);
    assert_eq!(s.0.history(), Some(2));
    assert_eq!(
        [
            s.presence("a"),
            s.presence("b"),
            s.presence("c"),
            s.presence("x")
        ],
        ["1", "gone e.6", "3", "gone e.6"]
    );
    assert_eq!((s.changed(), s.position()), ("a b".into(), "e.6".into()));
    assert_eq!(
        s.reads(Read::Denied),
        "",
        "a revision of the other history was waited for"
    );
}

#[test]
fn another_epoch_is_another_history_whoever_says_so_first() {
    for said in [reset(), EventKind::Bookmark] {
        let mut s = Scene::new();
        s.deregistered(11, "a");
        s.say("f", 90, said);
        s.list("f", 90, &[("b", 2), ("c", 3)]);
        assert_eq!(s.0.history(), Some(2));
        assert_eq!(s.presence("a"), "gone f.90");
        assert_eq!((s.position(), s.0.is_live()), ("f.90".into(), true));
    }
    let mut s = Scene::new();
    s.0.denied(&id("c"));
    s.list("f", 90, &[("c", 3)]);
    assert_eq!(
        (s.position(), s.presence("a")),
        ("f.90".into(), "gone f.90".into())
    );
    assert!(!s.0.is_live(), "the stream is of another epoch");
    s.0.lost();
    s.0.resumed();
    s.say("f", 90, EventKind::Bookmark);
    s.list("f", 90, &[("c", 3)]);
    assert!(s.0.is_live());
}

#[test]
fn a_cut_changes_nothing_but_that_nothing_is_followed() {
    let mut s = Scene::new();
    s.updated(11, "a");
    s.0.lost();
    assert!(!s.0.is_live());
    assert_eq!(
        (s.presence("b"), s.presence("a"), s.position()),
        ("2".into(), "?".into(), "e.11".into())
    );
    s.0.resumed();
    assert!(!s.0.is_live(), "it has yet to catch up");
    s.say("e", 11, EventKind::Bookmark);
    assert!(s.0.is_live() && s.0.list_needed().is_none());
    assert_eq!(s.reads(read("a", 11)), "a");
}

#[test]
fn what_was_broken_when_the_stream_was_cut_still_needs_a_list() {
    let mut s = Scene::new();
    s.say("e", 14, EventKind::Deregistered(id("a")));
    s.0.lost();
    s.0.resumed();
    s.say("e", 10, EventKind::Bookmark);
    assert_eq!(
        (s.0.list_needed(), s.0.is_live()),
        (Some(WhyList::Gap), false)
    );
    s.list("e", 10, &[("a", 1), ("b", 2), ("c", 3)]);
    assert!(s.0.is_live());
}

#[test]
fn a_denial_removes_nothing_and_twice_in_a_row_asks_for_a_list() {
    let mut s = Scene::new();
    s.updated(11, "a");
    assert_eq!(s.reads(Read::Denied), "a");
    assert_eq!((s.presence("a"), s.0.list_needed()), ("?".into(), None));
    s.wait(300);
    assert_eq!(s.reads(Read::Denied), "a");
    assert_eq!(
        (s.presence("a"), s.0.list_needed()),
        ("?".into(), Some(WhyList::Denied))
    );
    s.list("e", 11, &[("b", 2), ("c", 3)]);
    assert_eq!(s.presence("a"), "gone e.11");
    assert!(!s.0.denied(&id("a")), "what is absent anyway needs no list");
}

/// A scene that has listed a, and one that has lost its name, at e.20.
fn with_a_nameless_one() -> Scene {
    let mut s = Scene::new();
    s.say("e", 20, reset());
    let mut list = list_of(at("e", 20), &[("a", 1)]);
    list.services.push(Err(BadRecord {
        id: None,
        revision: None,
        field: "id".to_owned(),
        message: "is missing".to_owned(),
    }));
    s.0.list(list).unwrap();
    s
}

#[test]
fn a_service_that_has_lost_its_name_in_a_list_may_be_any_of_those_that_are_missing() {
    let s = with_a_nameless_one();
    assert_eq!((s.presence("b"), s.presence("x")), ("2".into(), "?".into()));
}

#[test]
fn a_denial_of_what_a_list_could_not_settle_asks_for_no_other_list() {
    let mut s = with_a_nameless_one();
    s.changed();
    assert!(!s.0.denied(&id("x")));
    assert_eq!((s.0.list_needed(), s.changed()), (None, String::new()));
    assert_eq!(s.presence("x"), "?");
    // What a list can settle still asks for one.
    s.updated(21, "y");
    for of in ["b", "y"] {
        assert!(s.0.denied(&id(of)), "{of}");
    }
    assert_eq!(s.0.list_needed(), Some(WhyList::Denied));
}

#[test]
fn what_a_list_could_not_settle_is_absent_since_the_next_one_that_can() {
    let mut s = with_a_nameless_one();
    s.updated(21, "y");
    s.list("e", 30, &[("a", 1), ("y", 21)]);
    assert_eq!(
        ["a", "b", "x", "y"].map(|of| s.presence(of)),
        ["1", "gone e.30", "gone e.30", "21"]
    );
    s.say("e", 40, reset());
    s.list("e", 40, &[("a", 1)]);
    assert_eq!(s.presence("x"), "gone e.30");
}

#[test]
fn a_record_that_cannot_be_understood_is_known_as_that() {
    let mut s = Scene::new();
    s.updated(11, "a");
    s.reads(bad("a", Some(11)));
    assert_eq!((s.presence("a"), s.changed()), ("bad".into(), "a".into()));
    assert_eq!(s.0.records().len(), 2);
    // One that does not say how new it is is taken as it is.
    s.updated(12, "b");
    s.reads(bad("b", None));
    assert_eq!((s.presence("b"), s.changed()), ("bad".into(), "b".into()));
}

#[test]
fn one_that_cannot_be_understood_is_taken_for_no_newer_than_it_is() {
    let mut s = Scene::new();
    s.updated(11, "a");
    s.updated(12, "a");
    assert_eq!(s.reads(bad("a", Some(11))), "a");
    assert_eq!(s.presence("a"), "?", "the mended one was not waited for");
    s.wait(1_000);
    s.reads(read("a", 12));
    assert_eq!((s.presence("a"), s.changed()), ("12".into(), "a".into()));

    // Nor does an older list hide it.
    s.0.denied(&id("c"));
    s.updated(13, "a");
    s.wait(1_000);
    s.reads(bad("a", Some(13)));
    s.updated(14, "d");
    s.reads(bad("d", Some(14)));
    s.list("e", 12, &[("a", 12), ("b", 2), ("c", 3)]);
    assert_eq!(
        (s.presence("a"), s.presence("d")),
        ("bad".into(), "bad".into())
    );
}

#[test]
fn a_list_of_another_epoch_ends_the_wait_for_what_was_announced_in_the_one_before() {
    let mut s = Scene::new();
    s.updated(11, "a");
    s.0.lost();
    // As when no stream begins, so that the list tells first.
    s.list("f", 4, &[("a", 4), ("b", 2), ("c", 3)]);
    assert_eq!((s.presence("a"), s.changed()), ("4".into(), "a".into()));
    assert_eq!(s.reads(read("a", 4)), "", "nothing is announced");
}

#[test]
fn what_an_empty_list_lacked_stays_in_doubt_whatever_is_listed_next_until_it_is_back() {
    let mut s = Scene::new();
    let doubtful = |s: &Scene, of: &str| s.0.nothing_at(&id(of)).is_some();
    s.say("e", 20, reset());
    s.list("e", 20, &[]);
    assert!(doubtful(&s, "a"));
    s.say("e", 22, reset());
    s.list("e", 22, &[("b", 22)]);
    assert!(doubtful(&s, "a") && !doubtful(&s, "b"));
    s.deregistered(23, "b");
    assert!(!doubtful(&s, "b") && doubtful(&s, "a"));
    s.say("e", 24, EventKind::Registered(id("a")));
    s.reads(read("a", 24));
    s.deregistered(25, "a");
    assert!(!doubtful(&s, "a"));
    // In another epoch another rule holds all.
    s.say("f", 1, reset());
    s.list("f", 1, &[("b", 1)]);
    assert!(!doubtful(&s, "c"));
}

#[test]
fn an_empty_list_is_told_from_a_list() {
    let mut s = Scene::new();
    assert!(s.0.nothing_at(&id("a")).is_none());
    s.say("e", 20, reset());
    s.list("e", 20, &[]);
    assert!(s.0.nothing_at(&id("a")).is_some());
}

#[test]
fn a_service_stays_the_same_one_through_updates_and_is_another_one_once_registered_again() {
    assert_eq!(State::default().came(&id("a")), None, "nothing is known");
    let mut s = Scene::new();
    let first = s.came("a");
    s.updated(11, "a");
    s.reads(read("a", 11));
    assert_eq!((s.presence("a"), s.came("a")), ("11".into(), first));
    s.deregistered(12, "a");
    s.registered(13, "a");
    assert_ne!(s.came("a"), first);
    let again = s.came("a");
    s.wait(300);
    s.reads(read("a", 13));
    s.updated(14, "a");
    assert_eq!(s.came("a"), again);
    // An end that this stream told late, or not at all.
    s.registered(15, "a");
    assert_ne!(s.came("a"), again);
    // Nor is it missed where a read was quicker than the stream.
    let again = s.came("a");
    s.wait(300);
    s.reads(read("a", 16));
    s.changed();
    s.registered(16, "a");
    assert_ne!(s.came("a"), again);
    assert_eq!(s.changed(), "a", "nobody looks");
    s.deregistered(17, "a");
    assert!(s.0.came.is_empty(), "those that are gone are remembered");
}

#[test]
fn a_service_whose_record_moved_between_two_lists_may_be_another_one() {
    let mut s = Scene::new();
    let first = (s.came("a"), s.came("b"));
    s.say("e", 20, reset());
    s.list("e", 20, &[("a", 1), ("b", 17), ("d", 18)]);
    assert_eq!(s.came("a"), first.0, "nothing was written");
    assert_ne!(s.came("b"), first.1);
    let known = (s.came("b"), s.came("d"));
    s.say("e", 30, reset());
    s.list("e", 30, &[("a", 1), ("b", 17)]);
    assert_eq!(s.came("b"), known.0);
    s.say("e", 40, reset());
    s.list("e", 40, &[("a", 1), ("b", 17), ("d", 18)]);
    assert_ne!(s.came("d"), known.1, "it was away");
    assert_eq!(s.0.came.len(), 2);
}

#[test]
fn a_service_that_was_read_ahead_of_the_stream_may_be_another_one_than_it_tells() {
    let mut s = Scene::new();
    let first = s.came("a");
    s.updated(11, "a");
    // It was taken out and entered again before it was read.
    s.reads(read("a", 13));
    assert_eq!((s.came("a"), s.changed()), (first, "a".into()));
    s.list("e", 14, &[("a", 13), ("b", 2), ("c", 3)]);
    assert_ne!(s.came("a"), first);
    assert_eq!(s.changed(), "a", "nobody looks");
    let listed = s.came("a");
    s.deregistered(12, "a");
    s.registered(13, "a");
    assert_eq!((s.presence("a"), s.came("a")), ("13".into(), listed));
    s.list("e", 15, &[("a", 13), ("b", 2), ("c", 3)]);
    assert_eq!(s.came("a"), listed, "once is enough");
}
