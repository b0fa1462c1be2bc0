//! The merge of load balancing and connection pools. No IO.

use super::{Merge, Sourced, first, later};
use crate::api::policy::SimpleAlgorithm;
use crate::api::service_binding::PolicySource;
use crate::domain::duration::Millis;
use crate::domain::policy::bounds::Limit;
use crate::domain::policy::field;
use crate::domain::policy::layer::{AlgorithmLayer, LoadBalancingLayer};
use crate::domain::policy::{
    Algorithm, ConnectionPool, HashKey, HttpPool, LoadBalancing, Locality, LocalityWay,
    OutlierPolicy, TcpPool, Warmup,
};

impl Merge<'_> {
    pub(super) fn load_balancing(
        &mut self,
        catalog: &LoadBalancingLayer,
        binding: &LoadBalancingLayer,
        outlier: Option<&OutlierPolicy>,
    ) -> LoadBalancing {
        let algorithm = self.algorithm(catalog.algorithm.as_ref(), binding.algorithm.as_ref());
        let warmup = self.warmup(catalog, binding, algorithm.as_ref());
        let locality = self.locality(catalog, binding, outlier);
        LoadBalancing {
            algorithm: algorithm.map(|algorithm| algorithm.value),
            warmup,
            locality,
        }
    }

    /// `simple` and `consistentHash` are one choice; below `consistentHash` the
    /// key is one, and what goes with it is merged where both chose alike.
    fn algorithm(
        &mut self,
        catalog: Option<&AlgorithmLayer>,
        binding: Option<&AlgorithmLayer>,
    ) -> Option<Sourced<Algorithm>> {
        let chosen = first(catalog, binding)?;
        if let AlgorithmLayer::Simple(simple) = chosen.value {
            self.record(field::LB_SIMPLE, &simple, chosen.source);
            return Some(Sourced {
                value: Algorithm::Simple(simple),
                source: chosen.source,
            });
        }
        let (c_key, c_ring) = hash_of(catalog);
        let (b_key, b_ring) = hash_of(binding);
        let Some(key) = first(c_key, b_key) else {
            let giver = match binding {
                Some(AlgorithmLayer::Hash { .. }) => later(PolicySource::Binding, chosen.source),
                _ => later(chosen.source, chosen.source),
            };
            let message = "must have one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName";
            self.refuse(giver, field::LB_HASH, message.to_owned());
            return None;
        };
        let key_source = key.source;
        let key = self.hash_key(key, c_key, b_key);
        let minimum_ring_size = self.value(field::LB_HASH_RING, c_ring, b_ring);
        let value = Algorithm::ConsistentHash {
            key,
            minimum_ring_size,
        };
        Some(Sourced {
            value,
            source: key_source,
        })
    }

    fn hash_key(
        &mut self,
        chosen: Sourced<HashKey>,
        catalog: Option<&HashKey>,
        binding: Option<&HashKey>,
    ) -> HashKey {
        let source = chosen.source;
        match &chosen.value {
            HashKey::Header(name) => self.record(field::LB_HASH_HEADER, name, source),
            HashKey::QueryParameter(name) => self.record(field::LB_HASH_QUERY, name, source),
            HashKey::SourceIp => self.record(field::LB_HASH_SOURCE_IP, &true, source),
            HashKey::Cookie { name, .. } => {
                self.record(field::LB_HASH_COOKIE_NAME, name, source);
                let (c_path, c_ttl) = cookie_of(catalog);
                let (b_path, b_ttl) = cookie_of(binding);
                let path = self.value(field::LB_HASH_COOKIE_PATH, c_path, b_path);
                let ttl = self.value(field::LB_HASH_COOKIE_TTL, c_ttl, b_ttl);
                return HashKey::Cookie {
                    name: name.clone(),
                    path,
                    ttl,
                };
            }
        }
        chosen.value
    }

    fn warmup(
        &mut self,
        catalog: &LoadBalancingLayer,
        binding: &LoadBalancingLayer,
        algorithm: Option<&Sourced<Algorithm>>,
    ) -> Option<Warmup> {
        let duration = first(
            catalog.warmup_duration.as_ref(),
            binding.warmup_duration.as_ref(),
        )?;
        if let Some(Sourced { value, source }) = algorithm
            && !warms_up(value)
        {
            let giver = later(duration.source, *source);
            let field = if duration.source == giver.into() {
                field::LB_WARMUP_DURATION
            } else if matches!(value, Algorithm::Simple(_)) {
                field::LB_SIMPLE
            } else {
                field::LB_HASH
            };
            let message = format!(
                "warmup ({:?}) works with ROUND_ROBIN and LEAST_REQUEST only, and the algorithm ({source:?}) is another",
                duration.source
            );
            self.refuse(giver, field, message);
            return None;
        }
        self.record(field::LB_WARMUP_DURATION, &duration.value, duration.source);
        let (c, b) = (catalog, binding);
        Some(Warmup {
            duration: duration.value,
            minimum_percent: self.value(
                field::LB_WARMUP_PERCENT,
                c.warmup_percent.as_ref(),
                b.warmup_percent.as_ref(),
            ),
            aggression: self.value(
                field::LB_WARMUP_AGGRESSION,
                c.warmup_aggression.as_ref(),
                b.warmup_aggression.as_ref(),
            ),
        })
    }

    fn locality(
        &mut self,
        catalog: &LoadBalancingLayer,
        binding: &LoadBalancingLayer,
        outlier: Option<&OutlierPolicy>,
    ) -> Option<Locality> {
        let enabled = self.value(
            field::LB_LOCALITY_ENABLED,
            catalog.locality_enabled.as_ref(),
            binding.locality_enabled.as_ref(),
        );
        let way = first(catalog.locality_way.as_ref(), binding.locality_way.as_ref());
        if let Some(Sourced { value, source }) = &way {
            let field = match value {
                LocalityWay::Distribute(_) => field::LB_DISTRIBUTE,
                LocalityWay::Failover(_) => field::LB_FAILOVER,
                LocalityWay::Priority(_) => field::LB_PRIORITY,
            };
            self.record(field, value, *source);
            // Istio takes such a rule with a warning and never fails over.
            let ejects = outlier.is_some_and(|outlier| outlier.max_ejection_percent > 0);
            if !ejects && !matches!(value, LocalityWay::Distribute(_)) {
                let message = "has no effect without circuitBreaker or healthCheck (with maxEjectionPercent above 0); give one of them or leave it out";
                self.refuse(later(*source, *source), field, message.to_owned());
            }
        }
        let way = way.map(|way| way.value);
        (enabled.is_some() || way.is_some()).then_some(Locality { enabled, way })
    }

    pub(super) fn connection_pool(
        &mut self,
        catalog: &ConnectionPool,
        binding: &ConnectionPool,
        attempts: Option<Sourced<u32>>,
    ) -> ConnectionPool {
        let (c, b) = (&catalog.tcp, &binding.tcp);
        let tcp = TcpPool {
            max_connections: self.count(
                field::TCP_MAX_CONNECTIONS,
                c.max_connections,
                b.max_connections,
            ),
            connect_timeout: self.time(
                field::TCP_CONNECT_TIMEOUT,
                c.connect_timeout,
                b.connect_timeout,
            ),
            idle_timeout: self.time(field::TCP_IDLE_TIMEOUT, c.idle_timeout, b.idle_timeout),
        };
        let (c, b) = (&catalog.http, &binding.http);
        let http = HttpPool {
            max_pending_requests: self.count(
                field::HTTP_MAX_PENDING,
                c.max_pending_requests,
                b.max_pending_requests,
            ),
            max_requests: self.count(field::HTTP_MAX_REQUESTS, c.max_requests, b.max_requests),
            max_requests_per_connection: self.count(
                field::HTTP_PER_CONNECTION,
                c.max_requests_per_connection,
                b.max_requests_per_connection,
            ),
            max_retries: self.max_retries(c.max_retries, b.max_retries, attempts),
            idle_timeout: self.time(field::HTTP_IDLE_TIMEOUT, c.idle_timeout, b.idle_timeout),
        };
        ConnectionPool { tcp, http }
    }

    /// Falls back to the attempts of the retries; 0 would be "no limit".
    fn max_retries(
        &mut self,
        catalog: Option<u32>,
        binding: Option<u32>,
        attempts: Option<Sourced<u32>>,
    ) -> Option<u32> {
        let given = first(catalog.as_ref(), binding.as_ref());
        let pool = self.bounds.range(Limit::PoolSize);
        let fallback = attempts.filter(|attempts| pool.holds(u64::from(attempts.value)));
        let leaf = given.or(fallback)?;
        self.record(field::HTTP_MAX_RETRIES, &leaf.value, leaf.source);
        Some(leaf.value)
    }

    fn count(&mut self, field: &str, catalog: Option<u32>, binding: Option<u32>) -> Option<u32> {
        self.value(field, catalog.as_ref(), binding.as_ref())
    }

    fn time(
        &mut self,
        field: &str,
        catalog: Option<Millis>,
        binding: Option<Millis>,
    ) -> Option<Millis> {
        self.value(field, catalog.as_ref(), binding.as_ref())
    }
}

fn hash_of(layer: Option<&AlgorithmLayer>) -> (Option<&HashKey>, Option<&u32>) {
    match layer {
        Some(AlgorithmLayer::Hash { key, ring }) => (key.as_ref(), ring.as_ref()),
        _ => (None, None),
    }
}

fn cookie_of(key: Option<&HashKey>) -> (Option<&String>, Option<&Millis>) {
    match key {
        Some(HashKey::Cookie { path, ttl, .. }) => (path.as_ref(), ttl.as_ref()),
        _ => (None, None),
    }
}

fn warms_up(algorithm: &Algorithm) -> bool {
    use SimpleAlgorithm::{LeastRequest, RoundRobin};
    matches!(algorithm, Algorithm::Simple(RoundRobin | LeastRequest))
}
