//! Which bindings does a change concern?

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_runtime::watcher::Event;

use super::watched::{WATCHED, Watched};
use super::*;
use crate::api::service_binding::{EndpointState, EndpointTransition};
use crate::controller::mirror::id;
use crate::controller::sources::seen;
use crate::domain::fixtures::{HOST, binding, foreign, ours};
use crate::domain::names::{Namespace, ObjectKey};
use crate::domain::served::WHOLE;
use crate::domain::target::Target;

use MeshKind::{DestinationRule, VirtualService};

fn world() -> World {
    let domain = ClusterDomain::parse("cluster.local").unwrap();
    World::new(domain, "operators".to_owned())
}

fn serving(names: &[&str]) -> World {
    let names: Vec<_> = names.iter().map(|n| Namespace::parse(n).unwrap()).collect();
    let domain = ClusterDomain::parse("cluster.local").unwrap();
    World::serving(domain, "operators".to_owned(), &Served::only(&names))
}

fn no_such_kind() -> Missing {
    Missing::Kind("404".to_owned())
}

fn named(namespace: &str, name: &str, version: u64) -> ServiceBinding {
    let mut binding = binding();
    binding.metadata.namespace = Some(namespace.to_owned());
    binding.metadata.name = Some(name.to_owned());
    binding.metadata.uid = Some(format!("uid-of-{namespace}-{name}"));
    binding.metadata.resource_version = Some(version.to_string());
    binding.spec.service_name = name.to_owned();
    binding
}

fn event(binding: ServiceBinding) -> Event<Seen<Arc<ServiceBinding>>> {
    let metadata = binding.metadata.clone();
    Event::Apply(seen(&metadata, Arc::new(binding)))
}

fn rule(rule: &Rule, version: u64) -> Seen<Arc<Rule>> {
    Seen {
        id: id(&rule.id),
        uid: rule.uid.clone(),
        version,
        value: Arc::new(rule.clone()),
    }
}

fn object<V>(namespace: &str, name: &str, version: u64, value: V) -> Seen<V> {
    Seen {
        id: (namespace.to_owned(), name.to_owned()),
        uid: format!("uid-of-{namespace}-{name}").into(),
        version,
        value,
    }
}

fn keys(list: &[(&str, &str)]) -> BTreeSet<BindingKey> {
    list.iter()
        .map(|(namespace, name)| BindingKey::new((*namespace).to_owned(), (*name).to_owned()))
        .collect()
}

#[test]
fn a_change_of_the_spec_concerns_the_binding_and_whoever_binds_the_same_service() {
    let world = world();
    assert_eq!(
        world.bindings(event(named("shop", "web", 1))).now,
        keys(&[("shop", "web")])
    );
    let mut rival = named("shop", "rival", 2);
    rival.spec.service_name = "web".to_owned();
    let concerned = world.bindings(event(rival));
    assert_eq!(concerned.now, keys(&[("shop", "rival"), ("shop", "web")]));
}

#[test]
fn a_touch_that_no_look_would_see_concerns_nobody() {
    let world = world();
    world.bindings(event(named("shop", "web", 1)));
    let mut touched = named("shop", "web", 2);
    touched.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert_eq!(world.bindings(event(touched)), Concerned::default());
}

#[test]
fn a_binding_that_goes_concerns_its_rivals_and_is_forgotten() {
    let world = world();
    let mut rival = named("shop", "rival", 1);
    rival.spec.service_name = "web".to_owned();
    world.bindings(event(rival));
    world.bindings(event(named("shop", "web", 2)));
    let gone = named("shop", "web", 3);
    let metadata = gone.metadata.clone();
    let concerned = world.bindings(Event::Delete(seen(&metadata, Arc::new(gone))));
    assert_eq!(concerned.gone, keys(&[("shop", "web")]));
    assert_eq!(concerned.now, keys(&[("shop", "rival")]));
    assert_eq!(world.keys(), Vec::from_iter(keys(&[("shop", "rival")])));
}

