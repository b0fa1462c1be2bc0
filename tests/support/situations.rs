//! What can a look at a binding come to? The rows of the table in
//! docs/conditions.md, for those who go through all of them.

use catalog_mesh_controller::domain::reasons as r;
use catalog_mesh_controller::domain::situation::{InForce, Situation};

/// Each with what is in force, and the words that tell it from its like.
pub fn all() -> Vec<(Situation, InForce, &'static str)> {
    use InForce::{AnEarlierOne, Nothing, ThisGeneration};
    use Situation as S;
    let away = || S::CatalogAway {
        reason: r::CATALOG_UNAVAILABLE,
        message: String::new(),
    };
    let programmed = |mismatch: Option<&str>| S::Programmed {
        mismatch: mismatch.map(str::to_owned),
        rival: None,
        beside: None,
        notes: Vec::new(),
    };
    let removed = |kept: Option<&str>| S::Removed {
        kept: kept.map(str::to_owned),
    };
    let bad = || S::InvalidRecord(String::new());
    let wrong = || S::InvalidBinding(String::new());
    let blocked = S::Blocked {
        reason: r::NOT_OURS,
        message: String::new(),
    };
    let refused = S::WriteRefused {
        reason: r::WRITE_REFUSED,
        message: String::new(),
    };
    let unusable = S::ServiceUnusable {
        reason: r::SERVICE_NOT_FOUND,
        message: String::new(),
    };
    let suspended = S::Suspended {
        reason: r::SUSPENDED_BY_BINDING,
        message: String::new(),
    };
    vec![
        (programmed(None), ThisGeneration, ""),
        (
            programmed(Some("x")),
            ThisGeneration,
            ", and is another service's",
        ),
        (
            S::Programmed {
                mismatch: None,
                rival: Some(String::new()),
                beside: None,
                notes: Vec::new(),
            },
            ThisGeneration,
            ", and another process reports to the catalog as this cluster",
        ),
        (
            S::Programmed {
                mismatch: None,
                rival: None,
                beside: Some(String::new()),
                notes: Vec::new(),
            },
            ThisGeneration,
            ", and another record names the same Service",
        ),
        (away(), ThisGeneration, "; this generation is in force"),
        (
            away(),
            AnEarlierOne,
            "; an earlier generation of the binding is in force",
        ),
        (away(), Nothing, "; nothing was ever programmed"),
        (S::NotFound, ThisGeneration, ""),
        (S::Unlisted(String::new()), ThisGeneration, ""),
        (S::DeletionHeld(String::new()), ThisGeneration, ""),
        (removed(None), ThisGeneration, "; the objects are removed"),
        (
            removed(Some("x")),
            ThisGeneration,
            "; the objects are kept, and the message says why",
        ),
        (
            bad(),
            ThisGeneration,
            "; some generation of the binding is in force",
        ),
        (bad(), Nothing, "; nothing was ever programmed"),
        (wrong(), ThisGeneration, "; this generation is in force"),
        (wrong(), AnEarlierOne, "; an earlier generation is in force"),
        (blocked, ThisGeneration, ""),
        (refused, ThisGeneration, ""),
        (S::RemovalRefused(String::new()), ThisGeneration, ""),
        (unusable, ThisGeneration, ""),
        (suspended, ThisGeneration, ""),
    ]
}
