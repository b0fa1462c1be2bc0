//! What is written, by what is wanted and what is there.

use serde_json::{Value, json};

use super::*;
use crate::domain::health::judge::Failure;
use crate::domain::pod::{Marks, PodView};

const BAD: Verdict = Verdict::Unhealthy(Failure::TimedOut);

fn key(name: &str) -> BindingKey {
    BindingKey::new("shop", name.to_owned())
}

fn pod_key(name: &str) -> PodKey {
    ("shop".into(), name.into())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The Pods of a namespace.
#[derive(Default)]
struct Pods(BTreeMap<PodKey, KnownPod>);

impl Pods {
    fn with(mut self, name: &str, label: Option<&str>, annotation: Option<&str>) -> Self {
        let marks = (label.is_some() || annotation.is_some()).then(|| {
            Box::new(Marks {
                draining: label.map(Into::into),
                ejected: annotation.map(Into::into),
            })
        });
        let view = PodView {
            ready: true,
            marks,
            ..PodView::default()
        };
        let uid = format!("uid-of-{name}");
        let version = 7;
        self.0.insert(
            pod_key(name),
            KnownPod {
                uid: uid.into(),
                version,
                view,
            },
        );
        self
    }

    fn plain(mut self, names: &[&str]) -> Self {
        for name in names {
            self = self.with(name, None, None);
        }
        self
    }

    fn ours(self, name: &str, bindings: &[&str]) -> Self {
        self.with(name, Some(mark::OURS), Some(&note(bindings).text()))
    }

    fn marked(&self) -> BTreeMap<PodKey, KnownPod> {
        let marked = self.0.iter().filter(|(_, pod)| pod.view.marks.is_some());
        marked.map(|(k, pod)| (k.clone(), pod.clone())).collect()
    }

    fn decide(&self, known: &Known) -> Decided {
        self.decide_after(known, &BTreeMap::new())
    }

    fn decide_after(
        &self,
        known: &Known,
        would: &BTreeMap<PodKey, BTreeSet<BindingKey>>,
    ) -> Decided {
        let find = |pod: &PodKey| self.0.get(pod).cloned();
        decide(known, &self.marked(), find, would, at(100))
    }
}

fn note(bindings: &[&str]) -> Note {
    Note {
        bindings: bindings.iter().map(|name| key(name)).collect(),
        since: at(1),
        why: "the connection was refused".to_owned(),
    }
}

fn checked(name: &str, mode: EjectionMode, members: &[(&str, Verdict)]) -> Checked {
    Checked {
        mode,
        service: Service {
            binding: key(name),
            ejects: false,
            proven: true,
            held: false,
            percent: 50,
            members: members
                .iter()
                .map(|(pod, verdict)| Member {
                    pod: PodId::shared(pod_key(pod), format!("uid-of-{pod}")),
                    ready: true,
                    verdict: *verdict,
                    since: at(50).into(),
                })
                .collect(),
        },
    }
}

fn known(services: Vec<Checked>) -> Known {
    Known {
        services: services.into_iter().map(Arc::new).collect(),
        unsettled: BTreeSet::new(),
    }
}

fn lines(decided: &Decided) -> Vec<String> {
    let steps = decided.steps.iter();
    let line = |step: &Step| {
        let what = match &step.change {
            Change::Eject(note) => format!(
                "eject for {} since {}: {}",
                names(note),
                note.since,
                note.why
            ),
            Change::Note(note) => format!("note {} since {}", names(note), note.since),
            Change::Release => "release".to_owned(),
            Change::Forget => "forget".to_owned(),
        };
        format!("{} {what}", step.pod.1)
    };
    steps.map(line).collect()
}

fn names(note: &Note) -> String {
    let names: Vec<_> = note.bindings.iter().map(|key| key.name.clone()).collect();
    names.join("+")
}

use EjectionMode::{Draining, Observe, Off, OutlierOnly};

#[test]
fn what_the_binding_says_goes_before_the_flag() {
    let mut binding = crate::domain::fixtures::binding();
    let mut mode_of = |given: Value| {
        binding.spec.health_check = serde_json::from_value(given).unwrap();
        let bounds = crate::domain::policy::bounds::Bounds::default();
        let merged = crate::domain::policy::effective(None, &binding.spec, &bounds).unwrap();
        mode(&merged.policy.health_check.unwrap(), Observe)
    };
    assert_eq!(mode_of(json!({})), Observe);
    assert_eq!(mode_of(json!({"ejection": "draining"})), Draining);
    assert_eq!(mode_of(json!({"ejection": "off"})), Off);
}

const HALF: &[(&str, Verdict)] = &[("a", BAD), ("b", Verdict::Healthy)];

#[test]
fn an_unhealthy_pod_is_marked_with_why_since_when_and_for_whom() {
    let decided = Pods::default()
        .plain(&["a", "b"])
        .decide(&known(vec![checked("web", Draining, HALF)]));
    assert_eq!(
        lines(&decided),
        ["a eject for web since 1970-01-01T00:01:40Z: no answer came in time"]
    );
    let step = &decided.steps[0];
    assert_eq!((step.uid.clone(), step.version), ("uid-of-a".into(), 7));
    assert_eq!(step.bindings, BTreeSet::from([key("web")]));
}

#[test]
fn what_is_as_it_should_be_is_not_written() {
    let pods = Pods::default().ours("a", &["web"]).plain(&["b"]);
    let decided = pods.decide(&known(vec![checked("web", Draining, HALF)]));
    assert_eq!(lines(&decided), Vec::<String>::new());
}

#[test]
fn what_an_earlier_leader_took_out_stays_out_until_it_is_judged_anew() {
    let pods = Pods::default().ours("a", &["web"]).plain(&["b"]);
    let pending = [("a", Verdict::Pending), ("b", Verdict::Pending)];
    let decided = pods.decide(&known(vec![checked("web", Draining, &pending)]));
    assert_eq!(lines(&decided), Vec::<String>::new());
    let well = [("a", Verdict::Healthy), ("b", Verdict::Healthy)];
    let decided = pods.decide(&known(vec![checked("web", Draining, &well)]));
    assert_eq!(lines(&decided), ["a release"]);
}

#[test]
fn what_is_out_for_nobody_comes_back() {
    let pods = Pods::default()
        .ours("a", &["gone"])
        .with("b", Some(mark::OURS), Some("broken"))
        .plain(&["c"]);
    let healthy = [("c", Verdict::Healthy)];
    let decided = pods.decide(&known(vec![checked("web", Draining, &healthy)]));
    assert_eq!(lines(&decided), ["a release", "b release"]);
    assert_eq!(decided.steps[0].bindings, BTreeSet::from([key("gone")]));
}

#[test]
fn of_a_binding_that_is_not_known_yet_all_stays_as_it_is() {
    let pods = Pods::default().ours("a", &["web"]).ours("b", &["gone"]);
    let unsettled = Known {
        services: Vec::new(),
        unsettled: BTreeSet::from([key("web"), key("other")]),
    };
    assert_eq!(lines(&pods.decide(&unsettled)), ["b release"]);
}

#[test]
fn only_who_drains_takes_out_and_another_mode_brings_back() {
    for mode in [OutlierOnly, Observe, Off] {
        let services = known(vec![checked("web", mode, HALF)]);
        let free = Pods::default().plain(&["a", "b"]);
        assert_eq!(lines(&free.decide(&services)), Vec::<String>::new());
        let out = Pods::default().ours("a", &["web"]).plain(&["b"]);
        assert_eq!(lines(&out.decide(&services)), ["a release"]);
    }
}

#[test]
fn a_binding_that_is_held_or_frozen_changes_nothing_whatever_its_mode() {
    for mode in [Draining, Observe, Off] {
        let mut held = checked("web", mode, HALF);
        held.service.held = true;
        let services = known(vec![held]);
        let out = Pods::default().ours("a", &["web"]).plain(&["b"]);
        assert_eq!(lines(&out.decide(&services)), Vec::<String>::new());
        let free = Pods::default().plain(&["a", "b"]);
        assert_eq!(lines(&free.decide(&services)), Vec::<String>::new());
    }
}

#[test]
fn somebody_elses_label_is_left_as_it_is() {
    let services = known(vec![checked("web", Draining, HALF)]);
    for label in ["true", mark::OURS, ""] {
        let pods = Pods::default().with("a", Some(label), None).plain(&["b"]);
        assert_eq!(lines(&pods.decide(&services)), Vec::<String>::new());
    }
    // One that came in place of ours: ours is the annotation alone.
    let text = note(&["web"]).text();
    let taken = Pods::default()
        .with("a", Some("true"), Some(&text))
        .plain(&["b"]);
    assert_eq!(lines(&taken.decide(&services)), ["a forget"]);
}

#[test]
fn a_label_that_somebody_took_off_is_set_again_where_it_is_wanted_and_else_forgotten() {
    let text = note(&["web"]).text();
    let pods = Pods::default().with("a", None, Some(&text)).plain(&["b"]);
    let decided = pods.decide(&known(vec![checked("web", Draining, HALF)]));
    assert!(lines(&decided)[0].starts_with("a eject for web"));
    assert_eq!(lines(&pods.decide(&Known::default())), ["a forget"]);
}

#[test]
fn a_verdict_says_nothing_of_another_pod_of_that_name() {
    let mut service = checked("web", Draining, HALF);
    let before = PodId::shared(pod_key("a"), "uid-of-one-before");
    service.service.members[0].pod = before;
    let pods = Pods::default().plain(&["a", "b"]);
    let decided = pods.decide(&known(vec![service]));
    assert_eq!(lines(&decided), Vec::<String>::new());
    assert_eq!(decided.plan, Plan::default());
}

#[test]
fn a_pod_that_is_gone_or_about_to_end_is_not_written_to() {
    let services = known(vec![checked("web", Draining, HALF)]);
    let gone = Pods::default().plain(&["b"]);
    assert_eq!(lines(&gone.decide(&services)), Vec::<String>::new());
    for pods in [
        Pods::default().plain(&["a", "b"]),
        Pods::default().ours("a", &["gone"]).plain(&["b"]),
    ] {
        let mut pods = pods;
        pods.0.get_mut(&pod_key("a")).unwrap().view.terminating = true;
        assert_eq!(lines(&pods.decide(&services)), Vec::<String>::new());
    }
}

#[test]
fn a_pod_that_two_bindings_want_out_names_both_and_keeps_its_time() {
    let both = known(vec![
        checked("web", Draining, HALF),
        checked("api", Draining, HALF),
    ]);
    let pods = Pods::default().ours("a", &["web"]).plain(&["b"]);
    let decided = pods.decide(&both);
    assert_eq!(
        lines(&decided),
        ["a note api+web since 1970-01-01T00:00:01Z"]
    );
    // One of them lets go of it.
    let pods = Pods::default().ours("a", &["web", "api"]).plain(&["b"]);
    let decided = pods.decide(&known(vec![checked("web", Draining, HALF)]));
    assert_eq!(lines(&decided), ["a note web since 1970-01-01T00:00:01Z"]);
}

#[test]
fn who_comes_back_goes_first() {
    let members = [
        ("a", BAD),
        ("b", Verdict::Healthy),
        ("c", Verdict::Healthy),
        ("d", Verdict::Healthy),
    ];
    let pods = Pods::default().plain(&["a", "b", "c"]).ours("d", &["web"]);
    let decided = pods.decide(&known(vec![checked("web", Draining, &members)]));
    let order: Vec<_> = decided.steps.iter().map(|step| &*step.pod.1).collect();
    assert_eq!(order, ["d", "a"]);
}

#[test]
fn observing_says_what_would_happen_and_writes_nothing() {
    let pods = Pods::default().plain(&["a", "b"]);
    let services = known(vec![checked("web", Observe, HALF)]);
    let decided = pods.decide(&services);
    assert_eq!(lines(&decided), Vec::<String>::new());
    let expected = BTreeMap::from([(pod_key("a"), BTreeSet::from([key("web")]))]);
    assert_eq!(decided.would, expected);
    // It would stay out where it is not judged anew, as one that is out does.
    let pending = [("a", Verdict::Pending), ("b", Verdict::Healthy)];
    let services = known(vec![checked("web", Observe, &pending)]);
    assert_eq!(pods.decide_after(&services, &expected).would, expected);
    assert_eq!(pods.decide(&services).would, BTreeMap::new());
    // What really is out is not said again.
    let draining = known(vec![
        checked("web", Draining, HALF),
        checked("api", Observe, &[("c", Verdict::Healthy)]),
    ]);
    let pods = Pods::default().plain(&["a", "b", "c"]);
    assert_eq!(pods.decide(&draining).would, BTreeMap::new());
}

#[test]
fn nobody_leaves_in_the_place_of_somebody_who_is_not_back_yet() {
    let swapped = [("a", Verdict::Healthy), ("b", BAD), ("c", Verdict::Healthy)];
    let services = known(vec![checked("web", Draining, &swapped)]);
    let out = Pods::default().ours("a", &["web"]).plain(&["b", "c"]);
    let decided = out.decide(&services);
    assert_eq!(
        (lines(&decided), decided.waiting),
        (vec!["a release".to_owned()], 1)
    );
    let back = Pods::default().plain(&["a", "b", "c"]).decide(&services);
    assert!(lines(&back)[0].starts_with("b eject"), "{back:?}");
    assert_eq!(back.waiting, 0);
    // It is the other service that has no room for the Pod behind both.
    let both = [("a", Verdict::Healthy), ("b", BAD)];
    let other = checked("other", Draining, &both);
    let more = [("b", BAD), ("c", Verdict::Healthy), ("d", Verdict::Healthy)];
    let services = known(vec![other, checked("web", Draining, &more)]);
    let out = Pods::default()
        .ours("a", &["other"])
        .plain(&["b", "c", "d"]);
    let decided = out.decide(&services);
    assert_eq!(
        (lines(&decided), decided.waiting),
        (vec!["a release".to_owned()], 1)
    );
}

#[test]
fn who_is_out_for_a_binding_that_is_held_stays_out_though_it_is_no_endpoint_any_more() {
    let text = note(&["web"]).text();
    let pods = Pods::default()
        .with("a", Some(mark::OURS), Some(&text))
        .plain(&["b"]);
    let mut service = checked("web", Draining, &[]);
    assert_eq!(
        lines(&pods.decide(&known(vec![service.clone()]))),
        ["a release"]
    );
    service.service.held = true;
    assert_eq!(
        lines(&pods.decide(&known(vec![service]))),
        Vec::<String>::new()
    );
}
