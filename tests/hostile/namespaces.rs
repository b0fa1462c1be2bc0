//! Bindings that reach for other namespaces: whatever a binding, the record that
//! it names, its rivals and the rules around it say, what is written for it, or
//! removed, stands in a namespace that is its own or has allowed it.
//!
//! The world, the checks and the plans are those of the operator; only the
//! catalog's answer is put in. Every case comes of its own number, so that one
//! that fails can be had again.

use std::collections::BTreeSet;
use std::sync::Arc;

use catalog_mesh_controller::api::service_binding::{
    ChildStatus, DeletionPolicy, ServiceBinding, ServiceBindingSpec, ServiceBindingStatus,
};
use catalog_mesh_controller::controller::mirror::Seen;
use catalog_mesh_controller::controller::world::World;
use catalog_mesh_controller::domain::desired::MeshKind;
use catalog_mesh_controller::domain::health::wanted::{Wanted, wanted};
use catalog_mesh_controller::domain::inputs::{
    CatalogAnswer, Inputs, NamespaceView, ServiceView, Settings,
};
use catalog_mesh_controller::domain::names::{ClusterDomain, ObjectKey};
use catalog_mesh_controller::domain::plan::{self, Removal};
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::ports::ServicePort;
use catalog_mesh_controller::domain::record::ServiceRecord;
use catalog_mesh_controller::domain::rule::Rule;
use catalog_mesh_controller::domain::situation::Situation;
use catalog_mesh_controller::domain::uid::Uid;
use catalog_mesh_controller::domain::{build, reasons, validate};
use fastrand::Rng;
use kube_runtime::watcher::Event;
use serde_json::Value;

const CASES: u64 = 10_000;
const ME: &str = "uid-of-the-attackers";
/// Where the attacker may make bindings.
const OWN: &str = "attack";
const NAMESPACES: [&str; 6] = [
    OWN,
    "attack-2",
    "shop",
    "istio-system",
    "kube-system",
    "operators",
];
const SERVICES: [&str; 3] = ["web", "api", "kubernetes"];

