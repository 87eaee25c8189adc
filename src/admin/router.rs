//! Paths and what answers them.

use super::answer::{Code, json, problem, problem_with};
use super::{Control, ReloadFailure, read_only};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
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

async fn service(
    State(control): Gateway,
    name: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Response {
    let service = name.ok().and_then(|Path(name)| control.service(&name));
    whole(match service {
        Some(service) => json(StatusCode::OK, &service),
        None => problem(Code::NotFound, Some("there is no service of that name")),
    })
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