#[test]
fn a_service_concerns_the_bindings_that_name_it_from_wherever() {
    let world = world();
    let mut elsewhere = named("clients", "web", 1);
    elsewhere.spec.namespace = Some("shop".to_owned());
    world.bindings(event(elsewhere));
    world.bindings(event(named("shop", "api", 2)));
    let change = Event::Apply(object("shop", "web", 3, ServiceView::default()));
    assert_eq!(world.services(change).now, keys(&[("clients", "web")]));
    let same = Event::Apply(object("shop", "web", 4, ServiceView::default()));
    assert_eq!(world.services(same), Concerned::default());
}

#[test]
fn a_namespace_concerns_bindings_in_it_and_into_it_and_the_operators_own_all() {
    let world = world();
    let mut into = named("clients", "web", 1);
    into.spec.namespace = Some("shop".to_owned());
    world.bindings(event(into));
    world.bindings(event(named("shop", "api", 2)));
    world.bindings(event(named("other", "db", 3)));
    let paused = |name: &str, version| {
        Event::Apply(object(
            "",
            name,
            version,
            NamespaceView {
                paused: true,
                ..NamespaceView::default()
            },
        ))
    };
    let concerned = world.namespaces(paused("shop", 4));
    assert_eq!(concerned.now, keys(&[("clients", "web"), ("shop", "api")]));
    assert_eq!(world.namespaces(paused("operators", 5)).now.len(), 3);
}

#[test]
fn a_rule_concerns_the_binding_of_its_name_and_those_whose_host_it_claims_or_claimed() {
    let world = world();
    for (name, version) in [("web", 1), ("api", 2)] {
        world.bindings(event(named("shop", name, version)));
    }
    let mut stray = foreign(VirtualService, "clients", "stray", HOST);
    let concerned = world.rules(VirtualService, Event::Apply(rule(&stray, 3)));
    assert_eq!(concerned.now, keys(&[("shop", "web")]));
    stray.hosts = ["api.shop.svc.cluster.local".into()].into();
    let concerned = world.rules(VirtualService, Event::Apply(rule(&stray, 4)));
    assert_eq!(concerned.now, keys(&[("shop", "api"), ("shop", "web")]));
    let wildcard = foreign(
        DestinationRule,
        "istio-system",
        "wild",
        "*.svc.cluster.local",
    );
    let concerned = world.rules(DestinationRule, Event::Apply(rule(&wildcard, 5)));
    assert_eq!(concerned.now, keys(&[("shop", "api"), ("shop", "web")]));
}

#[test]
fn what_a_look_sees_are_the_rules_of_its_name_and_those_that_claim_its_host() {
    let world = world();
    world.bindings(event(named("shop", "web", 1)));
    let other = foreign(
        VirtualService,
        "clients",
        "other",
        "api.shop.svc.cluster.local",
    );
    for (kind, seen, version) in [
        (DestinationRule, ours(DestinationRule), 2),
        (
            VirtualService,
            foreign(VirtualService, "clients", "stray", HOST),
            3,
        ),
        (VirtualService, other, 4),
        (
            DestinationRule,
            foreign(DestinationRule, "istio-system", "wild", "*.local"),
            5,
        ),
    ] {
        world.rules(kind, Event::Apply(rule(&seen, version)));
    }
    let binding = world.binding(&BindingKey::new("shop", "web")).unwrap();
    let target = Target::of("shop", &binding.spec).unwrap();
    let inputs = world.inputs(binding, &target);
    let mut names: Vec<_> = inputs
        .rules
        .iter()
        .map(|rule| rule.id.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["stray", "web", "wild"]);
}

#[test]
fn our_own_write_concerns_nobody_when_the_watch_tells_of_it() {
    let world = world();
    world.bindings(event(named("shop", "web", 1)));
    let written = ours(VirtualService);
    world.wrote_rule(VirtualService, rule(&written, 9));
    let concerned = world.rules(VirtualService, Event::Apply(rule(&written, 9)));
    assert_eq!(concerned, Concerned::default());
    // A stranger's touch of the same object is news, unless it changes nothing.
    let mut edited = written.clone();
    edited.resource_version = "10".into();
    assert_eq!(
        world.rules(VirtualService, Event::Apply(rule(&edited, 10))),
        Concerned::default()
    );
    edited.generation += 1;
    let concerned = world.rules(VirtualService, Event::Apply(rule(&edited, 11)));
    assert_eq!(concerned.now, keys(&[("shop", "web")]));
}

