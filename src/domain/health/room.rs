//! Is there room already for whoever is to leave? Whoever is to come back is out
//! until that is written, which may take its turn or fail. If somebody left
//! meanwhile in his place, more would be out than may be, and perhaps all.

use std::collections::BTreeMap;

use super::ejection::{Out, PodKey, Service, most_out};
use super::mark::{Change, Step};

/// Takes those out of the steps that have to wait for others to come back;
/// `now_out` is who is out in truth. Returns how many wait.
pub fn wait_for_room(
    steps: &mut Vec<Step>,
    services: &[&Service],
    now_out: &BTreeMap<PodKey, Out>,
) -> usize {
    let leaves = |step: &Step| matches!(step.change, Change::Eject(_));
    if !steps.iter().any(leaves) {
        return 0;
    }
    let mut rooms: Vec<usize> = services
        .iter()
        .map(|service| left(service, now_out))
        .collect();
    let before = steps.len();
    steps.retain(|step| {
        if !leaves(step) {
            return true;
        }
        let is_behind = |service: &Service| {
            let mut ready = service.members.iter().filter(|member| member.ready);
            ready.any(|member| member.pod.key == step.pod)
        };
        let behind: Vec<_> = (0..services.len())
            .filter(|at| is_behind(services[*at]))
            .collect();
        let fits = behind.iter().all(|at| rooms[*at] > 0);
        if fits {
            behind.iter().for_each(|at| rooms[*at] -= 1);
        }
        fits
    });
    before - steps.len()
}

/// How many more of its ready endpoints may be out.
fn left(service: &Service, now_out: &BTreeMap<PodKey, Out>) -> usize {
    let ready = || service.members.iter().filter(|member| member.ready);
    let out = ready().filter(|member| now_out.contains_key(&member.pod));
    most_out(ready().count(), service.percent).saturating_sub(out.count())
}
