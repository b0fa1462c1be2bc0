use super::*;

mod any_history;

const NOW: u64 = 1_800_000_000;

pub(super) fn place(text: &str) -> CatalogPosition {
    CatalogPosition::parse(text).unwrap()
}

/// The removal of a binding among 100 whose record was seen at `a.5`.
fn removal(uid: &str) -> Removal<'_> {
    Removal {
        uid,
        seen: Some(place("a.5")),
        approved: None,
        bindings: 100,
    }
}

fn approved<'a>(uid: &'a str, text: &str) -> Removal<'a> {
    Removal {
        approved: Some(place(text)),
        ..removal(uid)
    }
}

/// A catalog that took the service out and stands at `a.9`.
fn catalog() -> CatalogView {
    CatalogView {
        present: Some(place("a.9")),
        absent: true,
        nothing_at: None,
    }
}

fn at(text: &str) -> CatalogView {
    CatalogView {
        present: Some(place(text)),
        ..catalog()
    }
}

const LIMITS: Limits = Limits {
    policy: SyncPolicy::Sync,
    percent: 20,
};

fn asked(removal: &Removal<'_>, catalog: &CatalogView) -> Result<(), Held> {
    admit(removal, catalog, LIMITS, &mut Window::default(), NOW)
}

fn doubted(doubt: Doubt, approve: &str) -> Result<(), Held> {
    Err(Held::Doubtful {
        doubt,
        approve: place(approve),
    })
}

/// How many of those asked for at this time are let go.
fn admitted(uids: std::ops::Range<u32>, percent: u8, window: &mut Window, now: u64) -> usize {
    let limits = Limits { percent, ..LIMITS };
    uids.filter(|n| admit(&removal(&n.to_string()), &catalog(), limits, window, now).is_ok())
        .count()
}

#[test]
fn a_service_that_was_seen_and_taken_out_in_one_history_goes() {
    assert_eq!(asked(&removal("x"), &catalog()), Ok(()));
}

#[test]
fn nothing_is_removed_before_a_complete_list_or_where_neither_list_nor_event_says_it() {
    let unlisted = CatalogView {
        present: None,
        ..catalog()
    };
    let unsaid = CatalogView {
        absent: false,
        ..catalog()
    };
    for view in [unlisted, unsaid, CatalogView::default()] {
        assert_eq!(asked(&removal("x"), &view), Err(Held::NotListed));
        assert_eq!(asked(&approved("x", "a.9"), &view), Err(Held::NotListed));
    }
}

#[test]
fn nothing_is_removed_after_an_empty_list_until_it_is_approved() {
    let empty = CatalogView {
        nothing_at: Some(place("a.8")),
        ..catalog()
    };
    assert_eq!(
        asked(&removal("x"), &empty),
        doubted(Doubt::EmptyList, "a.0")
    );
    assert_eq!(asked(&approved("x", "a.6"), &empty), Ok(()));
    // It was registered, seen and taken out since.
    let emptied = |text: &str| CatalogView {
        nothing_at: Some(place(text)),
        ..catalog()
    };
    assert_eq!(asked(&removal("x"), &emptied("a.4")), Ok(()));
    assert!(asked(&removal("x"), &emptied("a.5")).is_err());
    assert!(asked(&removal("x"), &emptied("b.4")).is_err());
}

#[test]
fn nothing_is_removed_that_was_seen_in_another_history_until_it_is_approved() {
    let never = Removal {
        seen: None,
        ..removal("x")
    };
    let doubt = |approve| doubted(Doubt::AnotherHistory, approve);
    assert_eq!(asked(&removal("x"), &at("b.9")), doubt("b.0"));
    assert_eq!(asked(&never, &at("b.9")), doubt("b.0"));
    // The same epoch, and yet it does not hold what was seen in it.
    assert_eq!(asked(&removal("x"), &at("a.4")), doubt("a.0"));
    assert_eq!(asked(&removal("x"), &at("a.5")), doubt("a.0"));
    assert_eq!(asked(&removal("x"), &at("a.6")), Ok(()));

    assert_eq!(asked(&approved("x", "b.0"), &at("b.9")), Ok(()));
    assert_eq!(asked(&approved("x", "a.0"), &at("a.4")), Ok(()));
}

