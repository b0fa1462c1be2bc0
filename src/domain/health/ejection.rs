//! Which Pods leave the mesh, and which come back?
//!
//! 1. A service that ejects wants those of its ready endpoints out that are
//!    unhealthy, and goes on wanting those out that are out because of it and
//!    were not judged anew since, as after a restart.
//! 2. Nobody new goes before an endpoint of the service has ever answered this
//!    check, nor while none of its endpoints is healthy, nor by what was found
//!    while none was (that counts as not judged). One that somebody else took
//!    out is none of them: it gets no requests, however healthy it is.
//! 3. While verdicts are held nobody goes and nobody comes back.
//! 4. Where no ready endpoint answers and none is yet to be judged, again but for
//!    those that somebody else took out, all come back: whoever cannot be told
//!    apart is not to be told off.
//! 5. The floor: of the ready endpoints at most a share is out, rounded down,
//!    and never the last one. Those that somebody else took out count. Whoever
//!    is out stays before somebody new goes; of the new the one goes first
//!    that is unhealthy for longest.
//! 6. A Pod behind several bound services goes only where each one's floor
//!    lets it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use super::at::At;
use super::judge::Verdict;
use crate::domain::names::BindingKey;
use crate::domain::uid::Uid;

/// Namespace and name of a Pod: shared, since there are many.
pub type PodKey = (Arc<str>, Arc<str>);

/// One Pod, which another one of its name is not. Shared by who is checked and who is
/// decided on, since there are many.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PodId {
    /// Its namespace and name.
    pub key: PodKey,
    /// Its uid; empty where that does not matter.
    pub uid: Uid,
}

impl PodId {
    /// The one of that uid, to be shared.
    pub fn shared(key: PodKey, uid: impl Into<Uid>) -> Arc<Self> {
        let uid = uid.into();
        Arc::new(Self { key, uid })
    }
}

impl Deref for PodId {
    type Target = PodKey;

    fn deref(&self) -> &PodKey {
        &self.key
    }
}

/// What a bound service has to say about its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its binding.
    pub binding: BindingKey,
    /// Whether Pods are taken out for it.
    pub ejects: bool,
    /// Whether an endpoint of it has ever answered this check as it should.
    pub proven: bool,
    /// Whether its verdicts are held.
    pub held: bool,
    /// Share of the ready endpoints that may be out, in percent.
    pub percent: u8,
    /// The Pods behind it.
    pub members: Vec<Member>,
}

/// A Pod behind a service.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which. What was found of another one of its name says nothing of it.
    pub pod: Arc<PodId>,
    /// Whether it is ready, and so in the mesh unless it was taken out.
    pub ready: bool,
    /// What is held of it as an endpoint of this service.
    pub verdict: Verdict,
    /// Since when.
    pub since: At,
}

/// Who took a Pod out of the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Out {
    /// We did, for these bindings.
    Ours(BTreeSet<BindingKey>),
    /// Somebody else did.
    Others,
}

/// Who is to be out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Pod → the bindings that want it out. All others of ours come back.
    pub out: BTreeMap<PodKey, BTreeSet<BindingKey>>,
    /// Bindings whose unhealthy endpoints stay in the mesh for want of room,
    /// and how many of them.
    pub floored: BTreeMap<BindingKey, u32>,
    /// Bindings of which no endpoint answers.
    pub opened: BTreeSet<BindingKey>,
    /// Pods that somebody else took out.
    pub others: BTreeSet<PodKey>,
}

/// What became of the unhealthy endpoints of one service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stays {
    /// Pods that are out of the mesh because of it.
    pub ejected: u32,
    /// Unhealthy ones that stay for want of room.
    pub floored: u32,
    /// Whether all stay, since none answers.
    pub opened: bool,
}

/// How many of so many ready endpoints may be out.
pub fn most_out(ready: usize, percent: u8) -> usize {
    (ready * usize::from(percent.min(100)) / 100).min(ready.saturating_sub(1))
}

