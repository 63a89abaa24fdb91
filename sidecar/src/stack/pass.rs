//! Calls that are decided here and pass: reads, samples of a model, sessions. Counted and recorded, not deduplicated.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use kybernis_core::ids::SpanId;
use kybernis_core::ksp::{SpanStatus, Usage};
use kybernis_core::machine::retry::{AttemptEnd, Next, Safety, next};
use kybernis_core::machine::{DoubtCause, NotSentProof};
use kybernis_core::policy::Class;
use kybernis_core::reason::{Code, Refusal};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::attempt::retry_after;
use super::call::Call;
use super::intake::{HashOfStream, Intake};
use super::judge::Judged;
use super::record::{Span, Stamp, span_type, stripped};
use super::{Stack, jitter, refuse};
use crate::arrival::Arrival;
use crate::body::{BodyError, ResponseBody};
use crate::permit::{Allowed, Permit};
use crate::session::{Carried, join};
use crate::spool::Kind;
use crate::upstream::{Answer, AnswerBody, Doubt, NotSent, Piece, SendFailure};

/// What a call passes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum As {
    /// A read, or a sample.
    Read,
    /// A stream both ways.
    Session,
}

/// A call that passes.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) stack: Arc<Stack>,
    pub(super) call: Call,
    pub(super) judged: Judged,
    pub(super) span: SpanId,
    pub(super) pass_as: As,
}

impl Pass {
    /// Sends it and streams the answer back.
    pub(super) async fn answer(mut self, mut intake: Intake, arrival: Arrival) -> Response<ResponseBody> {
        let terms = self.judged.snapshot.policy().retry(&self.call.head, &self.judged.tool);
        let terms = terms.filter(|_| self.pass_as == As::Read && !self.call.controls.no_retries && !self.judged.audits());
        let hash = HashOfStream::default();
        let mut attempt = 1;
        loop {
            let Some(body) = intake.sendable(&hash) else {
                return self
                    .failed(&Refusal::new(Code::UpstreamUnreachable, "The request's body has streamed past and cannot be sent again."));
            };
            let request = self.request(body, terms.is_some());
            let permit = match self.pass_as {
                As::Read => Permit::read(Allowed::by_policy()),
                As::Session => Permit::session(Allowed::by_policy()),
            };
            let sending = self.stack.upstream.send(permit, request, &arrival.target);
            let per_try = terms.as_ref().and_then(|terms| terms.per_try_timeout);
            let sent = match per_try {
                Some(limit) => tokio::time::timeout(limit.to_std(), sending).await.unwrap_or(Err(Doubt::Timeout.into())),
                None => sending.await,
            };
            let wait = match (&terms, end_of(&sent)) {
                (Some(terms), Some((end, asked))) => match next(&terms.rule(), Safety::Read, attempt, end, asked, false, jitter()) {
                    Next::Again(wait) if intake.is_whole() && wait.to_std() <= WAIT_MAX => wait,
                    Next::Again(_) | Next::DecideAgain(_) | Next::Stop => return self.conclude(sent, arrival, attempt).await,
                },
                (_, _) => return self.conclude(sent, arrival, attempt).await,
            };
            tokio::time::sleep(wait.to_std()).await;
            attempt += 1;
        }
    }

    /// What goes out; `again` if it may have to once more.
    fn request(&mut self, body: crate::body::SendBody, again: bool) -> Request<crate::body::SendBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.call.method.clone();
        *request.uri_mut() = self.call.uri.clone();
        *request.headers_mut() = if again { self.call.headers.clone() } else { std::mem::take(&mut self.call.headers) };
        // A caller's key is a secret between it and us, and what is read needs none.
        if !self.judged.audits() {
            request.headers_mut().remove("idempotency-key");
        }
        request
    }

    async fn conclude(self, sent: Result<Answer, SendFailure>, arrival: Arrival, attempt: u32) -> Response<ResponseBody> {
        match sent {
            Ok(answer) => self.stream(answer, arrival, attempt).await,
            Err(failure) => self.failed(&refusal_of(&failure)),
        }
    }

    async fn stream(self, answer: Answer, arrival: Arrival, attempt: u32) -> Response<ResponseBody> {
        let Answer { mut head, mut body, upgrade, .. } = answer;
        Stamp::allowed(&self.judged, &self.span, attempt).put_on(&self.call, &mut head.headers);
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        let kind = if self.pass_as == As::Read && self.judged.tool.class() == Class::Read { Kind::Read } else { Kind::Kept };
        let mut passing = Passing::new(self.stack, span, kind, head.status.as_u16());
        if let (Some(agent), Some(far)) = (arrival.upgrade, upgrade) {
            let cut = passing.stack.cut.clone();
            // Not lost sight of: the stack is not drained while it passes.
            tokio::spawn(cut.run_until_cancelled_owned(async move {
                match join(agent, far, &mut passing.carried).await {
                    Ok(()) => passing.end(SpanStatus::Ok),
                    Err(error) => {
                        tracing::debug!(%error, "a session broke");
                        passing.end(SpanStatus::Error);
                    }
                }
            }));
            return Response::from_parts(head, crate::body::empty());
        }
        if body.is_end_stream() {
            passing.end(SpanStatus::Ok);
            return Response::from_parts(head, crate::body::empty());
        }
        let ahead = body.came_along().await;
        Response::from_parts(head, Counted { ahead, body, passing }.boxed_unsync())
    }

    /// The far side gave no answer, or there is none to give.
    fn failed(self, refusal: &Refusal) -> Response<ResponseBody> {
        let refusal = Refusal {
            run: Some(self.call.run.clone()),
            span: Some(self.span.clone()),
            policy_id: self.judged.policy_id(),
            ..refusal.clone()
        };
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail.clone());
        self.stack.record(&span.ended(SpanStatus::Error, Some(code), Some(detail), Usage::default(), BTreeMap::new()));
        refuse::of_attempt(&refusal, self.call.grpc, 1)
    }
}

