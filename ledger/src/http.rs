//! The `/infra` HTTP API, as far as reading goes, and a person's word on a gate. Envelope: `{"ok": true, "data": …}`; a
//! failure carries the problem's members beside `"ok": false` and `"error"`.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use kybernis_core::ids::{GateId, RequestDigest, RunId};
use kybernis_core::machine::{DecideGate, GateVerdict, REASON_MAX, Refuse};
use kybernis_core::reason::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::{Auth, AuthError, Claims, Endpoint};
use crate::engine::{CallError, Engine};
use crate::tenants::{TenantError, Tenants};
use crate::views::{EffectView, EventView, GateView, RunView};

/// Items on one page unless the caller says less or more.
const PAGE: usize = 100;

/// Most items on one page; the rest follows under `next`.
const PAGE_MAX: usize = 1000;

/// What every handler shares.
#[derive(Clone)]
struct Api {
    auth: Auth,
    tenants: Tenants,
}

/// The routes.
pub(crate) fn router(auth: Auth, tenants: Tenants) -> Router {
    Router::new()
        .route("/infra/runs", get(runs))
        .route("/infra/graph/events", get(events))
        .route("/infra/effects", get(effects))
        .route("/infra/gates", get(gates))
        .route("/infra/gate/status", get(gate_status))
        .route("/infra/gate/decide", post(decide_gate))
        .fallback(async || Failure::new(Code::NotFound, "There is no such endpoint; see docs/http-api.md."))
        .with_state(Api { auth, tenants })
}

/// A refusal in the envelope.
struct Failure(Box<Refusal>);

impl Failure {
    fn new(code: Code, detail: impl Into<String>) -> Self {
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

fn bad(field: &str, rule: impl std::fmt::Display) -> Failure {
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

type Answer = Result<Json<Value>, Failure>;

fn ok(data: Value) -> Answer {
    Ok(Json(json!({"ok": true, "data": data})))
}

impl Api {
    /// Who calls, and the engine of their tenant.
    async fn admit(&self, headers: &HeaderMap, endpoint: Endpoint) -> Result<(Claims, Engine), Failure> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let claims = self.auth.admit(authorization, endpoint).await?;
        let tenant = self.tenants.of(&claims.tenant).await?;
        Ok((claims, tenant.engine.clone()))
    }
}

/// What narrows a listing. `after` is the `next` of the page before.
#[derive(Debug, Default, Deserialize)]
struct Page {
    run_id: Option<String>,
    status: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> Result<usize, Failure> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit @ 1..=PAGE_MAX) => Ok(limit),
            Some(other) => Err(bad("limit", format!("{other} is not within 1 and {PAGE_MAX}"))),
        }
    }
}

/// The newest first: pages by position in that order.
fn page<T: serde::Serialize>(name: &str, mut items: Vec<T>, after: Option<&str>, limit: usize) -> Answer {
    let skip = match after {
        None => 0,
        Some(text) => text.parse::<usize>().map_err(|_| bad("after", "is the `next` of the page before"))?,
    };
    let total = items.len();
    items.drain(..skip.min(total));
    items.truncate(limit);
    let next = (skip + items.len() < total).then(|| (skip + items.len()).to_string());
    ok(json!({name: items, "next": next}))
}

async fn runs(Shared(api): Shared<Api>, headers: HeaderMap, query: Result<Query<Page>, QueryRejection>) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    let mut runs = engine.read(|state| state.runs().map(|(id, run)| RunView::new(id, run)).collect::<Vec<_>>()).await?;
    runs.sort_by(|a, b| (&b.started_at, &b.run_id).cmp(&(&a.started_at, &a.run_id)));
    page("runs", runs, query.after.as_deref(), query.limit()?)
}

