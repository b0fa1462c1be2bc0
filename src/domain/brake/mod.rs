//! May something be removed because the catalog no longer has its service? A
//! catalog that forgot by mistake must not take the mesh's policies with it.
//!
//! 1. An error, a timeout or a truncated answer never gets here: only the
//!    catalog's own word that there is no such service does.
//! 2. Nothing is removed before one complete list of the catalog, nor while its
//!    events are not followed, and only what a list lacked or an event took
//!    out.
//! 3. One read that does not find the service is not enough; a second one,
//!    some time later, has to say the same.
//! 4. After a list that held nothing at all, nothing is removed but what was
//!    seen later than that.
//! 5. Nothing is removed that was not seen in the history that the catalog
//!    tells now: another epoch, or a revision that is not above the one at
//!    which the record was seen, is another history. What rule 4 or this one
//!    has held once counts as never seen until the record is seen again, also
//!    for a new process.
//! 6. In any ten minutes at most a share of the bindings loses what was made
//!    for it, but always one. The same binding counts once while its removal
//!    is tried again.
//! 7. A policy of never removing goes before all of this.
//! 8. Somebody's approval for one binding goes before rules 4 to 6, as long as
//!    it is about the history that the catalog tells now, and no record was
//!    seen since. What he approved counts for the others' share.
//!
//! Rules 1 and 3 are kept where the catalog is read; the others are here.

pub mod window;

use std::fmt;

use super::labels::ANNOTATION_APPROVE_DELETION;
use super::names::{BindingKey, ObjectName};
use super::record::CatalogPosition;
use super::status;
use crate::api::service_binding::ServiceBinding;
use window::Window;

/// Whether what the catalog no longer has is removed at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncPolicy {
    /// It is, as far as the brake lets it.
    Sync,
    /// It never is.
    UpsertOnly,
}

/// How far the brake lets go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether anything is removed at all.
    pub policy: SyncPolicy,
    /// Share of the bindings that may lose their objects in ten minutes.
    pub percent: u8,
}

/// A removal that is asked for.
#[derive(Clone, Debug)]
pub struct Removal<'a> {
    /// Uid of the binding.
    pub uid: &'a str,
    /// Where its record was last seen.
    pub seen: Option<CatalogPosition>,
    /// What somebody approved.
    pub approved: Option<CatalogPosition>,
    /// How many bindings there are.
    pub bindings: usize,
}

impl<'a> Removal<'a> {
    /// That of what was made for this one of so many bindings.
    pub fn of(binding: &'a ServiceBinding, bindings: usize) -> Self {
        let metadata = &binding.metadata;
        let annotations = metadata.annotations.as_ref();
        let approved = annotations.and_then(|a| a.get(ANNOTATION_APPROVE_DELETION));
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default(),
            seen: status::record_seen(binding.status.as_ref()),
            approved: approved.and_then(|text| CatalogPosition::parse(text)),
            bindings,
        }
    }
}

/// What is known of the catalog at that moment.
#[derive(Clone, Debug, Default)]
pub struct CatalogView {
    /// Where its history stands, once a list was complete and while what
    /// happens since is followed.
    pub present: Option<CatalogPosition>,
    /// Whether a list lacked the service, or an event took it out.
    pub absent: bool,
    /// Where the last complete list was, if it held nothing at all.
    pub nothing_at: Option<CatalogPosition>,
}

/// Why a removal has to wait.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Held {
    /// By `--policy=upsert-only`.
    NeverRemoved,
    /// No complete list and no event says that the service is gone.
    NotListed,
    /// Until somebody approves it.
    Doubtful {
        /// What is doubtful.
        doubt: Doubt,
        /// What an approval has to say.
        approve: CatalogPosition,
    },
}

/// What is doubtful about a removal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doubt {
    /// The last complete list held nothing at all.
    EmptyList,
    /// The record was seen in another history of the catalog, or never.
    AnotherHistory,
    /// The share of the last ten minutes is used up.
    ShareUsedUp {
        /// The share.
        percent: u8,
    },
}

