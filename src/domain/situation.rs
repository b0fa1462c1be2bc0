//! The table of situations: what each one means for the conditions, for the
//! summary, and for when the binding is looked at again.

use super::brake::Held;
use super::names::BindingKey;
use super::reasons as r;
use crate::api::service_binding::SyncStatus;

/// What a look at a binding came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Situation {
    /// The catalog answered and the objects are stored.
    Programmed {
        /// Whose record it is, where it is another service's.
        mismatch: Option<String>,
        /// Why nothing is reported back, where another process reports as this
        /// cluster.
        rival: Option<String>,
        /// Which other record names the same Service, where one does.
        beside: Option<String>,
        /// What the user should know about the policy.
        notes: Vec<String>,
    },
    /// No usable answer of the catalog.
    CatalogAway {
        /// One of the catalog's reasons.
        reason: &'static str,
        /// What happened.
        message: String,
    },
    /// The catalog said once that there is no such service.
    NotFound,
    /// It said so again some time later; no complete list says so yet.
    Unlisted(String),
    /// The service is gone from the catalog.
    Removed {
        /// Why the objects are kept all the same, if they are.
        kept: Option<String>,
    },
    /// The service is gone from the catalog, and what was made for it is kept
    /// until the removal is beyond doubt, or approved.
    DeletionHeld(String),
    /// The record is wrong or out of bounds.
    InvalidRecord(String),
    /// The binding is wrong, alone or together with the record.
    InvalidBinding(String),
    /// Somebody else is in the way.
    Blocked {
        /// One of the conflict reasons.
        reason: &'static str,
        /// Who, and what to do.
        message: String,
    },
    /// The API server refused a write.
    WriteRefused {
        /// WriteRefused or MeshApiMissing.
        reason: &'static str,
        /// The server's own words.
        message: String,
    },
    /// The binding is being deleted, and the API server refused to remove what
    /// was made for it.
    RemovalRefused(String),
    /// The Service cannot carry a policy.
    ServiceUnusable {
        /// ServiceNotFound, Headless or NoHttpPort.
        reason: &'static str,
        /// What to do.
        message: String,
    },
    /// Frozen by `suspend` or `paused`.
    Suspended {
        /// SuspendedByBinding or Paused.
        reason: &'static str,
        /// By whom.
        message: String,
    },
}

/// Value of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Truth {
    /// `True`
    True,
    /// `False`
    False,
    /// `Unknown`
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fact {
    /// Its value.
    pub truth: Truth,
    /// Its reason.
    pub reason: &'static str,
    /// Its message; may be empty.
    pub message: String,
}

/// What becomes of one condition: a new fact, or none where it stays as it is.
pub type Cell = Option<Fact>;

/// Which generation of the binding the mesh holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InForce {
    /// The one that the situation is about.
    ThisGeneration,
    /// An earlier one.
    AnEarlierOne,
    /// None: nothing was ever programmed.
    Nothing,
}

/// When the binding is looked at again without being asked to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// When something it depends on changes.
    OnEvent,
    /// After the period, from caches.
    Period,
    /// Soon, to confirm an answer.
    Confirm,
    /// When the catalog is back; one binding tries for all.
    CatalogBack,
    /// When the API server takes writes again; one binding tries for all.
    WritesBack,
}

/// One row of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// CatalogSynced.
    pub catalog: Cell,
    /// MeshProgrammed.
    pub mesh: Cell,
    /// Ready.
    pub ready: Cell,
    /// Conflict.
    pub conflict: Cell,
    /// Suspended.
    pub suspended: Cell,
    /// The summary; absent: as it is.
    pub sync: Option<SyncStatus>,
    /// The next look.
    pub look: Look,
}

impl Situation {
    /// That of a binding whose removal has to wait.
    pub fn held(held: &Held, binding: &BindingKey) -> Self {
        let message = held.message(binding);
        match held {
            Held::NotListed => Self::Unlisted(message),
            Held::NeverRemoved => Self::Removed {
                kept: Some(message),
            },
            Held::Doubtful { .. } => Self::DeletionHeld(message),
        }
    }

