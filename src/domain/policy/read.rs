//! How the text and numbers of one giver become values: parsed, within the
//! bounds, and all that is wrong collected. No IO.

use super::bounds::{Bounds, Limit};
use super::check::{self, Broken};
use super::layer::{
    AlgorithmLayer, CircuitBreakerLayer, HealthCheckLayer, LoadBalancingLayer, PolicyLayer,
    RetriesLayer,
};
use super::{ConnectionPool, Giver, HashKey, HttpPool, PolicyError, TcpPool};
use super::{field, locality};
use crate::api::policy as api;
use crate::domain::duration::Millis;
use crate::domain::names::shown;

/// Reads values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    giver: Giver,
    bounds: &'a Bounds,
    errors: Vec<PolicyError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(giver: Giver, bounds: &'a Bounds) -> Self {
        Self {
            giver,
            bounds,
            errors: Vec::new(),
        }
    }

    /// The layer, unless something was wrong.
    pub(super) fn done(self, layer: PolicyLayer) -> Result<PolicyLayer, Vec<PolicyError>> {
        if self.errors.is_empty() {
            Ok(layer)
        } else {
            Err(self.errors)
        }
    }

    fn refuse(&mut self, field: &str, message: String) {
        let field = field::path(self.giver, field);
        self.errors.push(PolicyError {
            giver: self.giver,
            field,
            message,
        });
    }

    pub(super) fn time(&mut self, field: &str, limit: Limit, text: Option<&str>) -> Option<Millis> {
        let range = self.bounds.range(limit);
        match Millis::parse(text?) {
            Ok(time) if range.holds(time.0) => return Some(time),
            Ok(time) => self.refuse(field, format!("{time} is not within {range}")),
            Err(error) => self.refuse(field, error.to_string()),
        }
        None
    }

    fn number(&mut self, field: &str, limit: Limit, number: Option<impl Into<i64>>) -> Option<u32> {
        let number = number?.into();
        let mut range = self.bounds.range(limit);
        if limit == Limit::Percent && self.giver == Giver::Binding {
            range.low = range.low.max(1);
        }
        let within = u64::try_from(number).is_ok_and(|number| range.holds(number));
        if !within {
            self.refuse(field, format!("{number} is not within {range}"));
        }
        // No row of the table goes beyond 31 bits.
        u32::try_from(number).ok().filter(|_| within)
    }

    fn text(
        &mut self,
        field: &str,
        rule: fn(&str) -> Broken,
        text: Option<&str>,
    ) -> Option<String> {
        let text = text?;
        if let Some(rule) = rule(text) {
            self.refuse(field, format!("{} {rule}", shown(text)));
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn retries(
        &mut self,
        attempts: Option<i32>,
        per_try: Option<&str>,
        on: Option<&str>,
    ) -> RetriesLayer {
        RetriesLayer {
            attempts: self.number(field::RETRIES_ATTEMPTS, Limit::Retries, attempts),
            per_try_timeout: self.time(field::RETRIES_PER_TRY, Limit::PerTryTimeout, per_try),
            retry_on: self.text(field::RETRIES_ON, check::retry_on, on),
        }
    }

    pub(super) fn circuit_breaker(&mut self, given: &api::CircuitBreaker) -> CircuitBreakerLayer {
        let ejection = given.base_ejection_time.as_deref();
        CircuitBreakerLayer {
            consecutive_errors: self.number(
                field::BREAKER_ERRORS,
                Limit::Threshold,
                given.consecutive_errors,
            ),
            interval: self.time(
                field::BREAKER_INTERVAL,
                Limit::Interval,
                given.interval.as_deref(),
            ),
            base_ejection_time: self.time(field::BREAKER_EJECTION, Limit::EjectionTime, ejection),
            max_ejection_percent: self.number(
                field::BREAKER_PERCENT,
                Limit::Percent,
                given.max_ejection_percent,
            ),
        }
    }

    pub(super) fn load_balancing(
        &mut self,
        given: Option<&api::LoadBalancing>,
    ) -> LoadBalancingLayer {
        let mut layer = LoadBalancingLayer::default();
        let Some(given) = given else { return layer };
        let hash = given
            .consistent_hash
            .as_ref()
            .map(|hash| self.consistent_hash(hash));
        layer.algorithm = match (given.simple, hash) {
            (Some(_), Some(_)) => {
                self.refuse(
                    field::LB_HASH,
                    "cannot stand beside simple; leave one of them out".to_owned(),
                );
                None
            }
            (Some(simple), None) => Some(AlgorithmLayer::Simple(simple)),
            (None, hash) => hash,
        };
        if let Some(warmup) = &given.warmup {
            layer.warmup_duration = self.time(
                field::LB_WARMUP_DURATION,
                Limit::Warmup,
                Some(&warmup.duration),
            );
            layer.warmup_percent = self.number(
                field::LB_WARMUP_PERCENT,
                Limit::Percent,
                warmup.minimum_percent,
            );
            layer.warmup_aggression = self.number(
                field::LB_WARMUP_AGGRESSION,
                Limit::Aggression,
                warmup.aggression,
            );
        }
        if let Some(given) = &given.locality {
            layer.locality_enabled = given.enabled;
            match locality::way(given) {
                Ok(way) => layer.locality_way = way,
                Err(message) => self.refuse(field::LB_LOCALITY, message),
            }
        }
        layer
    }

    fn consistent_hash(&mut self, given: &api::ConsistentHash) -> AlgorithmLayer {
        let header = given.http_header_name.as_deref();
        let query = given.http_query_parameter_name.as_deref();
        let keys = [
            self.text(field::LB_HASH_HEADER, check::token, header)
                .map(HashKey::Header),
            given
                .http_cookie
                .as_ref()
                .and_then(|cookie| self.cookie(cookie)),
            // false is how some tools write "not this one".
            given
                .use_source_ip
                .filter(|used| *used)
                .map(|_| HashKey::SourceIp),
            self.text(field::LB_HASH_QUERY, check::query_parameter, query)
                .map(HashKey::QueryParameter),
        ];
        let mut keys = keys.into_iter().flatten();
        let key = keys.next();
        if keys.next().is_some() {
            self.refuse(
                field::LB_HASH,
                "must have exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName".to_owned(),
            );
        }
        let ring = self.number(
            field::LB_HASH_RING,
            Limit::RingSize,
            given.minimum_ring_size,
        );
        AlgorithmLayer::Hash { key, ring }
    }

    fn cookie(&mut self, given: &api::HttpCookie) -> Option<HashKey> {
        let path = self.text(
            field::LB_HASH_COOKIE_PATH,
            check::cookie_path,
            given.path.as_deref(),
        );
        let ttl = self.time(
            field::LB_HASH_COOKIE_TTL,
            Limit::CookieTtl,
            given.ttl.as_deref(),
        );
        let name = self.text(field::LB_HASH_COOKIE_NAME, check::token, Some(&given.name))?;
        Some(HashKey::Cookie { name, path, ttl })
    }

    pub(super) fn connection_pool(
        &mut self,
        given: Option<&api::ConnectionPool>,
    ) -> ConnectionPool {
        let tcp = given.and_then(|pool| pool.tcp.as_ref()).map(|tcp| TcpPool {
            max_connections: self.number(
                field::TCP_MAX_CONNECTIONS,
                Limit::PoolSize,
                tcp.max_connections,
            ),
            connect_timeout: self.time(
                field::TCP_CONNECT_TIMEOUT,
                Limit::ConnectTimeout,
                tcp.connect_timeout.as_deref(),
            ),
            idle_timeout: self.time(
                field::TCP_IDLE_TIMEOUT,
                Limit::IdleTimeout,
                tcp.idle_timeout.as_deref(),
            ),
        });
        let http = given
            .and_then(|pool| pool.http.as_ref())
            .map(|http| HttpPool {
                max_pending_requests: self.number(
                    field::HTTP_MAX_PENDING,
                    Limit::PoolSize,
                    http.http1_max_pending_requests,
                ),
                max_requests: self.number(
                    field::HTTP_MAX_REQUESTS,
                    Limit::PoolSize,
                    http.http2_max_requests,
                ),
                max_requests_per_connection: self.number(
                    field::HTTP_PER_CONNECTION,
                    Limit::PoolSize,
                    http.max_requests_per_connection,
                ),
                max_retries: self.number(
                    field::HTTP_MAX_RETRIES,
                    Limit::PoolSize,
                    http.max_retries,
                ),
                idle_timeout: self.http_idle_timeout(http.idle_timeout.as_deref()),
            });
        ConnectionPool {
            tcp: tcp.unwrap_or_default(),
            http: http.unwrap_or_default(),
        }
    }

    /// Unlike TCP's, Istio refuses to switch this one off by `0s`.
    fn http_idle_timeout(&mut self, text: Option<&str>) -> Option<Millis> {
        let time = self.time(field::HTTP_IDLE_TIMEOUT, Limit::IdleTimeout, text)?;
        if time == Millis(0) {
            self.refuse(
                field::HTTP_IDLE_TIMEOUT,
                "0s is not allowed here; give 1ms or more".to_owned(),
            );
            return None;
        }
        Some(time)
    }

    pub(super) fn health_check(&mut self, given: &api::HealthCheck) -> HealthCheckLayer {
        let port = self.number(field::HEALTH_PORT, Limit::Port, given.port);
        HealthCheckLayer {
            endpoint: self.text(
                field::HEALTH_ENDPOINT,
                check::endpoint,
                given.endpoint.as_deref(),
            ),
            interval: self.time(
                field::HEALTH_INTERVAL,
                Limit::Interval,
                given.interval.as_deref(),
            ),
            timeout: self.time(
                field::HEALTH_TIMEOUT,
                Limit::CheckTimeout,
                given.timeout.as_deref(),
            ),
            port: port.and_then(|port| u16::try_from(port).ok()),
            scheme: given.scheme,
            failure_threshold: self.number(
                field::HEALTH_FAILURES,
                Limit::Threshold,
                given.failure_threshold,
            ),
            success_threshold: self.number(
                field::HEALTH_SUCCESSES,
                Limit::Threshold,
                given.success_threshold,
            ),
            confirm_interval: self.time(
                field::HEALTH_CONFIRM,
                Limit::ConfirmInterval,
                given.confirm_interval.as_deref(),
            ),
            ejection: given.ejection,
        }
    }
}
