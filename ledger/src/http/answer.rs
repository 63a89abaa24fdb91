//! The envelope of answers: `{"ok": true, "data": …}`; a failure carries the problem's members beside `"ok": false` and `"error"`.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kybernis_core::machine::Refuse;
use kybernis_core::reason::{Code, Refusal};
use serde_json::{Value, json};

use crate::auth::AuthError;
use crate::engine::CallError;
use crate::tenants::TenantError;

/// A refusal in the envelope.
#[derive(Debug)]
pub(crate) struct Failure(Box<Refusal>);

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Refusal::new(code, detail)))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut body = serde_json::to_value(self.0.problem()).unwrap_or_default();
        if let Some(members) = body.as_object_mut() {
            members.insert("ok".to_owned(), Value::Bool(false));
            members.insert("error".to_owned(), Value::from(self.0.code.as_str()));
        }
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing | AuthError::Invalid | AuthError::Expired => Code::Unauthenticated,
            AuthError::Forbidden | AuthError::Unknown(_) => Code::Forbidden,
            AuthError::Unavailable => Code::LedgerUnavailable,
        };
        Self::new(code, format!("{error}."))
    }
}

impl From<TenantError> for Failure {
    fn from(error: TenantError) -> Self {
        Self::new(Code::LedgerUnavailable, format!("{error}."))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::new(Code::LedgerUnavailable, format!("{error}."))
    }
}

impl From<Refuse> for Failure {
    fn from(refuse: Refuse) -> Self {
        Self(Box::new(Refusal { gate: refuse.gate, ..Refusal::new(refuse.code, refuse.detail) }))
    }
}

/// A field that breaks a rule.
pub(crate) fn bad(field: &str, rule: impl std::fmt::Display) -> Failure {
    Failure::new(Code::BadRequest, format!("`{field}`: {rule}."))
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        bad("query", rejection.body_text())
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        bad("body", rejection.body_text())
    }
}

/// What a handler answers.
pub(crate) type Answer = Result<Json<Value>, Failure>;

/// A success in the envelope.
pub(crate) fn ok(data: Value) -> Answer {
    Ok(Json(json!({"ok": true, "data": data})))
}