    /// The row of this situation.
    pub fn row(&self, in_force: InForce) -> Row {
        let fact = |truth, reason, message: &str| {
            Some(Fact {
                truth,
                reason,
                message: message.to_owned(),
            })
        };
        let said = |reason, message: &str| fact(Truth::False, reason, message);
        let no = |reason| fact(Truth::False, reason, "");
        let yes = |reason| fact(Truth::True, reason, "");
        let current = in_force == InForce::ThisGeneration;
        let base = Row {
            catalog: None,
            mesh: None,
            ready: None,
            conflict: no(r::NO_CONFLICT),
            suspended: no(r::ACTIVE),
            sync: Some(SyncStatus::Error),
            look: Look::Period,
        };
        match self {
            Self::Programmed {
                mismatch,
                rival,
                beside,
                notes,
            } => Row {
                catalog: match (mismatch, rival, beside) {
                    (Some(whose), _, _) => fact(Truth::True, r::RECORD_MISMATCH, whose),
                    (None, Some(why), _) => fact(Truth::True, r::DUPLICATE_WRITER, why),
                    (None, None, Some(which)) => fact(Truth::True, r::ANOTHER_RECORD, which),
                    (None, None, None) => yes(r::SYNCED),
                },
                mesh: fact(Truth::True, r::PROGRAMMED, &notes.join("; ")),
                ready: yes(r::SYNCED),
                sync: Some(SyncStatus::Synced),
                ..base
            },
            Self::CatalogAway { reason, message } => Row {
                catalog: said(reason, message),
                mesh: if in_force == InForce::Nothing {
                    said(reason, message)
                } else {
                    None
                },
                ready: if current { None } else { said(reason, message) },
                look: Look::CatalogBack,
                ..base
            },
            Self::NotFound => Row {
                catalog: no(r::NOT_FOUND),
                ready: no(r::NOT_FOUND),
                look: Look::Confirm,
                ..base
            },
            Self::Unlisted(message) => Row {
                catalog: said(r::NOT_FOUND, message),
                ready: said(r::NOT_FOUND, message),
                ..base
            },
            Self::DeletionHeld(message) => Row {
                catalog: said(r::REMOVED, message),
                ready: said(r::DELETION_HELD, message),
                ..base
            },
            Self::Removed {
                kept: Some(message),
            } => Row {
                catalog: said(r::REMOVED, message),
                ready: said(r::REMOVED, message),
                ..base
            },
            Self::Removed { kept: None } => Row {
                catalog: no(r::REMOVED),
                mesh: no(r::REMOVED),
                ready: no(r::REMOVED),
                ..base
            },
            Self::InvalidRecord(message) => Row {
                catalog: said(r::INVALID_RECORD, message),
                mesh: if in_force == InForce::Nothing {
                    said(r::INVALID_RECORD, message)
                } else {
                    None
                },
                ready: said(r::INVALID_RECORD, message),
                ..base
            },
            Self::InvalidBinding(message) => Row {
                catalog: yes(r::SYNCED),
                mesh: if current {
                    None
                } else {
                    said(r::INVALID_BINDING, message)
                },
                ready: said(r::INVALID_BINDING, message),
                ..base
            },
            Self::Blocked { reason, message } => Row {
                mesh: said(reason, message),
                ready: said(reason, message),
                conflict: fact(Truth::True, reason, message),
                ..base
            },
            Self::WriteRefused { reason, message } => Row {
                catalog: yes(r::SYNCED),
                mesh: said(reason, message),
                ready: said(reason, message),
                look: Look::WritesBack,
                ..base
            },
            Self::RemovalRefused(message) => Row {
                mesh: said(r::WRITE_REFUSED, message),
                ready: said(r::WRITE_REFUSED, message),
                conflict: None,
                suspended: None,
                look: Look::WritesBack,
                ..base
            },
            Self::ServiceUnusable { reason, message } => Row {
                catalog: yes(r::SYNCED),
                mesh: said(reason, message),
                ready: said(reason, message),
                look: Look::OnEvent,
                ..base
            },
            Self::Suspended { reason, message } => Row {
                conflict: None,
                suspended: fact(Truth::True, reason, message),
                sync: None,
                look: Look::OnEvent,
                ..base
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::service_binding::SyncStatus::{Error, Synced};

    /// `True Reason`, or `as it is`.
    fn cell(cell: &Cell) -> String {
        cell.as_ref().map_or_else(
            || "as it is".to_owned(),
            |fact| format!("{} {}", fact.truth.as_str(), fact.reason),
        )
    }

    fn said() -> String {
        "why".to_owned()
    }

    #[test]
    fn every_situation_means_what_the_table_says() {
        use InForce::{AnEarlierOne, Nothing, ThisGeneration};
        use Situation as S;
        let away = || S::CatalogAway {
            reason: r::CATALOG_UNAVAILABLE,
            message: said(),
        };
        let programmed = |mismatch| S::Programmed {
            mismatch,
            rival: None,
            beside: None,
            notes: Vec::new(),
        };
        let overtaken = S::Programmed {
            mismatch: None,
            rival: Some(said()),
            beside: Some(said()),
            notes: Vec::new(),
        };
        let doubled = S::Programmed {
            mismatch: None,
            rival: None,
            beside: Some(said()),
            notes: Vec::new(),
        };
        let blocked = S::Blocked {
            reason: r::NOT_OURS,
            message: said(),
        };
        let refused = S::WriteRefused {
            reason: r::WRITE_REFUSED,
            message: said(),
        };
        let headless = S::ServiceUnusable {
            reason: r::HEADLESS,
            message: said(),
        };
        let suspended = S::Suspended {
            reason: r::PAUSED,
            message: said(),
        };
        #[rustfmt::skip]
        let table = [
            // situation, in force | CatalogSynced | MeshProgrammed | Ready | summary | next look
            (programmed(None), Nothing, "True Synced", "True Programmed", "True Synced", Some(Synced), Look::Period),
            (programmed(Some(said())), Nothing, "True RecordMismatch", "True Programmed", "True Synced", Some(Synced), Look::Period),
            (overtaken, Nothing, "True DuplicateWriter", "True Programmed", "True Synced", Some(Synced), Look::Period),
            (doubled, Nothing, "True AnotherRecord", "True Programmed", "True Synced", Some(Synced), Look::Period),
            (away(), ThisGeneration, "False CatalogUnavailable", "as it is", "as it is", Some(Error), Look::CatalogBack),
            (away(), AnEarlierOne, "False CatalogUnavailable", "as it is", "False CatalogUnavailable", Some(Error), Look::CatalogBack),
            (away(), Nothing, "False CatalogUnavailable", "False CatalogUnavailable", "False CatalogUnavailable", Some(Error), Look::CatalogBack),
            (S::NotFound, ThisGeneration, "False NotFound", "as it is", "False NotFound", Some(Error), Look::Confirm),
            (S::Unlisted(said()), ThisGeneration, "False NotFound", "as it is", "False NotFound", Some(Error), Look::Period),
            (S::DeletionHeld(said()), ThisGeneration, "False Removed", "as it is", "False DeletionHeld", Some(Error), Look::Period),
            (S::Removed { kept: None }, ThisGeneration, "False Removed", "False Removed", "False Removed", Some(Error), Look::Period),
            (S::Removed { kept: Some(said()) }, ThisGeneration, "False Removed", "as it is", "False Removed", Some(Error), Look::Period),
            (S::InvalidRecord(said()), ThisGeneration, "False InvalidRecord", "as it is", "False InvalidRecord", Some(Error), Look::Period),
            (S::InvalidRecord(said()), Nothing, "False InvalidRecord", "False InvalidRecord", "False InvalidRecord", Some(Error), Look::Period),
            (S::InvalidBinding(said()), ThisGeneration, "True Synced", "as it is", "False InvalidBinding", Some(Error), Look::Period),
            (S::InvalidBinding(said()), AnEarlierOne, "True Synced", "False InvalidBinding", "False InvalidBinding", Some(Error), Look::Period),
            (blocked, ThisGeneration, "as it is", "False NotOurs", "False NotOurs", Some(Error), Look::Period),
            (refused, ThisGeneration, "True Synced", "False WriteRefused", "False WriteRefused", Some(Error), Look::WritesBack),
            (headless, ThisGeneration, "True Synced", "False Headless", "False Headless", Some(Error), Look::OnEvent),
            (suspended, ThisGeneration, "as it is", "as it is", "as it is", None, Look::OnEvent),
        ];
        for (situation, in_force, catalog, mesh, ready, sync, look) in table {
            let row = situation.row(in_force);
            let cells = [cell(&row.catalog), cell(&row.mesh), cell(&row.ready)];
            assert_eq!(cells, [catalog, mesh, ready], "{situation:?}, {in_force:?}");
            assert_eq!((row.sync, row.look), (sync, look), "{situation:?}");
            let conflict = if matches!(situation, S::Blocked { .. }) {
                "True NotOurs"
            } else {
                "False NoConflict"
            };
            let frozen = matches!(situation, S::Suspended { .. });
            assert_eq!(
                cell(&row.conflict),
                if frozen { "as it is" } else { conflict }
            );
            assert_eq!(
                cell(&row.suspended),
                if frozen {
                    "True Paused"
                } else {
                    "False Active"
                }
            );
        }
    }
}
