//! Health and metrics: what the admin API and a listener with `serve: [health, metrics]` answer alike.

use super::Control;
use super::answer::{json, whole};
use crate::exchange::answer::Answer;
use crate::observe::metrics::MEDIA_TYPE;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serves {
    pub health: bool,
    pub metrics: bool,
}

/// The answer of a listener for operators to GET or HEAD, or none if nothing is served at that path.
pub fn answer(path: &str, serves: Serves, control: &dyn Control) -> Option<Answer> {
    let response = match path {
        "/livez" if serves.health => live(),
        "/readyz" if serves.health => ready(control),
        "/metrics" if serves.metrics => metrics(control),
        _ => return None,
    };
    let (parts, body) = response.into_parts();
    let mut answer = Answer::empty(parts.status);
    answer.body = body;
    for (name, value) in &parts.headers {
        answer = answer.header(name.clone(), value.clone());
    }
    Some(answer)
}

/// The process answers; nothing else is asked, so that a restart never follows from what others broke.
pub fn live() -> Response<Bytes> {
    json(StatusCode::OK, &json!({"status": "live"}))
}

/// Whether a balancer should send requests here.
pub fn ready(control: &dyn Control) -> Response<Bytes> {
    match control.ready() {
        Ok(()) => json(StatusCode::OK, &json!({"status": "ready"})),
        Err(reasons) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "not ready", "reasons": reasons}),
        ),
    }
}

pub fn metrics(control: &dyn Control) -> Response<Bytes> {
    whole(StatusCode::OK, MEDIA_TYPE, control.metrics_text().into())
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn a_listener_serves_what_it_is_told_to_and_nothing_else() {
        let fake = Fake::default();
        let status = |path, health, metrics| {
            let answer = answer(path, Serves { health, metrics }, &fake);
            answer.map(|answer| answer.status.as_u16())
        };
        assert_eq!(status("/livez", true, false), Some(200));
        assert_eq!(status("/metrics", true, false), None);
        assert_eq!(status("/metrics", false, true), Some(200));
        assert_eq!(status("/readyz", false, true), None);
        for path in ["/v1/status", "/v1/config", "/", "/livez/", "/metrics/"] {
            assert_eq!(status(path, true, true), None, "{path}");
        }
        fake.not_ready.lock().push("draining".into());
        assert_eq!(status("/readyz", true, true), Some(503));
        assert_eq!(status("/livez", true, true), Some(200));
    }
}
