//! Rules for locality, as istiod has them: it refuses the whole rule for one
//! place that it cannot read. No IO.

use crate::api::policy::{Locality, LocalityDistribute, LocalityFailover};
use crate::domain::names::shown;

use super::LocalityWay;

/// Most entries in any list of a locality.
const MOST: usize = 64;

/// The way that the lists choose; none where all are empty.
pub(super) fn way(locality: &Locality) -> Result<Option<LocalityWay>, String> {
    let Locality {
        distribute,
        failover,
        failover_priority,
        ..
    } = locality;
    let given = [
        !distribute.is_empty(),
        !failover.is_empty(),
        !failover_priority.is_empty(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(
            "must have at most one of distribute, failover and failoverPriority".to_owned(),
        );
    }
    if distribute
        .len()
        .max(failover.len())
        .max(failover_priority.len())
        > MOST
    {
        return Err(format!("must have at most {MOST} entries"));
    }
    if !distribute.is_empty() {
        check_distribute(distribute)?;
        return Ok(Some(LocalityWay::Distribute(distribute.clone())));
    }
    if !failover.is_empty() {
        failover.iter().try_for_each(check_failover)?;
        return Ok(Some(LocalityWay::Failover(failover.clone())));
    }
    if !failover_priority.is_empty() {
        failover_priority
            .iter()
            .try_for_each(|label| check_label(label))?;
        return Ok(Some(LocalityWay::Priority(failover_priority.clone())));
    }
    Ok(None)
}

fn check_distribute(distribute: &[LocalityDistribute]) -> Result<(), String> {
    let from: Vec<&str> = distribute.iter().map(|entry| entry.from.as_str()).collect();
    check_places(&from)?;
    for LocalityDistribute { from, to } in distribute {
        let places: Vec<&str> = to.keys().map(String::as_str).collect();
        check_places(&places)?;
        if to.values().any(|share| !(1..=100).contains(share)) {
            return Err(format!(
                "shares of traffic from {} must be 1 to 100",
                shown(from)
            ));
        }
        let sum: i64 = to.values().copied().map(i64::from).sum();
        if sum != 100 {
            return Err(format!(
                "shares of traffic from {} add up to {sum} and must make 100",
                shown(from)
            ));
        }
    }
    Ok(())
}

/// Places that are well written and do not hold each other: `eu/*` holds
/// `eu/west`.
fn check_places(places: &[&str]) -> Result<(), String> {
    if places.len() > MOST {
        return Err(format!("must name at most {MOST} places"));
    }
    let parts = places
        .iter()
        .map(|place| place_parts(place))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, one) in parts.iter().enumerate() {
        for (other, place) in parts[..at].iter().zip(places) {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(format!(
                    "places {} and {} overlap",
                    shown(place),
                    shown(places[at])
                ));
            }
        }
    }
    Ok(())
}

/// Region, zone and sub-zone, as far as they are named; `*` stands for all the
/// rest.
fn place_parts(place: &str) -> Result<Vec<&str>, String> {
    let mut parts: Vec<&str> = place.split('/').collect();
    let well_written = parts.len() <= 3;
    if parts.last() == Some(&"*") {
        parts.pop();
    }
    if well_written && parts.iter().all(|part| is_name(part)) {
        return Ok(parts);
    }
    Err(format!(
        "{} must be a place like region, region/zone/subzone or region/*",
        shown(place)
    ))
}

fn check_failover(failover: &LocalityFailover) -> Result<(), String> {
    let LocalityFailover { from, to } = failover;
    for region in [from, to] {
        if !is_name(region) {
            return Err(format!(
                "{} must be the name of a region alone",
                shown(region)
            ));
        }
    }
    if from == to {
        return Err(format!(
            "region {} must fail over to another one",
            shown(from)
        ));
    }
    Ok(())
}

