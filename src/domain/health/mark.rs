//! What stands on a Pod that we took out of the mesh, and whose mark is it?
//!
//! 1. Istio's label takes the Pod out. Ours has a value of its own and stands
//!    beside our annotation; a label that lacks either is somebody else's, and
//!    is never touched.
//! 2. Our annotation says for which bindings, since when, and why. Whoever leads
//!    next, and `release-all`, know by it what was done.
//! 3. An annotation of ours without our label is left over, as when somebody
//!    took the label off or set another one: it alone is taken away.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ejection::{Out, Plan, PodKey, Stays};
use crate::api::pod::{DRAINING, EJECTED};
use crate::domain::names::{BindingKey, shown};
use crate::domain::pod::{KnownPod, Marks, PodView};
use crate::domain::uid::Uid;

/// The value of Istio's label where we set it.
pub const OURS: &str = "catalog-mesh";

/// What our annotation says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The bindings that want the Pod out.
    pub bindings: BTreeSet<BindingKey>,
    /// Since when it is out.
    pub since: Timestamp,
    /// Why.
    pub why: String,
}

/// As it is written.
#[derive(Deserialize, Serialize)]
struct Written {
    bindings: Vec<String>,
    since: String,
    why: String,
}

impl Note {
    /// Reads an annotation; nothing where somebody changed it beyond reading.
    pub fn parse(text: &str) -> Option<Self> {
        let written: Written = serde_json::from_str(text).ok()?;
        let key = |text: &String| {
            let (namespace, name) = text.split_once('/')?;
            Some(BindingKey::new(namespace.to_owned(), name.to_owned()))
        };
        Some(Self {
            bindings: written.bindings.iter().filter_map(key).collect(),
            since: written.since.parse().ok()?,
            why: written.why,
        })
    }

    /// The annotation.
    pub fn text(&self) -> String {
        let written = json!({
            "bindings": self.bindings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "since": self.since.to_string(),
            "why": self.why,
        });
        written.to_string()
    }

    /// In words, of what somebody may have edited only a bounded part.
    pub fn words(&self) -> String {
        let bindings: Vec<_> = self.bindings.iter().take(10).collect();
        let bindings: Vec<_> = bindings.iter().map(|key| shown(&key.to_string())).collect();
        let why = shown(&self.why);
        format!(
            "out since {} for {}, {why}",
            self.since,
            bindings.join(", ")
        )
    }
}

/// Whose the marks of a Pod are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// There is none.
    Nobodys,
    /// The label is ours.
    Ours,
    /// The label is somebody else's, and our annotation is not there.
    Others,
    /// Our annotation is left over. `true` where somebody else's label is there.
    LeftOver(bool),
}

/// Whose the marks are.
pub fn whose(pod: &PodView) -> Whose {
    let Some(marks) = pod.marks.as_deref() else {
        return Whose::Nobodys;
    };
    match (marks.draining.as_deref(), &marks.ejected) {
        (Some(OURS), Some(_)) => Whose::Ours,
        (label, Some(_)) => Whose::LeftOver(label.is_some()),
        (Some(_), None) => Whose::Others,
        (None, None) => Whose::Nobodys,
    }
}

/// Who took the Pod out, for the decision.
pub fn out(pod: &PodView) -> Option<Out> {
    match whose(pod) {
        Whose::Ours => Some(Out::Ours(
            ours(pod).map(|note| note.bindings).unwrap_or_default(),
        )),
        Whose::Others | Whose::LeftOver(true) => Some(Out::Others),
        Whose::Nobodys | Whose::LeftOver(false) => None,
    }
}

/// What our annotation says, where the label is ours and it can be read.
pub fn ours(pod: &PodView) -> Option<Note> {
    let marks = pod.marks.as_deref()?;
    let note = marks.ejected.as_deref()?;
    (whose(pod) == Whose::Ours)
        .then(|| Note::parse(note))
        .flatten()
}

