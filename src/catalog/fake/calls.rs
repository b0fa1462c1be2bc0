//! How does the fake catalog answer a call? As it was told to: late, with a
//! failure, or from what it holds; and every call is counted.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::state::State;
use super::{Calls, FakeCatalog, stream};
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::catalog::event::EventStream;
use crate::catalog::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};

impl FakeCatalog {
    async fn answer<T>(
        &self,
        count: impl FnOnce(&mut Calls),
        answer: impl FnOnce(&mut State) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let delay = {
            let mut state = self.state();
            count(&mut state.calls);
            state.under_way += 1;
            state.calls.most_at_once = state.calls.most_at_once.max(state.under_way);
            state.delay
        };
        let _under_way = UnderWay(self);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state();
        let failure = state.failures.pop_front().or_else(|| state.away.clone());
        match failure {
            Some(error) => Err(error),
            None => answer(&mut state),
        }
    }
}

/// Counts a call out when it ends or is dropped.
struct UnderWay<'a>(&'a FakeCatalog);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

impl Catalog for FakeCatalog {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        let late = self.state().late;
        async move {
            let answer = self
                .answer(
                    |calls| calls.get_service += 1,
                    |state| state.service(id.as_str()),
                )
                .await;
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            answer
        }
        .boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.answer(
            |calls| calls.list_services += 1,
            |state| Ok(state.list(filter)),
        )
        .boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.answer(
            |calls| calls.report_health += 1,
            |state| {
                let State {
                    reports, services, ..
                } = state;
                if reports.no_health {
                    return Err(CatalogError::unavailable("no health"));
                }
                let there = |item: &HealthReport| services.contains_key(&item.service_id);
                let outcomes = items
                    .iter()
                    .map(|item| reports.health(writer, item, there(item)));
                Ok(outcomes.collect())
            },
        )
        .boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.answer(
            |calls| calls.report_endpoints += 1,
            |state| {
                let there = state.services.contains_key(&report.service_id);
                Ok(state.reports.endpoints(writer, report, there))
            },
        )
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.answer(
            |calls| calls.subscribe += 1,
            move |state| {
                if let Some(error) = state.no_streams.clone() {
                    return Err(error);
                }
                let moved = self.moved.subscribe();
                Ok(stream::open(&self.state, state, moved, after))
            },
        )
        .boxed()
    }
}
