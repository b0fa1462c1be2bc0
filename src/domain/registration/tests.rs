use super::index::Index;
use super::*;
use crate::domain::fixtures::record;
use crate::domain::names::BindingKey;

fn service() -> ServiceKey {
    target(&record()).unwrap().0
}

fn id(text: &str) -> CatalogServiceId {
    CatalogServiceId::parse(text).unwrap()
}

fn ids(list: &[&str]) -> BTreeSet<CatalogServiceId> {
    list.iter().map(|text| id(text)).collect()
}

fn scope() -> Scope {
    Scope {
        on: true,
        ..Scope::default()
    }
}

/// A Service `shop/web` that nobody has bound.
fn around() -> Surroundings {
    Surroundings {
        service: Some(ServiceView::default()),
        namespace: Some(NamespaceView::default()),
        ..Surroundings::default()
    }
}

fn bound(namespace: &str, of: &str, made_for_catalog: bool) -> (Rival, String) {
    let rival = Rival {
        key: BindingKey::new(namespace.to_owned(), "somebodys"),
        created: 1,
        uid: "somebodys".into(),
        made_for_catalog,
    };
    (rival, of.to_owned())
}

fn decided(scope: &Scope, around: &Surroundings) -> bool {
    match decide(scope, &service(), &ids(&["web-1"]), around) {
        Decision::Create(made) => made == id("web-1"),
        Decision::Nothing => false,
    }
}

#[test]
fn a_service_that_a_record_names_gets_a_binding_of_its_name() {
    assert!(decided(&scope(), &around()));
    let made = binding(&service(), &id("web-1"));
    let made = serde_json::to_value(made).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "aikernel.io/v1alpha1",
        "kind": "ServiceBinding",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "labels": {
                "catalog-mesh.aikernel.io/source": "catalog",
                "app.kubernetes.io/managed-by": "catalog-mesh-controller",
            },
            "finalizers": ["catalog-mesh.aikernel.io/cleanup"],
        },
        "spec": {"catalogServiceId": "web-1", "serviceName": "web"},
    });
    assert_eq!(made, expected);
}

#[test]
fn no_binding_is_made_where_the_service_is_missing_or_opted_out() {
    let with = |service| Surroundings {
        service,
        ..around()
    };
    let ignored = ServiceView {
        ignored: true,
        ..ServiceView::default()
    };
    assert!(!decided(&scope(), &with(None)));
    assert!(!decided(&scope(), &with(Some(ignored))));
}

#[test]
fn no_binding_is_made_in_a_namespace_that_is_paused_or_ending_or_unknown() {
    let with = |namespace| Surroundings {
        namespace,
        ..around()
    };
    let paused = NamespaceView {
        paused: true,
        ..NamespaceView::default()
    };
    let ending = NamespaceView {
        terminating: true,
        ..NamespaceView::default()
    };
    let all = Surroundings {
        all_paused: true,
        ..around()
    };
    for around in [with(Some(paused)), with(Some(ending)), with(None), all] {
        assert!(!decided(&scope(), &around), "{around:?}");
    }
}

#[test]
fn no_binding_is_made_beside_another_for_the_service_whoever_made_it() {
    let with = |binding| Surroundings {
        bindings: vec![binding],
        ..around()
    };
    for made in [true, false] {
        assert!(!decided(&scope(), &with(bound("shop", "web-1", made))));
        assert!(!decided(&scope(), &with(bound("shop", "another", made))));
    }
    // From elsewhere it counts where the Namespace allows it.
    let mut stray = with(bound("elsewhere", "web-1", false));
    assert!(decided(&scope(), &stray));
    stray.namespace = Some(NamespaceView {
        allow_from: BTreeSet::from(["elsewhere".to_owned()]),
        ..NamespaceView::default()
    });
    assert!(!decided(&scope(), &stray));
}