/// A longer wait is the caller's own.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);

fn end_of(sent: &Result<Answer, SendFailure>) -> Option<(AttemptEnd, Option<kybernis_core::time::Millis>)> {
    match sent {
        Ok(answer) => {
            let end = AttemptEnd::Status { status: answer.head.status.as_u16(), rejected: false };
            Some((end, retry_after(&answer.head.headers)))
        }
        Err(SendFailure::NotSent(NotSent::TlsFailed(_))) => Some((AttemptEnd::NotSent(NotSentProof::TlsFailed), None)),
        Err(SendFailure::NotSent(NotSent::ResolveFailed(_) | NotSent::ConnectFailed(_))) => {
            Some((AttemptEnd::NotSent(NotSentProof::ConnectFailed), None))
        }
        Err(SendFailure::NotSent(_)) => Some((AttemptEnd::NotSent(NotSentProof::ZeroBytesWritten), None)),
        Err(SendFailure::Doubt(Doubt::RequestCut | Doubt::BadAnswer)) => None,
        Err(SendFailure::Doubt(Doubt::Timeout)) => Some((AttemptEnd::Unclear(DoubtCause::Timeout), None)),
        Err(SendFailure::Doubt(_)) => Some((AttemptEnd::Unclear(DoubtCause::Reset), None)),
    }
}

/// A read has no fate to be in doubt about: 502, or 504 where nothing came in time.
pub(super) fn refusal_of(failure: &SendFailure) -> Refusal {
    match failure {
        SendFailure::Doubt(Doubt::Timeout) => {
            Refusal::new(Code::UpstreamTimeout, "The far side did not answer in the time that the RetryPolicy allows.")
        }
        SendFailure::NotSent(proof) => {
            Refusal::new(Code::UpstreamUnreachable, format!("The far side cannot be reached: {proof}{}.", cause(proof)))
        }
        SendFailure::Doubt(doubt) => Refusal::new(Code::UpstreamUnreachable, format!("The far side gave no answer: {doubt}.")),
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |source| format!(" ({source})"))
}

/// What will stand in the span of a call that is passing. A call that nobody reads to its end was given up.
#[derive(Debug)]
pub(super) struct Passing {
    stack: Arc<Stack>,
    pub(super) span: Option<Span>,
    kind: Kind,
    status: u16,
    pub(super) carried: Carried,
    /// The stack is not drained before the span is on record, whichever task this call passes in.
    _under_way: TaskTrackerToken,
}

impl Passing {
    pub(super) fn new(stack: Arc<Stack>, span: Span, kind: Kind, status: u16) -> Self {
        let under_way = stack.tasks.token();
        Self { stack, span: Some(span), kind, status, carried: Carried::default(), _under_way: under_way }
    }

    pub(super) fn end(&mut self, status: SpanStatus) {
        let Some(span) = self.span.take() else { return };
        let failed = self.status >= 400;
        let code = failed.then(|| format!("status_{}", self.status));
        let status = if failed && status == SpanStatus::Ok { SpanStatus::Error } else { status };
        let Carried { sent, received } = self.carried;
        let usage = Usage { bytes_in: Some(received), bytes_out: Some(sent), ..Usage::default() };
        let events = span.ended(status, code, None, usage, BTreeMap::new());
        self.stack.spool.spans.record(self.kind, &events);
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.end(SpanStatus::Canceled);
    }
}

/// A passing answer's body: counted, and stripped of what only we may say.
struct Counted {
    /// What was taken from the body already.
    ahead: Option<Piece>,
    body: AnswerBody,
    passing: Passing,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = match this.ahead.take() {
            Some(piece) => piece,
            None => ready!(Pin::new(&mut this.body).poll_frame(cx)),
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                this.passing.carried.received += frame.data_ref().map_or(0, |data| data.len() as u64);
                let frame = stripped(frame);
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.passing.end(SpanStatus::Ok);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.passing.end(SpanStatus::Error);
                Some(Err(error))
            }
            None => {
                this.passing.end(SpanStatus::Ok);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let ahead = match &self.ahead {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Some(Err(_)) | None) | None => 0,
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(hint.lower().saturating_add(ahead));
        hint
    }
}