async fn events(Shared(api): Shared<Api>, headers: HeaderMap, query: Result<Query<Page>, QueryRejection>) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    let limit = query.limit()?;
    let run = query.run_id.ok_or_else(|| bad("run_id", "is missing"))?;
    let run = RunId::new(&run).map_err(|error| bad("run_id", error))?;
    let after = match &query.after {
        None => 0,
        Some(text) => text.parse::<u64>().map_err(|_| bad("after", "is the `next` of the page before"))?,
    };
    let known = {
        let run = run.clone();
        engine.read(move |state| state.run(&run).map(|run| run.events)).await?
    };
    let Some(total) = known else {
        return Err(Failure::new(Code::NotFound, format!("There is no run {run}.")));
    };
    let events = match engine.run_events(run, after, limit).await? {
        Ok(events) => events,
        Err(error) => return Err(Failure::new(Code::LedgerUnavailable, error.to_string())),
    };
    let last = events.last().map_or(after, |(seq, _)| *seq);
    let views = events.iter().map(|(seq, event)| EventView::new(*seq, event));
    let views: Vec<_> = views.filter(|view| query.kind.as_ref().is_none_or(|kind| *kind == view.kind)).collect();
    let next = (last < total && !events.is_empty()).then(|| last.to_string());
    ok(json!({"events": views, "next": next}))
}

async fn effects(Shared(api): Shared<Api>, headers: HeaderMap, query: Result<Query<Page>, QueryRejection>) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    let (run, status, limit) = (query.run_id.clone(), query.status.clone(), query.limit()?);
    let fits = move |view: &EffectView| {
        run.as_ref().is_none_or(|run| view.run_id == *run) && status.as_ref().is_none_or(|status| view.state == *status)
    };
    let mut effects = engine.read(move |state| state.effects().map(EffectView::new).filter(fits).collect::<Vec<_>>()).await?;
    effects.sort_by(|a, b| (&b.granted_at, &b.effect_id).cmp(&(&a.granted_at, &a.effect_id)));
    page("effects", effects, query.after.as_deref(), limit)
}

async fn gates(Shared(api): Shared<Api>, headers: HeaderMap, query: Result<Query<Page>, QueryRejection>) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    let (run, status, limit) = (query.run_id.clone(), query.status.clone(), query.limit()?);
    let fits = move |view: &GateView| {
        run.as_ref().is_none_or(|run| view.run_id == *run) && status.as_ref().is_none_or(|status| view.status == *status)
    };
    let mut gates = engine.read(move |state| state.gates().map(GateView::new).filter(fits).collect::<Vec<_>>()).await?;
    gates.sort_by(|a, b| (&b.opened_at, &b.gate_id).cmp(&(&a.opened_at, &a.gate_id)));
    page("gates", gates, query.after.as_deref(), limit)
}

#[derive(Debug, Deserialize)]
struct Named {
    gate_id: String,
}

async fn gate_status(Shared(api): Shared<Api>, headers: HeaderMap, query: Result<Query<Named>, QueryRejection>) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(named) = query?;
    ok(json!(gate(&engine, &named.gate_id).await?))
}

async fn gate(engine: &Engine, name: &str) -> Result<GateView, Failure> {
    let id = GateId::new(name).map_err(|error| bad("gate_id", error))?;
    let view = engine.read(move |state| state.gate(&id).map(GateView::new)).await?;
    view.ok_or_else(|| Failure::new(Code::NotFound, format!("There is no gate {name}.")))
}

/// A person's word. `decided_by` is ignored: who says it stands in the token.
#[derive(Debug, Deserialize)]
struct Word {
    gate_id: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    digest: Option<RequestDigest>,
}

async fn decide_gate(Shared(api): Shared<Api>, headers: HeaderMap, body: Result<Json<Word>, JsonRejection>) -> Answer {
    let (claims, engine) = api.admit(&headers, Endpoint::DecideGate).await?;
    let Json(word) = body?;
    let verdict = match word.status.as_str() {
        "APPROVED" => GateVerdict::Approve,
        "DENIED" => GateVerdict::Deny,
        "EXECUTED" => GateVerdict::Executed,
        "NOT_EXECUTED" => GateVerdict::NotExecuted,
        other => return Err(bad("status", format!("{other:?} is none of APPROVED, DENIED, EXECUTED, NOT_EXECUTED"))),
    };
    if word.reason.chars().count() > REASON_MAX {
        return Err(bad("reason", format!("has more than {REASON_MAX} characters")));
    }
    let id = GateId::new(&word.gate_id).map_err(|error| bad("gate_id", error))?;
    let said = DecideGate { gate: id, digest: word.digest, person: claims.subject, verdict, reason: word.reason, voucher: None };
    engine.decide_gate(said).await??;
    ok(json!(gate(&engine, &word.gate_id).await?))
}
