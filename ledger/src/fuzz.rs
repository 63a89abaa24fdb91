//! The parsers of outside bytes that have no public name, for the targets in `fuzz/` and for nobody else.

use std::sync::Arc;

use axum::Router;
use kybernis_core::ids::AgentId;
use kybernis_core::machine::Spans;
use kybernis_proto::v1;

use crate::auth::TokenKey;
use crate::engine::Engine;

/// The `/infra` routes over an engine.
pub fn router(engine: Engine, tokens: Arc<TokenKey>) -> Router {
    crate::http::router(engine, tokens)
}

/// A batch of spans as the engine takes it; `None` where it is refused.
pub fn spans(batch: v1::SpanBatch, agent: AgentId) -> Option<Spans> {
    crate::grpc::spans(batch, agent).ok()
}
