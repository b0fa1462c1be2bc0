//! What a look at one binding would change, as plain values for whoever prints
//! it.

use serde::Serialize;

use super::lines::Line;
use super::source::Source;
use crate::api::service_binding::PolicyEntry;
use crate::domain::names::BindingKey;

/// What a look at one binding would change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    /// The binding.
    pub(super) binding: BindingKey,
    /// The objects that would change, in the order of the writes.
    pub(super) objects: Vec<Altered>,
    /// Whether the binding itself goes, which was made for the catalog.
    pub(super) leaves: bool,
    /// Why nothing, not everything, or something else than usual is done.
    pub(super) because: Option<Because>,
    /// What the user should know about the policy.
    pub(super) notes: Vec<String>,
    /// Each effective value with its source.
    pub(super) policy: Vec<PolicyEntry>,
}

/// Why nothing, not everything, or something else than usual is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Because {
    /// The reason, as the binding's condition has it.
    pub(super) reason: String,
    /// Its message.
    pub(super) message: String,
    /// Whether somebody has to act before the binding can be what it says.
    pub(super) blocks: bool,
}

/// What is done, for a binding or for an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Remove,
    /// It stays, and loses its owner.
    Release,
    /// Nothing can be done before somebody acts.
    Blocked,
    /// It is as it should be, or frozen.
    Nothing,
}

impl Action {
    /// As it is printed.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Release => "release",
            Self::Blocked => "blocked",
            Self::Nothing => "nothing",
        }
    }
}

/// An object that would change: one of the mesh, or a binding that is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Altered {
    /// Its kind.
    pub(super) kind: &'static str,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// How.
    pub(super) action: Action,
    /// Its lines that differ; none where it is deleted.
    pub(super) lines: Vec<Said>,
}

/// A line that differs, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// The line.
    pub(super) line: Line,
    /// Who gave the new value.
    pub(super) source: Option<Source>,
    /// Which other field manager set the old one.
    pub(super) set_by: Option<String>,
}

impl Finding {
    /// About a binding of which nothing is known yet.
    pub(super) fn of(binding: BindingKey) -> Self {
        Self {
            binding,
            objects: Vec::new(),
            leaves: false,
            because: None,
            notes: Vec::new(),
            policy: Vec::new(),
        }
    }

    /// What is done for the binding.
    pub(super) fn action(&self) -> Action {
        let all = |action| self.objects.iter().all(|object| object.action == action);
        if self.because.as_ref().is_some_and(|because| because.blocks) {
            Action::Blocked
        } else if self.leaves {
            Action::Remove
        } else if self.objects.is_empty() {
            Action::Nothing
        } else {
            let one = [Action::Create, Action::Remove, Action::Release];
            one.into_iter()
                .find(|one| all(*one))
                .unwrap_or(Action::Update)
        }
    }
}