/// Lets a removal go and counts it, or says why it has to wait. `now` is the
/// time in seconds since 1970.
pub fn admit(
    removal: &Removal<'_>,
    catalog: &CatalogView,
    limits: Limits,
    window: &mut Window,
    now: u64,
) -> Result<(), Held> {
    if limits.policy == SyncPolicy::UpsertOnly {
        return Err(Held::NeverRemoved);
    }
    let present = match &catalog.present {
        Some(present) if catalog.absent => present,
        _ => return Err(Held::NotListed),
    };
    if !is_approved(removal, present)
        && let Some(doubt) = doubt(removal, catalog, present, limits, window, now)
    {
        let seen = removal.seen.as_ref().filter(|_| !doubt.is_lasting());
        return Err(Held::Doubtful {
            doubt,
            approve: approval(seen, present),
        });
    }
    window.count(removal.uid, now);
    Ok(())
}

fn doubt(
    removal: &Removal<'_>,
    catalog: &CatalogView,
    present: &CatalogPosition,
    limits: Limits,
    window: &Window,
    now: u64,
) -> Option<Doubt> {
    let seen = last_seen(removal.seen.as_ref(), present);
    if let Some(nothing) = &catalog.nothing_at
        && (nothing.epoch != present.epoch || seen.is_none_or(|seen| seen <= nothing.revision))
    {
        return Some(Doubt::EmptyList);
    }
    if seen.is_none() {
        return Some(Doubt::AnotherHistory);
    }
    let percent = limits.percent;
    let allowed = (removal.bindings * usize::from(percent) / 100).max(1);
    let used_up = !window.counts(removal.uid, now) && window.lately(now) >= allowed as u64;
    used_up.then_some(Doubt::ShareUsedUp { percent })
}

/// The revision at which the record was seen in the history that is present.
/// To take a service out is a change of its own, so the present is later.
fn last_seen(seen: Option<&CatalogPosition>, present: &CatalogPosition) -> Option<u64> {
    let seen = seen.filter(|seen| seen.epoch == present.epoch)?;
    (seen.revision < present.revision).then_some(seen.revision)
}

fn is_approved(removal: &Removal<'_>, present: &CatalogPosition) -> bool {
    let after = last_seen(removal.seen.as_ref(), present);
    removal.approved.as_ref().is_some_and(|approved| {
        approved.epoch == present.epoch
            && approved.revision <= present.revision
            && after.is_none_or(|seen| approved.revision > seen)
    })
}

/// The least that an approval can say. It does not move while the record is
/// away, also with another leader.
fn approval(seen: Option<&CatalogPosition>, present: &CatalogPosition) -> CatalogPosition {
    CatalogPosition {
        epoch: present.epoch.clone(),
        revision: last_seen(seen, present).map_or(0, |seen| seen + 1),
    }
}

impl Held {
    /// Whether it stays so until the record is seen again: where it was seen
    /// before is then worth nothing any more, whatever the catalog says next.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Doubtful { doubt, .. } if doubt.is_lasting())
    }

    /// What a condition says. It stays the same for as long as the reason does.
    pub fn message(&self, binding: &BindingKey) -> String {
        let kept = "the catalog no longer has this service, but what was made for it is kept";
        match self {
            Self::NeverRemoved => format!(
                "{kept}, since the operator runs with --policy=upsert-only; to remove it, delete the binding"
            ),
            Self::NotListed => {
                "two reads say that there is no such service; nothing is removed before a complete list of the \
                 catalog says so too. Check the catalog, and catalogServiceId; to remove what was made all the \
                 same, delete the binding"
                    .to_owned()
            }
            Self::Doubtful { doubt, approve } => {
                let ObjectName { namespace, name } = &**binding;
                let value = quoted(&approve.to_string());
                format!(
                    "{kept}: {doubt}. If it is really gone, run: kubectl annotate servicebindings.aikernel.io \
                     -n {namespace} {name} --overwrite {ANNOTATION_APPROVE_DELETION}={value}"
                )
            }
        }
    }
}

impl Doubt {
    fn is_lasting(self) -> bool {
        !matches!(self, Self::ShareUsedUp { .. })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyList => f.write_str("the catalog lists no service at all, so it may have lost them"),
            Self::AnotherHistory => f.write_str(
                "the catalog was restored or replaced since it last showed the record, so it may have lost it",
            ),
            Self::ShareUsedUp { percent } => write!(
                f,
                "more than {percent} % of all bindings (or more than one) lost their services within 10 minutes; it \
                 is removed when its turn comes, unless the service is registered again"
            ),
        }
    }
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
