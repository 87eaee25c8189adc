//! A process for the tests of the admin API.

use super::{
    Control, Counted, EndpointStatus, KeyQuery, LimitFailure, LimitStatus, ReloadFailure,
    ReloadReport, RouteStatus, ServiceStatus, Status,
};
use crate::supervisor::Supervisor;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

/// A process that does as it is told.
#[derive(Default)]
pub struct Fake {
    pub not_ready: Mutex<Vec<String>>,
    pub broken: Mutex<bool>,
    pub supervisor: Arc<Supervisor>,
}

fn orders() -> ServiceStatus {
    let endpoint = EndpointStatus {
        address: "10.0.0.1:80".into(),
        weight: 1,
        in_flight: 2,
        up: true,
        ..Default::default()
    };
    ServiceStatus {
        name: "orders".into(),
        endpoints: vec![endpoint],
        ..Default::default()
    }
}

#[async_trait]
impl Control for Fake {
    fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    fn status(&self) -> Status {
        Status {
            generation: 7,
            services: vec![orders()],
            ..Default::default()
        }
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let reasons = self.not_ready.lock().clone();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    fn metrics_text(&self) -> String {
        "northgate_panics_total 0\n".into()
    }

    fn effective_config(&self) -> Value {
        json!({"version": 1})
    }

    fn routes(&self) -> Vec<RouteStatus> {
        Vec::new()
    }

    fn service(&self, name: &str) -> Option<ServiceStatus> {
        Some(orders()).filter(|service| service.name == name)
    }

    fn limits(&self, _: Counted, _: &KeyQuery) -> Vec<LimitStatus> {
        Vec::new()
    }

    fn limit(&self, _: Counted, policy: &str, _: &KeyQuery) -> Result<LimitStatus, LimitFailure> {
        match policy {
            "defect" => panic!("asked to"),
            "route.a/b/rate_limit" => Ok(LimitStatus::default()),
            "top/rate_limit" => Err(LimitFailure::NoKey("no key".into())),
            _ => Err(LimitFailure::None("none".into())),
        }
    }

    fn reset_limit(
        &self,
        counted: Counted,
        policy: &str,
        query: &KeyQuery,
    ) -> Result<LimitStatus, LimitFailure> {
        match query.key.as_deref() {
            Some("a,b c") => Err(LimitFailure::Full),
            _ => self.limit(counted, policy, query),
        }
    }

    fn grant(
        &self,
        policy: &str,
        query: &KeyQuery,
        amount: u64,
    ) -> Result<LimitStatus, LimitFailure> {
        let mut limit = self.limit(Counted::Quotas, policy, query)?;
        limit.overview.keys = amount;
        Ok(limit)
    }

    async fn quota_is_written(&self, policy: &str) -> bool {
        !*self.broken.lock() || policy.is_empty()
    }

    async fn reload(&self) -> Result<ReloadReport, ReloadFailure> {
        if *self.broken.lock() {
            return Err(ReloadFailure {
                diagnostics: vec![json!({"line": 3})],
                text: "error: x".into(),
            });
        }
        Ok(ReloadReport {
            generation: 8,
            ..Default::default()
        })
    }
}
