//! From what is known of all services and Pods to what is to be written.
//!
//! 1. Only who is named as a binding with checks wants Pods out; of any other
//!    binding, as one that is gone, what is out comes back. Of a binding of
//!    which it is not known yet, or that is held, all stays as it is.
//! 2. A verdict counts for the Pod that it was found for: of another Pod that
//!    took its name nothing is known.
//! 3. A binding that only observes wants nothing; what would happen for it is
//!    worked out beside, and said.
//! 4. Nobody leaves in the place of somebody who is not back yet.
//! 5. Nothing is written to a Pod that is about to end, nor to one that is as
//!    it should be.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::at::At;
use super::ejection::{Member, Out, Plan, PodId, PodKey, Service, plan};
use super::judge::Verdict;
use super::mark::{self, Change, Note, Step, Whose};
use super::room::wait_for_room;
use crate::api::policy::EjectionMode;
use crate::domain::names::BindingKey;
use crate::domain::pod::KnownPod;
use crate::domain::policy::HealthCheck;

/// A bound service whose endpoints are checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its endpoints and what is held of them. Whether it ejects follows from
    /// the mode; a binding that is suspended or paused is held.
    pub service: Service,
    /// What happens to an unhealthy endpoint of it.
    pub mode: EjectionMode,
}

/// All that is known of who is checked.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Every binding with checks. Shared with whoever keeps them, since most do not
    /// change from one time to the next.
    pub services: Vec<Arc<Checked>>,
    /// Bindings of which it is not known yet whether they have checks, as
    /// before the catalog was heard for the first time, and those whose checks ended
    /// while they were frozen.
    pub unsettled: BTreeSet<BindingKey>,
}

/// What happens to an unhealthy endpoint: what its own check says, else what the
/// operator was started with.
pub fn mode(check: &HealthCheck, flag: EjectionMode) -> EjectionMode {
    check.ejection.unwrap_or(flag)
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// Who is to be out.
    pub plan: Plan,
    /// What is to be written for that.
    pub steps: Vec<Step>,
    /// How many are to leave once somebody is back.
    pub waiting: usize,
    /// Who would be out besides, were it not only observed.
    pub would: BTreeMap<PodKey, BTreeSet<BindingKey>>,
}

/// Decides. `marked` are all Pods that bear a mark, `find` finds any, and
/// `would` is who would have been out until now.
pub fn decide(
    known: &Known,
    marked: &BTreeMap<PodKey, KnownPod>,
    find: impl Fn(&PodKey) -> Option<KnownPod>,
    would: &BTreeMap<PodKey, BTreeSet<BindingKey>>,
    now: Timestamp,
) -> Decided {
    let out = marked.iter();
    let out = out.filter_map(|(key, pod)| Some((key.clone(), mark::out(&pod.view)?)));
    let mut out: BTreeMap<PodKey, Out> = out.collect();
    let out_for = out_for(&out);
    let mut services: Vec<Cow<'_, Service>> = Vec::with_capacity(known.services.len());
    for checked in &known.services {
        let mut service = Cow::Borrowed(&checked.service);
        let ejects = checked.mode == EjectionMode::Draining;
        if service.ejects != ejects {
            service.to_mut().ejects = ejects;
        }
        let bad = |member: &Member| matches!(member.verdict, Verdict::Unhealthy(_));
        // Where nobody is unhealthy nobody leaves, whoever they are.
        if service.members.iter().any(bad) {
            for member in &mut service.to_mut().members {
                if find(&member.pod).is_none_or(|pod| pod.uid != member.pod.uid) {
                    member.verdict = Verdict::Pending;
                }
            }
        }
        if service.held {
            keep_out(&mut service, &out_for, marked);
        }
        services.push(service);
    }
    let unsettled = known.unsettled.iter().map(unsettled).filter_map(|service| {
        let mut service = Cow::Owned(service);
        keep_out(&mut service, &out_for, marked);
        (!service.members.is_empty()).then_some(service)
    });
    services.extend(unsettled);
    let decided = plan(&services, &out);
    let all: Vec<&Service> = services.iter().map(AsRef::as_ref).collect();
    let mut steps = steps(&decided, &all, marked, &find, now);
    let waiting = wait_for_room(&mut steps, &all, &out);
    let would = observed(known, &mut services, &mut out, &decided, would);
    Decided {
        plan: decided,
        steps,
        waiting,
        would,
    }
}

/// A binding of which nothing is known yet, so that it is held.
fn unsettled(binding: &BindingKey) -> Service {
    Service {
        binding: binding.clone(),
        ejects: false,
        proven: false,
        held: true,
        percent: 100,
        members: Vec::new(),
    }
}

/// The Pods that are out for each binding.
fn out_for(out: &BTreeMap<PodKey, Out>) -> BTreeMap<&BindingKey, Vec<&PodKey>> {
    let mut all: BTreeMap<&BindingKey, Vec<&PodKey>> = BTreeMap::new();
    for (pod, out) in out {
        if let Out::Ours(bindings) = out {
            for binding in bindings {
                all.entry(binding).or_default().push(pod);
            }
        }
    }
    all
}

