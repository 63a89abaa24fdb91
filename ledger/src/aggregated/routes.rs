//! What can be asked: which group is served, and what the ledger knows of a namespace.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State as Shared};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kybernis_core::ids::is_dns_label;
use kybernis_core::reason::Code;
use serde_json::{Value, json};

use super::status::Failed;
use super::{Aggregated, GROUP, VERSION};
use crate::engine::Engine;
use crate::http::{Answer, Failure, Listing, Page, Within, events};

/// The routes; behind them nobody is asked who they are.
pub(super) fn router(aggregated: Aggregated) -> Router {
    let group = format!("/apis/{GROUP}");
    let version = format!("{group}/{VERSION}");
    let namespace = format!("{version}/namespaces/{{namespace}}");
    Router::new()
        .route("/apis", get(groups))
        .route(&group, get(group_alone))
        .route(&version, get(resources))
        .route(&format!("{namespace}/runs"), get(runs))
        .route(&format!("{namespace}/effects"), get(effects))
        .route(&format!("{namespace}/gates"), get(gates))
        .route(&format!("{namespace}/runs/{{run}}/events"), get(run_events))
        .layer(middleware::from_fn(only_known_parameters))
        .fallback(async || Failed::not_found())
        .method_not_allowed_fallback(async || Failed::not_allowed())
        .with_state(aggregated)
}

/// What a listing may be asked for; none of these names has a character that is escaped.
const PARAMETERS: [&str; 5] = ["run_id", "status", "type", "after", "limit"];

/// RBAC by `resourceNames` goes by the `fieldSelector` of a listing: what the API server has judged by and we would pass over must not
/// be there. Whatever else is there would be passed over, too.
async fn only_known_parameters(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let mut names = query.split('&').filter(|part| !part.is_empty()).map(|part| part.split('=').next().unwrap_or_default());
    match names.find(|name| !PARAMETERS.contains(name)) {
        Some(name) => Failed::bad_request(format!("query parameter {name:.100?} is none of {}", PARAMETERS.join(", "))).into_response(),
        None => next.run(request).await,
    }
}

/// `APIGroup` of `meta/v1`, without its own kind.
fn group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

async fn groups() -> Json<Value> {
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}))
}

async fn group_alone() -> Json<Value> {
    let mut alone = group();
    alone["kind"] = Value::from("APIGroup");
    alone["apiVersion"] = Value::from("v1");
    Json(alone)
}

/// None that `kubectl get` could print or a controller could list: what is read here are no objects.
async fn resources() -> Json<Value> {
    Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"), "resources": []}))
}

/// Why there is no answer.
enum Unanswered {
    Call(Failed),
    Ledger(Failure),
}

impl<E: Into<Failure>> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::Ledger(error.into())
    }
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        match self {
            Self::Call(failed) => failed.into_response(),
            Self::Ledger(failure) => failure.into_response(),
        }
    }
}

type Answered = Result<Answer, Unanswered>;
type Named = Result<Path<String>, PathRejection>;
type Asked = Result<Query<Page>, QueryRejection>;

async fn runs(aggregated: Shared<Aggregated>, namespace: Named, query: Asked) -> Answered {
    list(Listing::Runs, aggregated, namespace, query).await
}

async fn effects(aggregated: Shared<Aggregated>, namespace: Named, query: Asked) -> Answered {
    list(Listing::Effects, aggregated, namespace, query).await
}

async fn gates(aggregated: Shared<Aggregated>, namespace: Named, query: Asked) -> Answered {
    list(Listing::Gates, aggregated, namespace, query).await
}

async fn list(listing: Listing, Shared(aggregated): Shared<Aggregated>, namespace: Named, query: Asked) -> Answered {
    let Path(namespace) = namespace.map_err(|_| Unanswered::Call(Failed::not_found()))?;
    let Query(query) = query.map_err(Failure::from)?;
    Ok(match aggregated.engine_of(&namespace).await? {
        Some(engine) => listing.read(&engine, Within::Namespace(namespace), query).await,
        None => listing.empty(&query),
    })
}

async fn run_events(
    Shared(aggregated): Shared<Aggregated>,
    named: Result<Path<(String, String)>, PathRejection>,
    query: Asked,
) -> Answered {
    let Path((namespace, run)) = named.map_err(|_| Unanswered::Call(Failed::not_found()))?;
    let Query(query) = query.map_err(Failure::from)?;
    let run = unescaped(run);
    Ok(match aggregated.engine_of(&namespace).await? {
        Some(engine) => events(&engine, Within::Namespace(namespace), query.of_run(run)).await,
        None => Err(Failure::new(Code::NotFound, format!("There is no run {run}."))),
    })
}

/// The API server unescapes a path before it judges and forwards it, so a slash in a run's name would be one between segments: whoever
/// asks escapes it twice. No run's name has a `%` of its own.
fn unescaped(run: String) -> String {
    run.replace("%2F", "/").replace("%2f", "/")
}

impl Aggregated {
    /// The engine of the tenant that a namespace belongs to; `None` where that has nothing on record, and asking for it makes nothing.
    async fn engine_of(&self, namespace: &str) -> Result<Option<Engine>, Unanswered> {
        let missing = || Unanswered::Call(Failed::no_namespace(namespace));
        // What is no namespace's name is no part of a path to the API server either.
        if !is_dns_label(namespace) {
            return Err(missing());
        }
        let tenant = (self.tenant_of)(namespace.to_owned()).await.map_err(|reason| {
            tracing::warn!(reason, "a namespace's tenant cannot be asked");
            Failure::new(Code::LedgerUnavailable, "The API server does not say which tenant the namespace belongs to.")
        })?;
        let tenant = self.tenants.known(&tenant.ok_or_else(missing)?).await?;
        Ok(tenant.map(|tenant| tenant.engine.clone()))
    }
}
