//! Paths and what answers them.

use super::answer::{Code, json, problem, problem_with};
use super::{Control, Counted, KeyQuery, LimitFailure, LimitStatus, ReloadFailure, read_only};
use crate::supervisor::joined;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};
use std::sync::Arc;

type Gateway = State<Arc<dyn Control>>;

/// The router over a process.
pub fn router(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/livez", get(async || whole(read_only::live())))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/config", get(config))
        .route("/v1/routes", get(routes))
        .route("/v1/services/{name}", get(service))
        .route("/v1/limits", get(limits))
        .route("/v1/limits/{*policy}", get(limit).delete(reset_limit))
        .route("/v1/quotas", get(quotas))
        .route(
            "/v1/quotas/{*policy}",
            get(quota).delete(reset_quota).post(grant),
        )
        .route("/v1/reload", post(reload))
        .fallback(async || whole(problem(Code::NotFound, None)))
        .method_not_allowed_fallback(async || whole(problem(Code::Method, None)))
        .with_state(control)
}

fn whole(response: http::Response<Bytes>) -> Response {
    response.map(Body::from).into_response()
}

async fn ready(State(control): Gateway) -> Response {
    whole(read_only::ready(&*control))
}

async fn metrics(State(control): Gateway) -> Response {
    whole(read_only::metrics(&*control))
}

async fn status(State(control): Gateway) -> Response {
    whole(json(StatusCode::OK, &control.status()))
}

async fn config(State(control): Gateway) -> Response {
    whole(json(StatusCode::OK, &control.effective_config()))
}

async fn routes(State(control): Gateway) -> Response {
    whole(json(StatusCode::OK, &control.routes()))
}

async fn service(State(control): Gateway, name: Result<Path<String>, PathRejection>) -> Response {
    let service = name.ok().and_then(|Path(name)| control.service(&name));
    whole(match service {
        Some(service) => json(StatusCode::OK, &service),
        None => problem(Code::NotFound, Some("there is no service of that name")),
    })
}

type Asked = Result<Query<KeyQuery>, QueryRejection>;
type Named = Result<Path<String>, PathRejection>;

async fn limits(State(control): Gateway, query: Asked) -> Response {
    whole(waits(move || all(Counted::Limits, &*control, query)).await)
}

async fn quotas(State(control): Gateway, query: Asked) -> Response {
    whole(waits(move || all(Counted::Quotas, &*control, query)).await)
}

fn all(counted: Counted, control: &dyn Control, query: Asked) -> http::Response<Bytes> {
    match query.map(|Query(query)| query) {
        Ok(query) if query.grant.is_none() => {
            json(StatusCode::OK, &control.limits(counted, &query))
        }
        _ => problem(Code::BadRequest, Some(QUERY)),
    }
}

/// Answers on a thread that may wait: some limits are counted in a store.
async fn waits(
    answer: impl FnOnce() -> http::Response<Bytes> + Send + 'static,
) -> http::Response<Bytes> {
    let answered = joined(tokio::task::spawn_blocking(answer).await);
    answered.unwrap_or_else(|_| problem(Code::Internal, None))
}

const QUERY: &str = "the query takes `key` and `route`";
const GRANT: &str = "the query takes `key`, `grant`, a whole number, and `route`";

async fn limit(State(control): Gateway, policy: Named, query: Asked) -> Response {
    whole(waits(move || one(Counted::Limits, &*control, policy, query)).await)
}

async fn quota(State(control): Gateway, policy: Named, query: Asked) -> Response {
    whole(waits(move || one(Counted::Quotas, &*control, policy, query)).await)
}

fn one(
    counted: Counted,
    control: &dyn Control,
    policy: Named,
    query: Asked,
) -> http::Response<Bytes> {
    of_limit(policy, query, |policy, query| {
        control.limit(counted, policy, query)
    })
}