/// What became of the unhealthy endpoints of each binding, by the plan and by
/// who is out. Who is missing has none.
pub fn stays(plan: &Plan, marked: &BTreeMap<PodKey, KnownPod>) -> BTreeMap<BindingKey, Stays> {
    let mut all: BTreeMap<BindingKey, Stays> = BTreeMap::new();
    for note in marked.values().filter_map(|pod| kept(&pod.view)) {
        for binding in note.bindings {
            all.entry(binding).or_default().ejected += 1;
        }
    }
    for (binding, n) in &plan.floored {
        all.entry(binding.clone()).or_default().floored = *n;
    }
    for binding in &plan.opened {
        all.entry(binding.clone()).or_default().opened = true;
    }
    all
}

/// The same of a Pod that will come back: nothing is written any more to one
/// that is about to end, which may take as long as it likes.
pub fn kept(pod: &PodView) -> Option<Note> {
    ours(pod).filter(|_| !pod.terminating)
}

/// What is done to a Pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It leaves the mesh.
    Eject(Note),
    /// It stays out, for other bindings than before.
    Note(Note),
    /// It comes back.
    Release,
    /// Our annotation goes, and the label is left as it is.
    Forget,
}

impl Change {
    /// What is sent: a merge patch that the server refuses where the Pod is
    /// another one, or not as it was seen.
    pub fn patch(&self, uid: &Uid, version: u64) -> Value {
        let mut metadata =
            json!({ "uid": uid.to_string(), "resourceVersion": version.to_string() });
        if let Some(label) = self.label() {
            metadata["labels"] = json!({ DRAINING: label });
        }
        metadata["annotations"] = json!({ EJECTED: self.note().map(Note::text) });
        json!({ "metadata": metadata })
    }

    /// The marks that the Pod has afterwards, by those that it had before.
    pub fn marks_after(&self, before: Option<&Marks>) -> Option<Box<Marks>> {
        let kept = || before.and_then(|marks| marks.draining.clone());
        let draining = match self.label() {
            Some(label) => label.map(Into::into),
            None => kept(),
        };
        let ejected = self.note().map(|note| note.text().into());
        let marked = draining.is_some() || ejected.is_some();
        marked.then(|| Box::new(Marks { draining, ejected }))
    }

    /// What becomes of the label: nothing; it is set; or it goes.
    fn label(&self) -> Option<Option<&'static str>> {
        match self {
            Self::Eject(_) => Some(Some(OURS)),
            Self::Release => Some(None),
            Self::Note(_) | Self::Forget => None,
        }
    }

    fn note(&self) -> Option<&Note> {
        match self {
            Self::Eject(note) | Self::Note(note) => Some(note),
            Self::Release | Self::Forget => None,
        }
    }
}