#[tokio::test]
async fn the_world_is_complete_when_all_was_listed_or_is_known_to_be_missing() {
    let world = world();
    world.bindings(Event::Init);
    world.bindings(Event::InitDone);
    world.services(Event::Init);
    world.services(Event::InitDone);
    world.namespaces(Event::Init);
    world.namespaces(Event::InitDone);
    world.rules(VirtualService, Event::Init);
    world.rules(VirtualService, Event::InitDone);
    let mut complete = Box::pin(world.complete());
    assert!(futures::poll!(&mut complete).is_pending());
    world.rules_missing(DestinationRule, WHOLE, no_such_kind());
    complete.await;
}

#[tokio::test]
async fn who_serves_behind_services_is_waited_for_by_itself_and_each_list_is_a_gate() {
    let world = world();
    let open = |world: &World| {
        WATCHED
            .into_iter()
            .filter(|kind| world.listed(*kind))
            .count()
    };
    assert_eq!(open(&world), 0);
    let mut listed = Box::pin(world.slices_listed());
    world.slices(Event::Init);
    assert!(futures::poll!(&mut listed).is_pending());
    world.slices(Event::InitDone);
    listed.await;
    assert!(world.listed(Watched::EndpointSlices));
    world.rules_missing(VirtualService, WHOLE, no_such_kind());
    assert!(world.listed(Watched::VirtualServices));
    for event in [Event::Init, Event::InitDone] {
        world.pods(event);
    }
    assert_eq!(open(&world), 3);
    let gates: BTreeSet<_> = WATCHED.into_iter().map(Watched::gate).collect();
    assert_eq!(gates.len(), WATCHED.len());
}

#[test]
fn only_a_change_of_the_binding_itself_is_an_edit() {
    let world = world();
    let me = keys(&[("shop", "web")]);
    assert_eq!(world.bindings(event(named("shop", "web", 1))).edited, me);
    let mut annotated = named("shop", "web", 2);
    annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    let concerned = world.bindings(event(annotated.clone()));
    assert_eq!((concerned.now, concerned.edited), (me.clone(), keys(&[])));
    annotated.metadata.resource_version = Some("3".to_owned());
    annotated.metadata.generation = annotated.metadata.generation.map(|g| g + 1);
    assert_eq!(world.bindings(event(annotated)).edited, me);
}

#[test]
fn a_kind_is_missing_until_a_list_of_it_succeeds_and_then_concerns_everybody() {
    let world = world();
    world.bindings(event(named("shop", "web", 1)));
    let missing = || {
        let binding = Arc::new(named("shop", "web", 1));
        let target = Target::of("shop", &binding.spec).unwrap();
        world.inputs(binding, &target).mesh_api_missing
    };
    let concerned = world.rules_missing(VirtualService, WHOLE, no_such_kind());
    assert_eq!(concerned.listed, keys(&[("shop", "web")]));
    let again = world.rules_missing(VirtualService, WHOLE, no_such_kind());
    assert_eq!(again, Concerned::default(), "that is no news");
    assert_eq!(
        world.rules(VirtualService, Event::Init),
        Concerned::default()
    );
    assert_eq!(missing().as_deref(), Some("404"));
    let concerned = world.rules(VirtualService, Event::InitDone);
    assert_eq!(concerned.listed, keys(&[("shop", "web")]));
    assert_eq!(missing(), None);
}