async fn reset_limit(State(control): Gateway, policy: Named, query: Asked) -> Response {
    whole(waits(move || reset(Counted::Limits, &*control, policy, query)).await)
}

async fn reset_quota(State(control): Gateway, policy: Named, query: Asked) -> Response {
    let name = named(&policy);
    let answer = reset(Counted::Quotas, &*control, policy, query);
    written(&*control, name, answer).await
}

fn named(policy: &Named) -> Option<String> {
    policy.as_ref().ok().map(|Path(name)| name.clone())
}

/// Waits until what has changed is on the disk, and says so where it is not.
async fn written(
    control: &dyn Control,
    policy: Option<String>,
    answer: http::Response<Bytes>,
) -> Response {
    match policy.filter(|_| answer.status() == StatusCode::OK) {
        Some(policy) if !control.quota_is_written(&policy).await => {
            let detail = "it is done, but can't be written to the disk yet: a process that ends before that forgets it";
            whole(problem(Code::Unwritten, Some(detail)))
        }
        _ => whole(answer),
    }
}

fn reset(
    counted: Counted,
    control: &dyn Control,
    policy: Named,
    query: Asked,
) -> http::Response<Bytes> {
    of_limit(policy, query, |policy, query| {
        let done = control.reset_limit(counted, policy, query);
        if done.is_ok() {
            // whose it is stays unsaid: keys are in no log
            let what = counted.name();
            tracing::info!(policy, what, "a key begins anew, by the admin API");
        }
        done
    })
}

async fn grant(State(control): Gateway, policy: Named, query: Asked) -> Response {
    let query = query.map(|Query(query)| query);
    let Ok(Some((query, amount))) = query.map(|query| Some((query.clone(), query.grant?))) else {
        return whole(problem(Code::BadRequest, Some(GRANT)));
    };
    let name = named(&policy);
    let answer = found(policy, |policy| {
        let done = control.grant(policy, &query, amount);
        if done.is_ok() {
            tracing::info!(
                policy,
                amount,
                "a key of a quota gets more, by the admin API"
            );
        }
        done
    });
    written(&*control, name, answer).await
}

fn of_limit(
    policy: Named,
    query: Asked,
    ask: impl FnOnce(&str, &KeyQuery) -> Result<LimitStatus, LimitFailure>,
) -> http::Response<Bytes> {
    match query.map(|Query(query)| query) {
        Ok(query) if query.grant.is_none() => found(policy, |policy| ask(policy, &query)),
        _ => problem(Code::BadRequest, Some(QUERY)),
    }
}

fn found(
    policy: Named,
    ask: impl FnOnce(&str) -> Result<LimitStatus, LimitFailure>,
) -> http::Response<Bytes> {
    let Ok(Path(policy)) = policy else {
        return problem(Code::NotFound, Some("there is nothing of that name"));
    };
    match ask(&policy) {
        Ok(limit) => json(StatusCode::OK, &limit),
        Err(LimitFailure::None(detail)) => problem(Code::NotFound, Some(&detail)),
        Err(LimitFailure::NoKey(detail)) => problem(Code::BadRequest, Some(&detail)),
        Err(LimitFailure::Full) => {
            let detail = "too many keys count at the moment: this one can't be told from others";
            problem(Code::Conflict, Some(detail))
        }
        Err(LimitFailure::Away) => {
            let detail = "the store that counts it does not answer";
            problem(Code::Conflict, Some(detail))
        }
    }
}

async fn reload(State(control): Gateway) -> Response {
    tracing::info!("reload asked for through the admin API");
    whole(match control.reload().await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(failure) => refused(failure),
    })
}

fn refused(failure: ReloadFailure) -> http::Response<Bytes> {
    let members = Map::from_iter([
        ("diagnostics".to_owned(), Value::Array(failure.diagnostics)),
        ("text".to_owned(), Value::String(failure.text)),
    ]);
    problem_with(
        Code::ConfigRefused,
        Some("the running configuration goes on"),
        members,
    )
}