/// A label of Kubernetes, alone or with a value: `topology.istio.io/network=a`.
fn check_label(label: &str) -> Result<(), String> {
    let good = (1..=384).contains(&label.len())
        && label.starts_with(|c: char| c.is_ascii_alphanumeric())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./=".contains(&b))
        && label.matches('=').count() <= 1;
    good.then_some(())
        .ok_or_else(|| format!("{} must be a label, or a label=value", shown(label)))
}

fn is_name(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=63).contains(&part.len()) && part.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn distribute(entries: &[(&str, &[(&str, i32)])]) -> Result<Option<LocalityWay>, String> {
        let entry = |(from, to): &(&str, &[(&str, i32)])| LocalityDistribute {
            from: (*from).to_owned(),
            to: to
                .iter()
                .map(|(place, share)| ((*place).to_owned(), *share))
                .collect::<BTreeMap<_, _>>(),
        };
        way(&Locality {
            distribute: entries.iter().map(entry).collect(),
            ..Locality::default()
        })
    }

    #[track_caller]
    fn refused(result: Result<Option<LocalityWay>, String>, part: &str) {
        let message = result.unwrap_err();
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn shares_must_make_a_whole() {
        assert!(distribute(&[("eu/*", &[("eu/*", 80), ("us/*", 20)])]).is_ok());
        assert!(distribute(&[("*", &[("eu/west/1", 100)])]).is_ok());
        refused(distribute(&[("eu/*", &[("eu/*", 80)])]), "add up to 80");
        refused(
            distribute(&[("eu/*", &[("eu/*", 100), ("us/*", 0)])]),
            "1 to 100",
        );
        refused(
            distribute(&[("eu/*", &[("eu/*", 150), ("us/*", -50)])]),
            "1 to 100",
        );
        refused(distribute(&[("eu/*", &[])]), "add up to 0");
    }

    #[test]
    fn places_do_not_hold_each_other() {
        let all: &[(&str, i32)] = &[("eu", 100)];
        for pair in [
            ["eu", "eu/*"],
            ["eu/a", "eu"],
            ["*", "eu"],
            ["eu/a/*", "eu/a/b"],
            ["eu", "eu"],
        ] {
            refused(distribute(&[(pair[0], all), (pair[1], all)]), "overlap");
        }
        assert!(distribute(&[("eu/a", all), ("eu/b/*", all), ("eu2", all)]).is_ok());
    }

    #[test]
    fn a_place_that_istiod_cannot_read_is_refused() {
        for place in [
            "", "/", "eu/", "eu//a", "a/b/c/d", "*/a", "eu/*/a", "e u", "eu*", "ü", "**",
        ] {
            refused(distribute(&[(place, &[("eu", 100)])]), "must be a place");
        }
    }

    #[test]
    fn failover_goes_from_one_region_to_another() {
        let failover = |from: &str, to: &str| {
            let pair = LocalityFailover {
                from: from.to_owned(),
                to: to.to_owned(),
            };
            way(&Locality {
                failover: vec![pair],
                ..Locality::default()
            })
        };
        assert!(failover("eu", "us").is_ok());
        refused(failover("eu", "eu"), "another");
        refused(failover("eu/a", "us"), "region alone");
        refused(failover("eu", "*"), "region alone");
    }

    #[test]
    fn the_ways_exclude_each_other_and_are_bounded() {
        let pair = LocalityFailover {
            from: "a".to_owned(),
            to: "b".to_owned(),
        };
        let label = |text: &str| vec![text.to_owned()];
        let both = Locality {
            failover: vec![pair.clone()],
            failover_priority: label("topology.istio.io/network"),
            ..Locality::default()
        };
        refused(way(&both), "at most one");
        refused(
            way(&Locality {
                failover: vec![pair; 65],
                ..Locality::default()
            }),
            "at most 64",
        );
        let priority = |text: &str| {
            way(&Locality {
                failover_priority: label(text),
                ..Locality::default()
            })
        };
        assert!(priority("version=v1").is_ok());
        for text in ["", "=a", "a=b=c", "a b", "ü"] {
            refused(priority(text), "label");
        }
    }
}
