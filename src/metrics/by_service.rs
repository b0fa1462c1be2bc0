//! How checks of each service ended, as counters. One of the library's own takes half
//! a kilobyte beside its labels, and there are two for each service.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

/// How many ended well, and how many did not.
#[derive(Debug, Default)]
pub(super) struct Ends([AtomicU64; 2]);

/// The values of the label `status`, in the order of the counters.
const STATUS: [&str; 2] = ["success", "failure"];

impl Ends {
    /// One more ended.
    pub(super) fn count(&self, well: bool) {
        self.0[usize::from(!well)].fetch_add(1, Relaxed);
    }
}

/// The counters of every service. Cloning shares them.
#[derive(Clone)]
pub(super) struct EndsByService {
    desc: Desc,
    ends: Arc<Mutex<BTreeMap<Box<str>, Arc<Ends>>>>,
}

impl EndsByService {
    /// Counters of nobody yet, with the labels `service` and `status`.
    pub(super) fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let labels = ["service", "status"].map(str::to_owned);
        let desc = Desc::new(name.into(), help.into(), labels.into(), HashMap::new())?;
        Ok(Self {
            desc,
            ends: Arc::default(),
        })
    }

    /// The counters of a service, from nought where it has none.
    pub(super) fn of(&self, service: &str) -> Arc<Ends> {
        let mut all = self.lock();
        if let Some(known) = all.get(service) {
            return Arc::clone(known);
        }
        let new = Arc::<Ends>::default();
        all.insert(service.into(), Arc::clone(&new));
        new
    }

    /// The series of a service end.
    pub(super) fn forget(&self, service: &str) {
        self.lock().remove(service);
    }

    /// Each change leaves the map whole, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Arc<Ends>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for EndsByService {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metrics = Vec::new();
        for (service, ends) in &*self.lock() {
            for (status, count) in STATUS.into_iter().zip(&ends.0) {
                let mut counter = Counter::default();
                // Exact up to 2^53, as any counter that is scraped.
                counter.set_value(count.load(Relaxed) as f64);
                let mut metric = Metric::default();
                metric.set_label(vec![label("service", service), label("status", status)]);
                metric.set_counter(counter);
                metrics.push(metric);
            }
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(metrics);
        vec![family]
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, Registry, TextEncoder};

    use super::*;

    #[test]
    fn each_service_has_its_series_until_it_is_forgotten() {
        let ends = EndsByService::new("checks_total", "Checks.").unwrap();
        let registry = Registry::new();
        registry.register(Box::new(ends.clone())).unwrap();
        let text = || {
            let mut text = Vec::new();
            let families = registry.gather();
            TextEncoder::new().encode(&families, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(text(), "");
        let web = ends.of("shop/web");
        web.count(true);
        web.count(false);
        ends.of("shop/web").count(true);
        ends.of("shop/\"api\"");
        assert_eq!(
            text().lines().collect::<Vec<_>>(),
            [
                "# HELP checks_total Checks.",
                "# TYPE checks_total counter",
                r#"checks_total{service="shop/\"api\"",status="failure"} 0"#,
                r#"checks_total{service="shop/\"api\"",status="success"} 0"#,
                r#"checks_total{service="shop/web",status="failure"} 1"#,
                r#"checks_total{service="shop/web",status="success"} 2"#,
            ]
        );
        ends.forget("shop/web");
        assert!(!text().contains("shop/web"));
        ends.of("shop/web");
        assert!(text().contains(r#"{service="shop/web",status="success"} 0"#));
    }
}