#[test]
fn a_binding_that_can_no_longer_be_decoded_is_what_it_last_was() {
    let world = world();
    let known = named("shop", "web", 1);
    world.bindings(event(known.clone()));
    let mut metadata = known.metadata.clone();
    metadata.resource_version = Some("2".to_owned());
    metadata.generation = Some(99);
    let last = world.last_readable(&metadata).unwrap();
    assert_eq!(last.spec, known.spec);
    assert_eq!(last.metadata.resource_version.as_deref(), Some("2"));
    assert_eq!(last.metadata.generation, known.metadata.generation);
    metadata.uid = Some("of another object of that name".to_owned());
    assert!(world.last_readable(&metadata).is_none());
}

#[test]
fn the_owner_of_a_rule_lives_though_it_cannot_be_decoded() {
    let world = world();
    let heir = named("shop", "web", 1);
    let target = Target::of("shop", &heir.spec).unwrap();
    let mut theirs = ours(VirtualService);
    theirs.id = ObjectKey::new("shop", "web");
    theirs.binding_uid = Some("uid-of-shop-poison".into());
    world.rules(VirtualService, Event::Apply(rule(&theirs, 1)));
    let living = || world.inputs(Arc::new(heir.clone()), &target).living;
    assert!(living().is_empty());
    world.unreadable(Event::Apply(object("shop", "poison", 2, String::new())));
    assert!(living().contains(&"uid-of-shop-poison".into()));
    world.unreadable(Event::Init);
    assert!(
        living().contains(&"uid-of-shop-poison".into()),
        "not before the list ends"
    );
    world.unreadable(Event::InitDone);
    assert!(living().is_empty());
}

#[test]
fn what_surrounds_a_service_is_who_binds_it_and_who_has_its_name() {
    let world = world();
    let service = |name: &str| {
        Target::of("shop", &named("shop", name, 0).spec)
            .unwrap()
            .service
    };
    let mut named_otherwise = named("shop", "mine", 1);
    named_otherwise.spec.service_name = "web".to_owned();
    let concerned = world.bindings(event(named_otherwise));
    let both = ["mine", "web"].map(|name| ("shop".to_owned(), name.to_owned()));
    assert_eq!(concerned.services, BTreeSet::from(both));

    let web = world.around(&service("web"));
    assert_eq!(web.bindings.len(), 1);
    assert!(!web.bindings[0].0.made_for_catalog && !web.name_taken);
    let mine = world.around(&service("mine"));
    assert!(mine.bindings.is_empty() && mine.name_taken);

    assert_eq!(
        (web.service, web.namespace, web.all_paused),
        (None, None, false)
    );
    let paused = NamespaceView {
        paused: true,
        ..NamespaceView::default()
    };
    let concerned = world.namespaces(Event::Apply(object("", "operators", 2, paused)));
    assert!(concerned.all && world.around(&service("web")).all_paused);
    let seen = object("shop", "web", 3, ServiceView::default());
    let concerned = world.services(Event::Apply(seen));
    assert_eq!(concerned.services.len(), 1);
    assert!(world.around(&service("web")).service.is_some());
}

#[test]
fn whoever_makes_a_binding_his_own_changes_it() {
    let world = world();
    let mut made = named("shop", "web", 1);
    made.metadata.labels = Some(
        [(
            "catalog-mesh.aikernel.io/source".to_owned(),
            "catalog".to_owned(),
        )]
        .into(),
    );
    world.bindings(event(made));
    let concerned = world.bindings(event(named("shop", "web", 2)));
    assert_eq!(concerned.now, keys(&[("shop", "web")]));
}

#[test]
fn a_namespace_is_concerned_when_it_is_first_known_who_binds_its_services() {
    let world = serving(&["shop", "late"]);
    let listed = |namespace: &str| {
        world.bindings(Told::of(namespace, Event::Init));
        world.bindings(Told::of(namespace, Event::InitDone))
    };
    // Its Services came before, and were hidden until now.
    let concerned = listed("late");
    assert_eq!(concerned.namespaces, BTreeSet::from(["late".to_owned()]));
    assert_eq!(listed("late"), Concerned::default(), "that is no news");
}