/// A change of a Pod as it was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The Pod.
    pub pod: PodKey,
    /// Its uid.
    pub uid: Uid,
    /// Its resource version.
    pub version: u64,
    /// The marks that it has.
    pub marks: Option<Box<Marks>>,
    /// What is done.
    pub change: Change,
    /// The bindings that it is done for, or was.
    pub bindings: BTreeSet<BindingKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> BindingKey {
        BindingKey::new("shop", name.to_owned())
    }

    fn note() -> Note {
        Note {
            bindings: BTreeSet::from([key("web"), key("api")]),
            since: "2026-03-01T10:00:00Z".parse().unwrap(),
            why: "no answer came in time".to_owned(),
        }
    }

    fn pod(label: Option<&str>, annotation: Option<&str>) -> PodView {
        PodView {
            marks: Some(Box::new(Marks {
                draining: label.map(Into::into),
                ejected: annotation.map(Into::into),
            })),
            ..PodView::default()
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let text = note().text();
        assert_eq!(
            text,
            r#"{"bindings":["shop/api","shop/web"],"since":"2026-03-01T10:00:00Z","why":"no answer came in time"}"#
        );
        assert_eq!(Note::parse(&text), Some(note()));
        for broken in ["", "true", "{}", r#"{"bindings":[],"since":"x","why":""}"#] {
            assert_eq!(Note::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_pod_that_is_about_to_end_is_kept_out_for_nobody() {
        let mut pod = pod(Some(OURS), Some(&note().text()));
        assert_eq!(kept(&pod), Some(note()));
        pod.terminating = true;
        assert_eq!(kept(&pod), None);
        let known = KnownPod {
            uid: "1".into(),
            version: 1,
            view: pod,
        };
        let marked = BTreeMap::from([(("shop".into(), "web-0".into()), known)]);
        assert_eq!(stays(&Plan::default(), &marked), BTreeMap::new());
    }

    #[test]
    fn a_label_is_ours_by_its_value_and_our_annotation_together() {
        let text = note().text();
        for (label, annotation, whose_it_is) in [
            (None, None, Whose::Nobodys),
            (Some(OURS), Some(text.as_str()), Whose::Ours),
            (Some(OURS), Some("broken"), Whose::Ours),
            (Some(OURS), None, Whose::Others),
            (Some("true"), None, Whose::Others),
            (Some(""), None, Whose::Others),
            (Some("true"), Some(text.as_str()), Whose::LeftOver(true)),
            (None, Some(text.as_str()), Whose::LeftOver(false)),
        ] {
            let pod = pod(label, annotation);
            assert_eq!(whose(&pod), whose_it_is, "{label:?} {annotation:?}");
        }
        let ours = pod(Some(OURS), Some(&text));
        assert_eq!(out(&ours), Some(Out::Ours(note().bindings)));
        let broken = pod(Some(OURS), Some("broken"));
        assert_eq!(out(&broken), Some(Out::Ours(BTreeSet::new())));
        assert_eq!(out(&pod(Some("x"), Some(&text))), Some(Out::Others));
        assert_eq!(out(&pod(None, Some(&text))), None);
        assert_eq!(out(&PodView::default()), None);
    }

    #[test]
    fn a_patch_is_for_this_pod_in_this_version_and_names_only_what_is_ours() {
        let patch = |change: Change| change.patch(&"u".into(), 7)["metadata"].clone();
        let text = note().text();
        let base = |label: Option<Value>, annotation: Value| {
            let mut all = json!({"uid": "u", "resourceVersion": "7",
                "annotations": {EJECTED: annotation}});
            if let Some(label) = label {
                all["labels"] = json!({ DRAINING: label });
            }
            all
        };
        assert_eq!(
            patch(Change::Eject(note())),
            base(Some(json!(OURS)), json!(text))
        );
        assert_eq!(patch(Change::Note(note())), base(None, json!(text)));
        assert_eq!(patch(Change::Release), base(Some(Value::Null), Value::Null));
        assert_eq!(patch(Change::Forget), base(None, Value::Null));
    }

    #[test]
    fn the_marks_afterwards_are_what_the_patch_leaves() {
        let after = |change: Change, before: PodView| {
            let marks = change.marks_after(before.marks.as_deref());
            let marks = marks.map(|marks| (marks.draining, marks.ejected));
            marks.map(|(label, note)| (label.map(String::from), note.map(String::from)))
        };
        let text = note().text();
        let ours = || pod(Some(OURS), Some(&text));
        let both = Some((Some(OURS.to_owned()), Some(text.clone())));
        assert_eq!(after(Change::Eject(note()), PodView::default()), both);
        assert_eq!(after(Change::Note(note()), pod(Some(OURS), Some(""))), both);
        assert_eq!(after(Change::Release, ours()), None);
        assert_eq!(
            after(Change::Forget, pod(Some("x"), Some(&text))),
            Some((Some("x".to_owned()), None))
        );
        assert_eq!(after(Change::Forget, pod(None, Some(&text))), None);
    }
}
