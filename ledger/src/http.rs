//! The `/infra` HTTP API, as far as reading goes, and a person's word on a gate.

mod answer;
mod listings;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use kybernis_core::ids::{GateId, RequestDigest};
use kybernis_core::machine::{DecideGate, GateVerdict, REASON_MAX};
use kybernis_core::reason::Code;
use serde::Deserialize;
use serde_json::json;

pub(crate) use self::answer::{Answer, Failure};
use self::answer::{bad, ok};
pub(crate) use self::listings::{Listing, Page, Within, events};
use crate::auth::{Auth, Claims, Endpoint};
use crate::engine::Engine;
use crate::tenants::Tenants;
use crate::views::GateView;

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
        .route("/infra/graph/events", get(run_events))
        .route("/infra/effects", get(effects))
        .route("/infra/gates", get(gates))
        .route("/infra/gate/status", get(gate_status))
        .route("/infra/gate/decide", post(decide_gate))
        .fallback(async || Failure::new(Code::NotFound, "There is no such endpoint; see docs/http-api.md."))
        .with_state(Api { auth, tenants })
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

/// A listing's query.
type Asked = Result<Query<Page>, QueryRejection>;

async fn runs(api: Shared<Api>, headers: HeaderMap, query: Asked) -> Answer {
    list(Listing::Runs, api, headers, query).await
}

async fn effects(api: Shared<Api>, headers: HeaderMap, query: Asked) -> Answer {
    list(Listing::Effects, api, headers, query).await
}

async fn gates(api: Shared<Api>, headers: HeaderMap, query: Asked) -> Answer {
    list(Listing::Gates, api, headers, query).await
}

async fn list(listing: Listing, Shared(api): Shared<Api>, headers: HeaderMap, query: Asked) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    listing.read(&engine, Within::Tenant, query).await
}

async fn run_events(Shared(api): Shared<Api>, headers: HeaderMap, query: Asked) -> Answer {
    let (_, engine) = api.admit(&headers, Endpoint::Read).await?;
    let Query(query) = query?;
    events(&engine, Within::Tenant, query).await
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