/// Who is out for a service that is held stays out, also where it is no endpoint
/// of it any more.
fn keep_out(
    service: &mut Cow<'_, Service>,
    out_for: &BTreeMap<&BindingKey, Vec<&PodKey>>,
    marked: &BTreeMap<PodKey, KnownPod>,
) {
    let pods = out_for.get(&service.binding).into_iter().flatten();
    for pod in pods {
        let is_member = service.members.iter().any(|member| member.pod.key == **pod);
        let Some(known) = marked.get(*pod).filter(|_| !is_member) else {
            continue;
        };
        let member = Member {
            pod: PodId::shared((*pod).clone(), known.uid.clone()),
            ready: known.view.ready,
            verdict: Verdict::Pending,
            since: At::default(),
        };
        service.to_mut().members.push(member);
    }
}

/// What would happen, were those that observe to eject.
fn observed(
    known: &Known,
    services: &mut [Cow<'_, Service>],
    out: &mut BTreeMap<PodKey, Out>,
    decided: &Plan,
    before: &BTreeMap<PodKey, BTreeSet<BindingKey>>,
) -> BTreeMap<PodKey, BTreeSet<BindingKey>> {
    let observes = |checked: &Checked| checked.mode == EjectionMode::Observe;
    if !known.services.iter().any(|checked| observes(checked)) {
        return BTreeMap::new();
    }
    for (service, checked) in services.iter_mut().zip(&known.services) {
        if observes(checked) {
            service.to_mut().ejects = true;
        }
    }
    for (pod, bindings) in before {
        match out.entry(pod.clone()).or_insert(Out::Ours(BTreeSet::new())) {
            Out::Ours(of) => of.extend(bindings.iter().cloned()),
            Out::Others => {}
        }
    }
    let all = plan(services, out).out.into_iter();
    let more = all.filter_map(|(pod, mut bindings)| {
        if let Some(really) = decided.out.get(&pod) {
            bindings.retain(|binding| !really.contains(binding));
        }
        (!bindings.is_empty()).then_some((pod, bindings))
    });
    more.collect()
}

fn steps(
    plan: &Plan,
    services: &[&Service],
    marked: &BTreeMap<PodKey, KnownPod>,
    find: impl Fn(&PodKey) -> Option<KnownPod>,
    now: Timestamp,
) -> Vec<Step> {
    let mut behind: BTreeMap<&PodKey, Vec<(&Service, &Member)>> = BTreeMap::new();
    for &service in services {
        for member in &service.members {
            let concerns = plan.out.contains_key(&member.pod) || marked.contains_key(&member.pod);
            if concerns {
                behind
                    .entry(&member.pod)
                    .or_default()
                    .push((service, member));
            }
        }
    }
    let new = plan.out.keys().filter(|pod| !marked.contains_key(*pod));
    let new = new.filter_map(|key| Some((key.clone(), find(key)?)));
    let all = marked.iter().map(|(key, pod)| (key.clone(), pod.clone()));
    let mut steps = Vec::new();
    for (key, pod) in all.chain(new) {
        let members = behind.get(&key).map(Vec::as_slice).unwrap_or_default();
        let Some(change) = change(plan.out.get(&key), &pod, members, now) else {
            continue;
        };
        let behind = members.iter().map(|(service, _)| service.binding.clone());
        let noted = mark::ours(&pod.view).map(|note| note.bindings);
        steps.push(Step {
            bindings: behind.chain(noted.into_iter().flatten()).collect(),
            pod: key,
            uid: pod.uid,
            version: pod.version,
            marks: pod.view.marks,
            change,
        });
    }
    // Who comes back makes room, and is missed by somebody.
    steps.sort_by_key(|step| matches!(step.change, Change::Eject(_)));
    steps
}

/// What is to be done to the Pod for these bindings to have it out, or nobody.
fn change(
    wanted: Option<&BTreeSet<BindingKey>>,
    pod: &KnownPod,
    behind: &[(&Service, &Member)],
    now: Timestamp,
) -> Option<Change> {
    if pod.view.terminating {
        return None;
    }
    let note = |bindings: &BTreeSet<BindingKey>, since| Note {
        bindings: bindings.clone(),
        since,
        why: why(bindings, behind),
    };
    match (mark::whose(&pod.view), wanted) {
        (Whose::Nobodys | Whose::LeftOver(false), Some(bindings)) => {
            Some(Change::Eject(note(bindings, now)))
        }
        (Whose::Ours, Some(bindings)) => match mark::ours(&pod.view) {
            Some(known) if known.bindings == *bindings => None,
            Some(known) => Some(Change::Note(Note {
                bindings: bindings.clone(),
                ..known
            })),
            None => Some(Change::Note(note(bindings, now))),
        },
        (Whose::Ours, None) => Some(Change::Release),
        (Whose::LeftOver(_), _) => Some(Change::Forget),
        (Whose::Nobodys | Whose::Others, _) => None,
    }
}

/// Why these bindings want it out: what the first of them holds of it.
fn why(bindings: &BTreeSet<BindingKey>, behind: &[(&Service, &Member)]) -> String {
    let mut held = behind
        .iter()
        .filter(|(service, _)| bindings.contains(&service.binding))
        .filter_map(|(_, member)| match member.verdict {
            Verdict::Unhealthy(failure) => Some(failure.to_string()),
            _ => None,
        });
    held.next()
        .unwrap_or_else(|| "it failed its health check".to_owned())
}

#[cfg(test)]
mod tests;