/// Decides for services that may have Pods in common, and for the Pods that
/// are out now.
pub fn plan<S: Borrow<Service>>(services: &[S], now_out: &BTreeMap<PodKey, Out>) -> Plan {
    let services: Vec<&Service> = services.iter().map(Borrow::borrow).collect();
    let others = now_out.iter().filter(|(_, out)| **out == Out::Others);
    let mut plan = Plan {
        others: others.map(|(pod, _)| pod.clone()).collect(),
        ..Plan::default()
    };
    let mut room: BTreeMap<&BindingKey, usize> = BTreeMap::new();
    let mut wishes: BTreeMap<&PodKey, Wish<'_>> = BTreeMap::new();
    for service in &services {
        let ready = service.members.iter().filter(|member| member.ready);
        let others = ready.clone().filter(|member| is_others(now_out, member));
        let most = most_out(ready.clone().count(), service.percent);
        room.insert(&service.binding, most.saturating_sub(others.count()));
        if is_open(service, now_out) {
            plan.opened.insert(service.binding.clone());
            continue;
        }
        let anybody_healthy =
            gets_requests(service, now_out).any(|m| m.verdict == Verdict::Healthy);
        for member in &service.members {
            if is_others(now_out, member) {
                continue;
            }
            let ours = is_ours(now_out, service, member);
            let wanted = match member.verdict {
                _ if service.held => ours,
                _ if !service.ejects => false,
                Verdict::Unhealthy(_) => {
                    ours || (member.ready && service.proven && anybody_healthy)
                }
                Verdict::Pending => ours,
                Verdict::Healthy | Verdict::Unknown(_) => false,
            };
            if wanted {
                let wish = wishes.entry(&member.pod).or_insert_with(|| Wish {
                    fixed: false,
                    new: true,
                    since: member.since,
                    of: BTreeSet::new(),
                });
                wish.fixed |= service.held;
                wish.new &= !ours;
                wish.since = wish.since.min(member.since);
                wish.of.insert(&service.binding);
            }
        }
    }
    let behind_of = behind_of(&services, &wishes);
    let mut order: Vec<_> = wishes.into_iter().collect();
    order.sort_by_key(|(pod, wish)| (!wish.fixed, wish.new, wish.since, *pod));
    for (pod, wish) in order {
        let behind = behind_of.get(pod).map(Vec::as_slice).unwrap_or_default();
        let has_room = |service: &&Service| {
            let left = room.get(&service.binding).is_some_and(|left| *left > 0);
            left && !(service.held && wish.new)
        };
        if !wish.fixed && !behind.iter().all(has_room) {
            for binding in wish.of {
                *plan.floored.entry(binding.clone()).or_default() += 1;
            }
            continue;
        }
        for service in behind {
            if let Some(left) = room.get_mut(&service.binding) {
                *left = left.saturating_sub(1);
            }
        }
        let of = wish.of.into_iter().cloned().collect();
        plan.out.insert(pod.clone(), of);
    }
    plan
}

/// That services want a Pod out.
struct Wish<'a> {
    /// It stays out whatever else holds.
    fixed: bool,
    /// It is not out yet.
    new: bool,
    since: At,
    of: BTreeSet<&'a BindingKey>,
}

/// Whether no ready endpoint answers, and none is yet to be judged.
fn is_open(service: &Service, now_out: &BTreeMap<PodKey, Out>) -> bool {
    let mut ready = gets_requests(service, now_out).peekable();
    let silent =
        |member: &Member| matches!(member.verdict, Verdict::Unhealthy(_) | Verdict::Unknown(_));
    !service.held && ready.peek().is_some() && ready.all(silent)
}

/// Who gets requests, or would if we had not taken it out.
fn gets_requests<'a>(
    service: &'a Service,
    now_out: &'a BTreeMap<PodKey, Out>,
) -> impl Iterator<Item = &'a Member> {
    let ready = service.members.iter().filter(|member| member.ready);
    ready.filter(|member| !is_others(now_out, member))
}

/// For which services each of these Pods takes traffic, unless it is out: one
/// pass over all members, however many Pods there are.
fn behind_of<'a>(
    services: &[&'a Service],
    wishes: &BTreeMap<&'a PodKey, Wish<'_>>,
) -> BTreeMap<&'a PodKey, Vec<&'a Service>> {
    let mut all: BTreeMap<&PodKey, Vec<&Service>> = BTreeMap::new();
    for service in services {
        let ready = service.members.iter().filter(|member| member.ready);
        for member in ready.filter(|member| wishes.contains_key(&member.pod.key)) {
            let of = all.entry(&member.pod).or_default();
            if of.last().is_none_or(|last| !std::ptr::eq(*last, *service)) {
                of.push(service);
            }
        }
    }
    all
}

fn is_others(now_out: &BTreeMap<PodKey, Out>, member: &Member) -> bool {
    now_out.get(&member.pod) == Some(&Out::Others)
}

fn is_ours(now_out: &BTreeMap<PodKey, Out>, service: &Service, member: &Member) -> bool {
    match now_out.get(&member.pod) {
        Some(Out::Ours(bindings)) => bindings.contains(&service.binding),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
