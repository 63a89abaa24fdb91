//! The admin port: plain HTTP, JSON, loopback. What the library offers in process, for demos and other languages.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::fault::Fault;
use crate::journal::{Executed, Fired, Received};

/// `PUT /idempotency`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Idempotency {
    on: bool,
}

pub(crate) fn router(desk: Arc<Desk>, ca_pem: String) -> Router {
    Router::new()
        .route("/ca.pem", get(async move || ca_pem))
        .route("/executed", get(executed))
        .route("/requests", get(requests))
        .route("/fired", get(fired))
        .route("/faults", get(pending).post(script).delete(clear))
        .route("/release", post(release))
        .route("/reset", post(reset))
        .route("/idempotency", put(idempotency))
        .with_state(desk)
}

async fn executed(State(desk): State<Arc<Desk>>) -> Json<Vec<Executed>> {
    Json(desk.snapshot().executed)
}

async fn requests(State(desk): State<Arc<Desk>>) -> Json<Vec<Received>> {
    Json(desk.snapshot().requests)
}

async fn fired(State(desk): State<Arc<Desk>>) -> Json<Vec<Fired>> {
    Json(desk.snapshot().fired)
}

async fn pending(State(desk): State<Arc<Desk>>) -> Json<Vec<Fault>> {
    Json(desk.snapshot().pending)
}

/// Whatever the body calls itself: `kubectl create --raw` says nothing of it.
async fn script(State(desk): State<Arc<Desk>>, body: Bytes) -> (StatusCode, Json<Value>) {
    let faults = match serde_json::from_slice::<Vec<Fault>>(&body) {
        Ok(faults) => faults,
        Err(why) => return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": why.to_string() }))),
    };
    match desk.add(faults) {
        Ok(()) => (StatusCode::OK, Json(json!({ "pending": desk.snapshot().pending }))),
        Err(why) => (StatusCode::BAD_REQUEST, Json(json!({ "error": why.to_string() }))),
    }
}

async fn clear(State(desk): State<Arc<Desk>>) -> StatusCode {
    desk.clear_script();
    StatusCode::NO_CONTENT
}

async fn release(State(desk): State<Arc<Desk>>) -> StatusCode {
    desk.release();
    StatusCode::NO_CONTENT
}

async fn reset(State(desk): State<Arc<Desk>>) -> StatusCode {
    desk.reset();
    StatusCode::NO_CONTENT
}

async fn idempotency(State(desk): State<Arc<Desk>>, Json(wanted): Json<Idempotency>) -> StatusCode {
    desk.honour_keys(wanted.on);
    StatusCode::NO_CONTENT
}
