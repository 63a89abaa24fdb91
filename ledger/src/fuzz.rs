//! The parsers of outside bytes that have no public name, for the targets in `fuzz/` and for nobody else.

use std::sync::Arc;

use axum::Router;
use kybernis_core::ids::AgentId;
use kybernis_core::machine::Spans;
use kybernis_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::auth::{Auth, Endpoint, TokenKey};
use crate::engine::{Engine, EngineError, Observers, Settings};
use crate::journal::Journal;
use crate::tenants::{Tenant, Tenants};
use crate::vault::Vault;

/// The `/infra` routes over a journal, and the engine behind them.
///
/// # Errors
/// When the journal cannot be folded.
pub async fn router(journal: Arc<dyn Journal>, vault: Arc<Vault>, tokens: Arc<TokenKey>) -> Result<(Router, Engine), EngineError> {
    let (tenant, _) = Tenant::over(journal, vault, Observers::default(), Settings::default(), CancellationToken::new()).await?;
    let engine = tenant.engine.clone();
    Ok((crate::http::router(Auth::Key(tokens), Tenants::One(tenant)), engine))
}

/// Whether an `Authorization` header lets its bearer read.
pub async fn admits(tokens: Arc<TokenKey>, authorization: &str) -> bool {
    Auth::Key(tokens).admit(Some(authorization), Endpoint::Read).await.is_ok()
}

/// A batch of spans as the engine takes it; `None` where it is refused.
pub fn spans(batch: v1::SpanBatch, agent: AgentId) -> Option<Spans> {
    crate::grpc::spans(batch, agent).ok()
}