#[test]
fn in_ten_minutes_a_share_of_the_bindings_is_removed_and_no_more() {
    let mut window = Window::default();
    assert_eq!(admitted(0..100, 20, &mut window, NOW), 20);
    assert_eq!(admitted(100..200, 20, &mut window, NOW + 599), 0);
    assert_eq!(admitted(100..200, 20, &mut window, NOW + 610), 20);
}

#[test]
fn one_is_always_allowed_also_of_a_share_of_nothing() {
    let mut window = Window::default();
    assert_eq!(admitted(0..100, 0, &mut window, NOW), 1);
    let only = Removal {
        bindings: 1,
        ..removal("x")
    };
    assert_eq!(asked(&only, &catalog()), Ok(()));
}

#[test]
fn the_same_binding_counts_once_while_its_removal_is_tried_again() {
    let mut window = Window::default();
    assert_eq!(admitted(0..1, 0, &mut window, NOW), 1);
    assert_eq!(admitted(0..1, 0, &mut window, NOW + 30), 1);
    assert_eq!(admitted(1..2, 0, &mut window, NOW + 30), 0);
}

#[test]
fn where_nothing_is_ever_removed_an_approval_changes_nothing() {
    let limits = Limits {
        policy: SyncPolicy::UpsertOnly,
        ..LIMITS
    };
    for removal in [removal("x"), approved("x", "a.6")] {
        let held = admit(&removal, &catalog(), limits, &mut Window::default(), NOW);
        assert_eq!(held, Err(Held::NeverRemoved));
    }
}

#[test]
fn an_approval_lets_one_binding_through_and_counts_for_the_others() {
    let mut window = Window::default();
    assert_eq!(admitted(0..100, 20, &mut window, NOW), 20);
    let mut ask = |removal: &Removal<'_>, now| admit(removal, &catalog(), LIMITS, &mut window, now);
    let used_up = doubted(Doubt::ShareUsedUp { percent: 20 }, "a.6");
    assert_eq!(ask(&removal("x"), NOW), used_up);
    assert_eq!(ask(&approved("x", "a.6"), NOW + 500), Ok(()));
    assert_eq!(ask(&removal("y"), NOW + 500), used_up);
    assert_eq!(admitted(100..200, 20, &mut window, NOW + 610), 19);
}

#[test]
fn an_approval_is_about_this_history_and_no_registration_since() {
    let empty = CatalogView {
        nothing_at: Some(place("a.8")),
        ..catalog()
    };
    for good in ["a.6", "a.9"] {
        assert_eq!(asked(&approved("x", good), &empty), Ok(()), "{good}");
    }
    // Of another epoch, of before the record was seen, of the future.
    for bad in ["b.6", "a.5", "a.0", "a.10"] {
        assert!(asked(&approved("x", bad), &empty).is_err(), "{bad}");
    }
    let again = Removal {
        seen: Some(place("a.7")),
        ..approved("x", "a.6")
    };
    assert!(asked(&again, &empty).is_err(), "outlived by a registration");
}

#[test]
fn what_a_message_says_to_write_is_an_approval_that_stays_the_same() {
    let key = BindingKey::new("shop", "web");
    let said = |view: &CatalogView| match asked(&removal("x"), view) {
        Err(held) => held.message(&key),
        Ok(()) => panic!("let through"),
    };
    let command = "kubectl annotate servicebindings.aikernel.io -n shop web --overwrite \
                   catalog-mesh.aikernel.io/approve-deletion=b.0";
    assert!(said(&at("b.3")).ends_with(command), "{}", said(&at("b.3")));
    assert_eq!(said(&at("b.3")), said(&at("b.4")));
    let empty = CatalogView {
        nothing_at: Some(place("a.8")),
        ..catalog()
    };
    for view in [at("b.3"), at("a.4"), empty] {
        // What is in doubt counts as never seen from then on.
        let never = Removal {
            seen: None,
            ..removal("x")
        };
        let (before, after) = (asked(&removal("x"), &view), asked(&never, &view));
        assert_eq!(before, after, "the command changes");
        let Err(Held::Doubtful { approve, .. }) = after else {
            panic!("let through");
        };
        let text = approve.to_string();
        let never = Removal {
            seen: None,
            ..approved("x", &text)
        };
        assert_eq!(asked(&never, &view), Ok(()), "{text}");
    }
    let odd = at("it's; rm.3");
    assert!(
        said(&odd).ends_with(r"approve-deletion='it'\''s; rm.0'"),
        "{}",
        said(&odd)
    );
}
