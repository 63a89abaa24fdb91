//! Streams that are not read: decided by host and address alone, carried, and recorded as ungoverned.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Uri};
use kybernis_core::cel::Facts;
use kybernis_core::ksp::{SpanStatus, SpanType};
use kybernis_core::policy::Verdict;
use kybernis_core::reason::{Code, Refusal};

use super::call::{Call, new_span};
use super::controls::Controls;
use super::judge::Judged;
use super::pass::Passing;
use super::record::Span;
use super::{Stack, now};
use crate::api_server;
use crate::listen::{Tunnel, TunnelEnd};
use crate::permit::{Allowed, Permit};
use crate::spool::Kind;

/// Decides about a tunnel and carries it; a refused one is closed.
pub(super) async fn carry(stack: Arc<Stack>, tunnel: Tunnel) {
    let Ok((identity, snapshot)) = stack.in_force().await else { return };
    let Ok(span) = new_span() else { return };
    let mut parts = http::Request::new(()).into_parts().0;
    (parts.method, parts.uri, parts.headers) = (Method::CONNECT, Uri::from_static("/"), HeaderMap::new());
    let api_server = stack.api_server.as_ref().filter(|api| tunnel.is_tls() && api.is_at(tunnel.target().address));
    let mut target = tunnel.target().clone();
    if let Some(api) = api_server {
        // By whatever name the agent calls it, or by none.
        target.authority = api.authority();
    }
    let Ok(call) = Call::read(parts, target, Controls::default(), &identity, now()) else { return };
    let tool = snapshot.policy().set().resolve(&call.head);
    let judgement = match api_server {
        Some(_) => snapshot.policy().judge_listed(api_server::RULE, &call.head, &tool, &Facts::new()),
        None => snapshot.policy().judge(&call.head, &tool, &Facts::new()),
    };
    let judged = Judged { snapshot: Arc::clone(&snapshot), tool, facts: Facts::new(), judgement, noted: Vec::new() };
    let record = Span::of(&call, &span, SpanType::Http, Some(&judged)).noted("ungoverned", true);
    let refusal = match &judged.judgement.verdict {
        Verdict::Allow => None,
        Verdict::Deny(_) => judged.denial(),
        Verdict::RequireApproval(_) => {
            Some(Refusal::new(Code::SessionRefused, "A stream that is not read cannot be bound by an approval."))
        }
    };
    if let Some(refusal) = refusal {
        tracing::warn!(host = %call.head.host(), code = %refusal.code, detail = refusal.detail, "a stream that is not HTTP was refused");
        stack.record(&record.refused(&refusal));
        return;
    }
    let began = Instant::now();
    let mut passing = Passing::new(Arc::clone(&stack), record, Kind::Kept, 200);
    match tunnel.run(Permit::session(Allowed::by_policy()), &stack.upstream, &mut passing.carried).await {
        Ok(TunnelEnd::Carried) => passing.end(SpanStatus::Ok),
        // Each of its requests has a span of its own.
        Ok(TunnelEnd::ReadAfterAll) => drop(passing.span.take()),
        Err(error) => {
            tracing::debug!(%error, seconds = began.elapsed().as_secs(), "a tunnel ended early");
            passing.end(SpanStatus::Error);
        }
    }
}