/// What a text of a binding or record may be besides a plain name.
const ODD: [&str; 22] = [
    "",
    "*",
    ".",
    "..",
    "web.shop",
    "web.shop.svc.cluster.local",
    "*.shop.svc.cluster.local",
    "shop/web",
    "../shop",
    "Shop",
    "shop.",
    "-shop",
    "shop\n",
    "shop\u{0}",
    "ｓｈｏｐ",
    "shop,attack",
    "shop web",
    "169.254.169.254",
    "kubernetes.default.svc",
    "attack.shop",
    "web:80",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// What a Namespace may allow that does not allow the attacker.
const ALLOWS_OTHERS: [&str; 7] = [
    "attack-2", "attac", "ATTACK", "*", "attack*", "attack,x", "!attack",
];

#[derive(Debug, Default)]
struct Tally {
    at_home: u32,
    by_grant: u32,
    not_allowed: u32,
    no_name: u32,
    in_the_way: u32,
    otherwise: u32,
    removed: u32,
}

/// One case: the world, and the binding in it.
struct Case {
    world: World,
    binding: ServiceBinding,
    record: ServiceRecord,
    /// Which Namespaces have allowed the attacker, by themselves.
    allowed: BTreeSet<&'static str>,
    rules: Vec<Rule>,
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

fn seen<V>(namespace: &str, name: &str, uid: &str, value: V) -> Seen<V> {
    Seen {
        id: (namespace.to_owned(), name.to_owned()),
        uid: uid.into(),
        version: 1,
        value,
    }
}

fn settings() -> Settings {
    Settings {
        cluster_domain: ClusterDomain::parse("cluster.local").unwrap(),
        root_namespace: "istio-system".to_owned(),
        mesh_locality: false,
        served: catalog_mesh_controller::domain::served::Served::default(),
        bounds: Bounds::default(),
    }
}

/// A name, or something else, one time in so many.
fn name(rng: &mut Rng, plain: &[&str], one_in: u32) -> String {
    if rng.u32(..one_in) == 0 {
        pick(rng, &ODD).to_owned()
    } else {
        pick(rng, plain).to_owned()
    }
}

fn a_binding(rng: &mut Rng, namespace: &str, uid: &str) -> ServiceBinding {
    let spec = ServiceBindingSpec {
        catalog_service_id: name(rng, &["web-1", "shop.web"], 12),
        service_name: name(rng, &SERVICES, 6),
        namespace: match rng.u32(..4) {
            0 => None,
            1 => Some(OWN.to_owned()),
            _ => Some(name(rng, &NAMESPACES, 6)),
        },
        deletion_policy: rng.bool().then_some(DeletionPolicy::Retain),
        ..ServiceBindingSpec::default()
    };
    let mut binding = ServiceBinding::new(&name(rng, &["web", "mine", "shop.web"], 100), spec);
    binding.metadata.namespace = Some(namespace.to_owned());
    binding.metadata.uid = Some(uid.to_owned());
    binding.metadata.generation = Some(1);
    if rng.u32(..4) == 0 {
        let label = (
            "catalog-mesh.aikernel.io/source".to_owned(),
            "catalog".to_owned(),
        );
        binding.metadata.labels = Some([label].into());
    }
    binding
}

fn a_rule(rng: &mut Rng, number: usize) -> Rule {
    let namespace = pick(rng, &NAMESPACES);
    let short = pick(rng, &SERVICES);
    let host = match rng.u32(..6) {
        0 => "*".to_owned(),
        1 => format!("*.{}.svc.cluster.local", pick(rng, &NAMESPACES)),
        2 => short.to_owned(),
        _ => format!("{short}.{}.svc.cluster.local", pick(rng, &NAMESPACES)),
    };
    let uids = [
        None,
        Some(ME),
        Some("uid-of-another"),
        Some("uid-of-nobody"),
    ];
    Rule {
        kind: pick(rng, &[MeshKind::VirtualService, MeshKind::DestinationRule]),
        id: ObjectKey::new(namespace, pick(rng, &SERVICES)),
        uid: format!("uid-of-rule-{number}").into(),
        generation: 1,
        resource_version: "1".into(),
        managed: rng.bool(),
        binding_uid: pick(rng, &uids).map(Uid::from),
        adopt: rng.u32(..3) == 0,
        owners: pick(rng, &uids).map(Uid::from).into_iter().collect(),
        hosts: [host.into()].into(),
        mesh: rng.u32(..4) != 0,
    }
}

impl Case {
    fn new(number: u64) -> Self {
        let rng = &mut Rng::with_seed(number);
        let world = World::new(settings().cluster_domain, "operators".to_owned());
        let mut allowed = BTreeSet::from([OWN]);
        for namespace in NAMESPACES {
            let mut view = NamespaceView::default();
            view.allow_from.insert(pick(rng, &ALLOWS_OTHERS).to_owned());
            if rng.u32(..4) == 0 {
                view.allow_from.insert(OWN.to_owned());
                allowed.insert(namespace);
            }
            view.paused = rng.u32(..40) == 0;
            world.namespaces(Event::Apply(seen("", namespace, namespace, view)));
            for service in SERVICES {
                let view = ServiceView {
                    ports: vec![ServicePort {
                        name: Some("http".to_owned()),
                        app_protocol: None,
                        port: 80,
                        protocol: None,
                    }],
                    ..ServiceView::default()
                };
                world.services(Event::Apply(seen(namespace, service, service, view)));
            }
        }
        let rules: Vec<_> = (0..rng.usize(..3)).map(|n| a_rule(rng, n)).collect();
        for rule in &rules {
            let known = seen(
                &rule.id.namespace,
                &rule.id.name,
                &rule.uid.to_string(),
                Arc::new(rule.clone()),
            );
            world.rules(rule.kind, Event::Apply(known));
        }
        let mut binding = a_binding(rng, OWN, ME);
        if rng.bool() {
            let children = rules.iter().map(|rule| ChildStatus {
                kind: rule.kind.as_str().to_owned(),
                namespace: rule.id.namespace.clone(),
                name: rule.id.name.clone(),
                uid: rule.uid.to_string(),
                ..ChildStatus::default()
            });
            binding.status = Some(ServiceBindingStatus {
                children: children.collect(),
                ..ServiceBindingStatus::default()
            });
        }
        if rng.u32(..3) == 0 {
            let elsewhere = pick(rng, &NAMESPACES[1..]);
            let rival = a_binding(rng, elsewhere, "uid-of-another");
            know(&world, &rival);
        }
        know(&world, &binding);
        let record = ServiceRecord {
            id: binding.spec.catalog_service_id.clone(),
            name: name(rng, &SERVICES, 3),
            namespace: name(rng, &NAMESPACES, 3),
            labels: [(pick(rng, &ODD).to_owned(), pick(rng, &ODD).to_owned())].into(),
            timeout: Some("5s".to_owned()),
            revision: 1,
            health_check: rng.bool().then(Default::default),
            ..ServiceRecord::default()
        };
        Self {
            world,
            binding,
            record,
            allowed,
            rules,
        }
    }

    fn inputs(&self, target: &catalog_mesh_controller::domain::target::Target) -> Inputs {
        let mut inputs = self.world.inputs(Arc::new(self.binding.clone()), target);
        inputs.catalog = CatalogAnswer::Record(Arc::new(self.record.clone()));
        inputs
    }

    /// Goes the way of a look, and says what is wrong with what comes of it.
    fn look(&self, tally: &mut Tally) -> Result<(), String> {
        let settings = settings();
        let target = match validate::target(&self.binding) {
            Ok(target) => target,
            Err(_) => {
                tally.no_name += 1;
                return Ok(());
            }
        };
        let namespace = target.service.namespace.as_str();
        let is_allowed = self.allowed.contains(namespace);
        let inputs = self.inputs(&target);
        self.removal(&inputs, &target.service, tally)?;
        if let Some(situation) = validate::before_the_catalog(&inputs, &target, &settings) {
            match situation {
                Situation::Blocked { reason, .. } if reason == reasons::NAMESPACE_NOT_ALLOWED => {
                    tally.not_allowed += 1;
                    if is_allowed {
                        return Err(format!("{namespace} has allowed it"));
                    }
                    // Nobody is checked in there either.
                    return match wanted(&inputs, &target, &settings) {
                        Some(Wanted::NotInForce) => Ok(()),
                        checked => Err(format!("{checked:?}")),
                    };
                }
                _ => tally.in_the_way += 1,
            }
            return Ok(());
        }
        let valid = match validate::validate(&inputs, &target, &settings) {
            Ok(valid) => valid,
            Err(_) => {
                tally.otherwise += 1;
                return Ok(());
            }
        };
        if !is_allowed {
            return Err(format!("{namespace} has not allowed it"));
        }
        if namespace == OWN {
            tally.at_home += 1;
        } else {
            tally.by_grant += 1;
        }
        let planned = plan::plan(&inputs, &target.service, build::build(&valid.binding));
        if planned.writes.is_empty() && planned.kept.is_empty() {
            return Err("nothing is planned".to_owned());
        }
        let host = format!("{}.{namespace}.svc.cluster.local", target.service.name);
        for write in &planned.writes {
            let manifest = write.object.manifest("networking.istio.io/v1");
            let metadata = &manifest["metadata"];
            if metadata["namespace"] != namespace
                || metadata["name"] != target.service.name.as_str()
            {
                return Err(format!("it is written elsewhere: {manifest}"));
            }
            let owned = metadata.get("ownerReferences").is_some();
            if owned && namespace != OWN {
                return Err(format!("an owner in another namespace: {manifest}"));
            }
            let mut hosts = Vec::new();
            collect(&manifest["spec"], &mut hosts);
            if hosts.is_empty() || hosts.iter().any(|found| *found != host) {
                return Err(format!("{hosts:?} in {manifest}"));
            }
            for field in ["gateways", "exportTo", "tls", "tcp", "workloadSelector"] {
                if manifest["spec"].get(field).is_some() {
                    return Err(format!("{field} in {manifest}"));
                }
            }
        }
        Ok(())
    }

    /// What goes with the binding is marked as made for it, or was written for
    /// it by its status and has lost that mark; and it has the Service's name.
    fn removal(
        &self,
        inputs: &Inputs,
        service: &catalog_mesh_controller::domain::names::ServiceKey,
        tally: &mut Tally,
    ) -> Result<(), String> {
        for step in plan::removal(inputs, service, false) {
            tally.removed += 1;
            let (kind, namespace, name) = match &step {
                Removal::Delete {
                    kind,
                    namespace,
                    name,
                    ..
                }
                | Removal::Release {
                    kind,
                    namespace,
                    name,
                    ..
                } => (kind, namespace, name),
            };
            let rule = self.rules.iter().rev().find(|rule| {
                (rule.kind, &rule.id.namespace, &rule.id.name) == (*kind, namespace, name)
            });
            let rule = rule.ok_or_else(|| format!("of nothing: {step:?}"))?;
            let recorded = self
                .binding
                .status
                .iter()
                .flat_map(|status| &status.children)
                .any(|child| child.uid == rule.uid);
            let marked = match &rule.binding_uid {
                Some(uid) => *uid == ME.into() && (rule.managed || recorded),
                None => rule.managed && recorded,
            };
            let named = namespace == service.namespace.as_str() && name == service.name.as_str();
            if !marked || !named {
                return Err(format!("{step:?} of {rule:?}"));
            }
        }
        Ok(())
    }
}

fn know(world: &World, binding: &ServiceBinding) {
    let metadata = &binding.metadata;
    let known = seen(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
        Arc::new(binding.clone()),
    );
    world.bindings(Event::Apply(known));
}

/// Every host that stands anywhere in it.
fn collect<'a>(value: &'a Value, hosts: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("host", Value::String(host)) => hosts.push(host),
                    ("hosts", Value::Array(all)) => {
                        hosts.extend(all.iter().filter_map(Value::as_str))
                    }
                    _ => collect(value, hosts),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, hosts)),
        _ => {}
    }
}

#[test]
fn ten_thousand_bindings_put_nothing_into_a_namespace_that_has_not_allowed_it() {
    let mut tally = Tally::default();
    for number in 0..CASES {
        let case = Case::new(number);
        if let Err(wrong) = case.look(&mut tally) {
            panic!("case {number}: {wrong}\n{:?}", case.binding);
        }
    }
    // Each way was taken often enough to mean something.
    let Tally {
        at_home,
        by_grant,
        not_allowed,
        no_name,
        in_the_way,
        otherwise,
        removed,
    } = tally;
    for (count, least) in [
        (at_home, 1_000),
        (by_grant, 300),
        (not_allowed, 1_000),
        (no_name, 1_000),
        (in_the_way, 300),
        (removed, 50),
    ] {
        assert!(count >= least, "{tally:?}");
    }
    assert!(otherwise < 1_000, "{tally:?}");
}
