//! Failures as Kubernetes shapes them: the `Status` of `meta/v1`, which every client of its API reads.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A failure that is about the call and not about what the ledger knows.
#[derive(Debug)]
pub(super) struct Failed {
    status: StatusCode,
    /// One of `metav1.StatusReason`.
    reason: &'static str,
    message: String,
}

impl Failed {
    pub(super) fn unauthorized() -> Self {
        Self { status: StatusCode::UNAUTHORIZED, reason: "Unauthorized", message: "Unauthorized".to_owned() }
    }

    pub(super) fn not_found() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self { status: StatusCode::NOT_FOUND, reason: "NotFound", message }
    }

    pub(super) fn no_namespace(name: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: "NotFound", message: format!("namespaces {name:?} not found") }
    }

    pub(super) fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "BadRequest", message }
    }

    pub(super) fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, reason: "MethodNotAllowed", message }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self { status, reason, message } = self;
        let code = status.as_u16();
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        });
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}