#[test]
fn no_binding_is_made_out_of_scope() {
    let mut labelled = record();
    labelled.labels = [("public".to_owned(), "yes".to_owned())].into();
    let only = |namespace: &str| Scope {
        namespaces: BTreeSet::from([namespace.to_owned()]),
        ..scope()
    };
    let of = |selector: &str| Scope {
        record_labels: selector.parse().unwrap(),
        ..scope()
    };
    for (scope, expected) in [
        (scope(), true),
        (Scope::default(), false),
        (only("shop"), true),
        (only("other"), false),
        (of("public=yes"), true),
        (of("public=no"), false),
    ] {
        assert_eq!(scope.admits(&labelled), expected, "{scope:?}");
    }
    let by_service = Scope {
        service_labels: "tier=web".parse().unwrap(),
        ..scope()
    };
    assert!(!decided(&by_service, &around()));
    let mut web = around();
    web.service.as_mut().unwrap().labels = [("tier".to_owned(), "web".to_owned())].into();
    assert!(decided(&by_service, &web));
}

#[test]
fn of_two_records_for_one_service_the_bound_one_counts_else_the_lowest() {
    let both = ids(&["b", "a"]);
    let choice = |around: &Surroundings| chosen(&both, around).map(ToString::to_string);
    assert_eq!(choice(&around()).as_deref(), Some("a"));
    let with_b = Surroundings {
        bindings: vec![bound("shop", "b", true)],
        ..around()
    };
    assert_eq!(choice(&with_b).as_deref(), Some("b"));
    let said = problems(&both, &with_b);
    assert_eq!(said, [(id("a"), Problem::AnotherRecord(id("b")))]);
    assert!(
        said[0]
            .1
            .message()
            .contains("record b names the same Service")
    );
    assert_eq!(problems(&ids(&["a"]), &around()), []);
    // Whoever is bound is told of another one, and of none where there is none.
    let told = |bound: &str, all: &[&str]| beside(&ids(all), &id(bound)).unwrap_or_default();
    assert!(told("b", &["a", "b", "c"]).starts_with("record a names the same Service"));
    assert!(told("a", &["a", "b"]).starts_with("record b names the same Service"));
    assert_eq!(told("a", &["a"]), "");
    // One that is bound to the record of something else has its own reason.
    assert_eq!(told("x", &["a", "b"]), "");
}

#[test]
fn a_name_that_is_taken_is_said_and_nothing_is_made() {
    let taken = Surroundings {
        name_taken: true,
        ..around()
    };
    assert!(!decided(&scope(), &taken));
    assert_eq!(
        problems(&ids(&["a"]), &taken),
        [(id("a"), Problem::NameTaken)]
    );
    // By hand it is bound all the same.
    let by_hand = Surroundings {
        bindings: vec![bound("shop", "a", false)],
        ..taken
    };
    assert_eq!(problems(&ids(&["a"]), &by_hand), []);
}

#[test]
fn a_record_whose_name_is_none_of_kubernetes_is_a_problem_and_concerns_nobody() {
    let mut index = Index::default();
    for (name, namespace) in [
        ("Web", "shop"),
        ("web", "sh/op"),
        ("", "shop"),
        ("web.v1", "shop"),
    ] {
        let mut wrong = record();
        wrong.name = name.to_owned();
        wrong.namespace = namespace.to_owned();
        let (concerned, problem) = index.take(&scope(), &id("web-1"), Some(&wrong));
        assert!(concerned.is_empty(), "{concerned:?}");
        assert!(
            matches!(problem, Some(Problem::InvalidName(_))),
            "{name} {namespace}"
        );
    }
}

#[test]
fn a_record_concerns_the_service_that_it_names_and_the_one_that_it_named() {
    let mut index = Index::default();
    let mut take = |record: Option<&ServiceRecord>| {
        let (concerned, problem) = index.take(&scope(), &id("web-1"), record);
        assert_eq!(problem, None);
        concerned
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut moved = record();
    moved.name = "api".to_owned();
    assert_eq!(take(Some(&record())), "shop/web");
    assert_eq!(take(Some(&record())), "shop/web");
    assert_eq!(take(Some(&moved)), "shop/web shop/api");
    assert_eq!(take(None), "shop/api");
    assert_eq!(take(None), "");
    assert_eq!(index.services().count(), 0);
}