#[test]
fn who_may_bind_from_a_namespace_that_was_not_listed_is_not_taken_for_absent() {
    let world = serving(&["shop", "billing"]);
    let allowing = NamespaceView {
        allow_from: BTreeSet::from(["billing".to_owned()]),
        ..NamespaceView::default()
    };
    world.namespaces(Event::Apply(object("", "shop", 1, allowing.clone())));
    let heir = named("shop", "web", 2);
    let target = Target::of("shop", &heir.spec).unwrap();
    let view = object("shop", "web", 3, ServiceView::default());
    world.services(Told::of("shop", Event::Apply(view)));
    let mut theirs = ours(VirtualService);
    theirs.binding_uid = Some("uid-of-billing-web".into());
    let theirs = Event::Apply(rule(&theirs, 4));
    world.rules(VirtualService, Told::of("shop", theirs));
    world.bindings(Told::of("shop", Event::Init));
    let Event::Apply(seen) = event(heir.clone()) else {
        unreachable!()
    };
    world.bindings(Told::of("shop", Event::InitApply(seen)));
    world.bindings(Told::of("shop", Event::InitDone));
    let known = || {
        let living = world.inputs(Arc::new(heir.clone()), &target).living;
        let registers = world.around(&target.service).service.is_some();
        (living.contains(&"uid-of-billing-web".into()), registers)
    };
    assert_eq!(known(), (true, false));

    // Whoever is no longer allowed counts for nothing.
    let shut = NamespaceView::default();
    world.namespaces(Event::Apply(object("", "shop", 5, shut)));
    assert_eq!(known(), (false, true));

    world.namespaces(Event::Apply(object("", "shop", 6, allowing)));
    world.bindings(Told::of("billing", Event::Init));
    let concerned = world.bindings(Told::of("billing", Event::InitDone));
    assert_eq!(known(), (false, true));
    let both = ["billing", "shop"].map(str::to_owned);
    assert_eq!(concerned.namespaces, BTreeSet::from(both));
    assert_eq!(concerned.listed, keys(&[("shop", "web")]));
}

#[test]
fn the_latest_of_a_binding_is_the_one_at_hand_until_there_is_another() {
    let world = world();
    let key = BindingKey::new("shop", "web");
    drop(world.bindings(event(named("shop", "web", 5))));
    let at_hand = world.binding(&key).unwrap();
    let latest = world.latest(&key, &at_hand).unwrap();
    assert!(Arc::ptr_eq(&latest, &at_hand), "it is not unpacked again");
    let mut labelled = named("shop", "web", 6);
    labelled.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    drop(world.bindings(event(labelled.clone())));
    assert_eq!(world.latest(&key, &at_hand).as_deref(), Some(&labelled));
    // Another one of the same name, and one that says no version.
    let mut other = ServiceBinding::clone(&labelled);
    other.metadata.uid = Some("another".to_owned());
    other.metadata.labels = None;
    assert_eq!(
        world.latest(&key, &Arc::new(other)).as_deref(),
        Some(&labelled)
    );
    let mut unnumbered = labelled.clone();
    unnumbered.metadata.resource_version = None;
    unnumbered.metadata.labels = None;
    let latest = world.latest(&key, &Arc::new(unnumbered));
    assert_eq!(latest.as_deref(), Some(&labelled));
    assert_eq!(
        world.latest(&BindingKey::new("shop", "gone"), &at_hand),
        None
    );
}

#[test]
fn the_changes_of_endpoints_that_a_status_tells_of_are_known_of_the_binding() {
    let world = world();
    let key = BindingKey::new("shop", "web");
    assert_eq!(world.transitions(&key), []);
    drop(world.bindings(event(named("shop", "web", 5))));
    assert_eq!(world.transitions(&key), []);
    let told = EndpointTransition {
        address: "10.0.0.1:80".to_owned(),
        pod: None,
        to: EndpointState::Unhealthy,
        why: None,
        time: Time(Timestamp::UNIX_EPOCH),
    };
    let mut telling = named("shop", "web", 6);
    telling.status.get_or_insert_default().endpoint_transitions = vec![told.clone()];
    drop(world.bindings(event(telling)));
    assert_eq!(world.transitions(&key), [told]);
}
