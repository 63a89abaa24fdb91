//! Audit mode: the call goes as it came, once, and its answer is shown as it comes. What would have been refused, changed or
//! replayed stands in its span, and what became of it is settled like any effect's, so that the record is there on the day
//! when the policies are enforced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response};
use http_body_util::BodyExt as _;
use kybernis_core::ksp::{SpanStatus, Usage};
use kybernis_core::machine::{DoubtCause, SettleOutcome};
use kybernis_core::reason::{Code, Refusal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::attempt::{Ended, cause_of_cut, ended_of, request};
use super::caller::Caller;
use super::decide::{Decided, ledger_away};
use super::deliver::{Passing, Streamed, announced, clone_of, stream};
use super::effect::{EFFECT_MAX, Effect, Granted};
use super::heard::Word;
use super::record::{Span, Stamp, span_type, strip};
use super::{pass, reply};
use crate::body;
use crate::permit::{self, EffectTerms, Permit};
use crate::upstream::{Answer, Cut};

/// How long a call in Audit mode, which goes whatever the answer, waits for a word of the ledger's.
pub(super) const AUDITED_WITHIN: Duration = Duration::from_millis(500);
/// An exchange whose caller reads on has no longest duration here; the clock wants one.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How watching a call ended.
pub(super) enum Observed {
    /// The call is over.
    Over,
    /// Another policy came into force before anything was sent: it may enforce.
    PolicyChanged,
}

/// What the ledger made of the call.
enum Recording {
    /// It has a record, to be settled.
    Granted(Box<Granted>),
    /// It has not answered yet.
    Asking(JoinHandle<Result<Decided, Refusal>>),
    /// It has none.
    Ungranted,
}

/// What became of it, for the record.
struct Became {
    outcome: SettleOutcome,
    body: Vec<u8>,
    bytes_in: u64,
}

impl Effect {
    /// Sends the call whatever the ledger says, and puts on record what became of it.
    pub(super) async fn observe(&mut self, caller: &mut Caller) -> Observed {
        let recording = match self.stack.ask_beside(&self.ask()) {
            Ok(mut asking) => match tokio::time::timeout(AUDITED_WITHIN, &mut asking).await {
                Ok(Ok(Ok(Decided::Stale))) if self.judge_anew(AUDITED_WITHIN).await.is_ok() => return Observed::PolicyChanged,
                Ok(decided) => self.recording(decided.unwrap_or_else(|_| Err(ledger_away()))),
                Err(_) => Recording::Asking(asking),
            },
            Err(refusal) => self.recording(Err(refusal)),
        };
        let Some(body) = self.intake.sendable(&self.hash) else { return Observed::Over };
        let request = request(&self.call.method, &self.call.uri, self.call.headers.clone(), body);
        let permit = Permit::effect(permit::Granted::by_audit(), EffectTerms::audited());
        let sending = self.stack.upstream.send(permit, request, &self.call.route);
        let sent = tokio::select! {
            sent = sending => Some(sent),
            () = self.nobody_waits(caller.gone()) => None,
        };
        let became = match sent {
            Some(Ok(answer)) => self.show(answer, &recording, caller).await,
            Some(Err(failure)) => {
                self.answer_refusal(&pass::refusal_of(&failure), caller);
                match ended_of(failure) {
                    Ended::NotSent { proof, .. } => Became::bare(SettleOutcome::NotSent(proof)),
                    Ended::InDoubt { cause, status, .. } => Became::bare(SettleOutcome::InDoubt { cause, status }),
                    Ended::Completed(_) | Ended::Rejected { .. } => return Observed::Over,
                }
            }
            None => Became::bare(doubt(DoubtCause::Timeout, None)),
        };
        self.put_down(recording, became).await;
        Observed::Over
    }

    /// Takes the ledger's word; a refusal is noted.
    fn recording(&mut self, decided: Result<Decided, Refusal>) -> Recording {
        let refusal = match decided {
            Ok(Decided::Granted { grant, send_by, lease_end }) => {
                let lease = self.stack.leases.hold(grant.effect.clone(), grant.fence, lease_end);
                self.stack.callers.watch(grant.effect.clone(), grant.fence, self.delivery.clone());
                return Recording::Granted(Box::new(Granted { grant, send_by, lease, at: Instant::now(), claim: None }));
            }
            Ok(Decided::Refused(refuse)) => self.refusal_of(refuse),
            Ok(Decided::Stale) => Refusal::new(Code::PolicyStale, "The policy in force has not reached this sidecar."),
            // The ledger does neither with a call that it is told to grant beside what it meets.
            Ok(Decided::Replay(_) | Decided::CallerGone) => return Recording::Ungranted,
            Err(refusal) => refusal,
        };
        if refusal.code == Code::RunForeign {
            self.call.belongs_to(&self.identity);
        }
        self.judged.noted.push(refusal);
        Recording::Ungranted
    }

    /// Passes the answer on as it comes, and says what it means at its end.
    async fn show(&self, answer: Answer, recording: &Recording, caller: &mut Caller) -> Became {
        let Answer { mut head, body: rest, .. } = answer;
        strip(&mut head.headers);
        let kept_head = clone_of(&head);
        let is_empty = http_body::Body::is_end_stream(&rest) || self.call.method == Method::HEAD;
        let (mut teller, withheld) = reply::channel(announced(&head));
        Stamp::allowed(&self.judged, &self.span, self.attempt).put_on(&self.call, &mut head.headers);
        let shown = if is_empty { body::empty() } else { withheld.boxed_unsync() };
        if !caller.answer(Response::from_parts(head, shown))
            && let Recording::Granted(granted) = recording
        {
            self.stack.callers.gone(&granted.grant.effect, granted.grant.fence);
        }
        let mut passing = Passing::new(Arc::clone(&self.stack.room));
        let deserted = teller.deserted();
        let streamed = tokio::select! {
            streamed = stream(None, rest, &mut passing, &mut teller, Instant::now() + NEVER) => streamed,
            () = self.nobody_waits(deserted) => Streamed::Cut(Cut::Timeout),
        };
        let status = Some(kept_head.status.as_u16());
        let bytes_in = passing.len;
        let trailers = match streamed {
            Streamed::Whole(trailers) => trailers,
            Streamed::Cut(cut) => {
                match cut {
                    // What a client of its own would take for the end.
                    Cut::UnauthenticatedClose => teller.end(None),
                    Cut::Eof | Cut::Reset | Cut::Timeout | Cut::Malformed => teller.breaks_off("the far side broke off"),
                }
                return Became { bytes_in, ..Became::bare(doubt(cause_of_cut(cut), status)) };
            }
        };
        teller.end(trailers.clone());
        let bound = self.judged.snapshot.policy().settings().body_bytes;
        // Nothing is added here: the far side has a key where the caller gave it one.
        let key_sent = self.judged.far_side_key_header(&self.call).is_some_and(|name| self.call.headers.contains_key(name));
        let terms = self.terms(key_sent, usize::try_from(bound).unwrap_or(usize::MAX));
        let rejected = |not_executed| {
            let outcome = SettleOutcome::Rejected { status: kept_head.status.as_u16(), not_executed };
            Became { bytes_in, ..Became::bare(outcome) }
        };
        match terms.word_of(&kept_head, passing.whole(bound).as_deref(), trailers.as_ref()) {
            Word::Completed => {
                let (answer, body, _room) = passing.stored(&kept_head, trailers.as_ref());
                Became { outcome: SettleOutcome::Completed(answer), body, bytes_in }
            }
            Word::Rejected { not_executed } => rejected(not_executed),
            // The caller goes on to Location by itself, in a call of its own.
            Word::GoesOn => rejected(false),
            Word::InDoubt | Word::Cut(_) => Became { bytes_in, ..Became::bare(doubt(self.judged.doubt_cause(), status)) },
        }
    }

    /// Waits for an exchange to be nobody's: its caller was gone for as long as an effect may take, or this life is over.
    async fn nobody_waits(&self, gone: impl Future<Output = ()>) {
        let deserted = async {
            gone.await;
            tokio::time::sleep(EFFECT_MAX).await;
        };
        self.stack.cut.run_until_cancelled(deserted).await;
    }

    /// Settles what became of it; where the ledger gave no grant the span alone tells.
    async fn put_down(&mut self, recording: Recording, became: Became) {
        let recording = match recording {
            Recording::Asking(asking) => {
                let decided = self.stack.cut.run_until_cancelled(asking).await;
                self.recording(decided.and_then(Result::ok).unwrap_or_else(|| Err(ledger_away())))
            }
            known => known,
        };
        let Became { outcome, body, bytes_in } = became;
        let Recording::Granted(granted) = recording else { return self.span_alone(&outcome, bytes_in) };
        if !matches!(outcome, SettleOutcome::Completed(_)) {
            self.stack.callers.forget(&granted.grant.effect, granted.grant.fence);
        }
        self.put_on_record(&granted, outcome, body, bytes_in).await;
    }

    fn span_alone(&self, outcome: &SettleOutcome, bytes_in: u64) {
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        let (status, code) = match outcome {
            SettleOutcome::Completed(_) => (SpanStatus::Ok, None),
            SettleOutcome::Rejected { status, .. } => (SpanStatus::Error, Some(format!("status_{status}"))),
            SettleOutcome::NotSent(_) => (SpanStatus::Error, Some("not_sent".to_owned())),
            SettleOutcome::InDoubt { .. } => (SpanStatus::Error, Some(Code::EffectInDoubt.as_str().to_owned())),
        };
        let usage = Usage { bytes_in: Some(bytes_in), ..Usage::default() };
        self.stack.record(&span.ended(status, code, None, usage, BTreeMap::new()));
    }
}

impl Became {
    const fn bare(outcome: SettleOutcome) -> Self {
        Self { outcome, body: Vec::new(), bytes_in: 0 }
    }
}

const fn doubt(cause: DoubtCause, status: Option<u16>) -> SettleOutcome {
    SettleOutcome::InDoubt { cause, status }
}
