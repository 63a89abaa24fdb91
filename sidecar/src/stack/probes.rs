//! Probes that the ledger orders for effects in doubt: sent by any living sidecar of the agent, read by the tool's words.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt as _;
use kybernis_core::cel::{Facts, ResponseFacts};
use kybernis_core::json::Json;
use kybernis_core::policy::{ProbeWord, RenderedProbe};
use kybernis_proto::v1;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Stack, call};
use crate::body::SendBody;
use crate::control::{Backoff, CallError};
use crate::permit::{Allowed, Permit};
use crate::target::{Authority, Scheme, Target};

/// Probes under way at a time; the ledger asks again for what finds no place.
const AT_ONCE: usize = 8;
/// For one probe, its answer included.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a probe's answer that are read.
const ANSWER_MAX: usize = 256 * 1024;

/// Takes orders for as long as the process lives.
pub(super) async fn serve(stack: Arc<Stack>, closing: CancellationToken) {
    stack.control.ready().await;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut backoff = Backoff::new();
    loop {
        let ended = tokio::select! {
            () = closing.cancelled() => return,
            ended = orders(&stack, &places, &mut backoff) => ended,
        };
        match ended {
            Ok(()) => {}
            Err(CallError::Away(reason)) => tracing::debug!(reason, "the probe stream ended"),
            Err(CallError::Refused(reason)) => tracing::error!(reason, "the ledger gives no probe orders"),
        }
        backoff.wait().await;
    }
}

async fn orders(stack: &Arc<Stack>, places: &Arc<Semaphore>, backoff: &mut Backoff) -> Result<(), CallError> {
    let mut orders = stack.control.watch_probes().await?;
    while let Some(order) = orders.message().await? {
        backoff.reset();
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return Ok(()) };
        let stack = Arc::clone(stack);
        tokio::spawn(async move {
            carry_out(&stack, order).await;
            drop(place);
        });
    }
    Ok(())
}

async fn carry_out(stack: &Stack, order: v1::ProbeOrder) {
    let word = match serde_json::from_slice::<RenderedProbe>(&order.request) {
        Ok(probe) => tokio::time::timeout(WITHIN, ask(stack, &probe)).await.unwrap_or_else(|_| {
            tracing::warn!(url = probe.url, "a probe got no answer in time");
            ProbeWord::Unsure
        }),
        Err(error) => {
            tracing::error!(%error, "a probe order cannot be read");
            ProbeWord::Unsure
        }
    };
    let finding = match word {
        ProbeWord::Executed => v1::Finding::Executed,
        ProbeWord::NotExecuted => v1::Finding::NotExecuted,
        ProbeWord::Unsure => v1::Finding::Unsure,
    };
    let report = v1::ProbeReport {
        boot: stack.control.boot().to_string(),
        effect: order.effect,
        fence: order.fence,
        finding: finding.into(),
        asked_at_ms: order.asked_at_ms,
    };
    if let Err(error) = stack.control.report_probe(report).await {
        tracing::warn!(%error, "a probe's finding could not be reported; the ledger will ask again");
    }
}

async fn ask(stack: &Stack, probe: &RenderedProbe) -> ProbeWord {
    let Some((target, request)) = request(stack, probe) else { return ProbeWord::Unsure };
    let answer = match stack.upstream.send(Permit::read(Allowed::by_policy()), request, &target).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(url = probe.url, %error, "a probe got no answer");
            return ProbeWord::Unsure;
        }
    };
    let (head, mut body) = (answer.head, answer.body);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return ProbeWord::Unsure };
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
        if bytes.len() > ANSWER_MAX {
            tracing::warn!(url = probe.url, bytes = ANSWER_MAX, "a probe's answer is longer than is read");
            return ProbeWord::Unsure;
        }
    }
    let json = Json::parse(&bytes).ok();
    let headers = call::pairs(&head.headers);
    let response = ResponseFacts { status: head.status.as_u16(), headers: &headers, body: json.as_ref() };
    let word = probe.read(&Facts::new().with_response(&response));
    tracing::debug!(url = probe.url, status = head.status.as_u16(), ?word, "a probe was answered");
    word
}

fn request(stack: &Stack, probe: &RenderedProbe) -> Option<(Target, Request<SendBody>)> {
    let unusable = |what: &str| tracing::error!(url = probe.url, what, "a probe cannot be sent");
    let url = url::Url::parse(&probe.url).inspect_err(|_| unusable("its URL is not one")).ok()?;
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        _ => Scheme::Http,
    };
    let authority = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
    let authority = Authority::parse(&authority, None).inspect_err(|_| unusable("its host is not one")).ok()?;
    let mut request = Request::new(SendBody::empty());
    *request.method_mut() = Method::from_bytes(probe.method.as_bytes()).ok()?;
    *request.uri_mut() = url[url::Position::BeforePath..url::Position::AfterQuery].parse::<Uri>().ok()?;
    for (name, value) in &probe.headers {
        request.headers_mut().append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    if let Some(named) = &probe.secret_ref {
        let Some(mut value) = stack.control.policy().and_then(|snapshot| HeaderValue::from_bytes(snapshot.secret(named)?).ok()) else {
            unusable("its secret is not there");
            return None;
        };
        value.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
    }
    Some((Target::new(scheme, authority), request))
}
