//! One side effect from the verdict to its settled outcome. A task of its own owns it: once the ledger has granted it,
//! the caller's going away cancels nothing.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use kybernis_core::ids::SpanId;
use kybernis_core::machine::retry::{AttemptEnd, Next, RetryRule, Safety, next};
use kybernis_core::machine::{DoubtCause, Grant, NotSentProof, Refuse, SettleOutcome};
use kybernis_core::mutation::broken;
use kybernis_core::policy::RetryTerms;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Millis;
use tokio::time::Instant;

use super::attempt::{Attempt, Ended};
use super::call::{Call, new_span};
use super::caller::Caller;
use super::decide::{Ask, Decided, HOLD, ledger_away};
use super::intake::{HashOfStream, Intake};
use super::judge::{self, Judged, Named};
use super::leases::Lease;
use super::observe::Observed;
use super::pass::WAIT_MAX;
use super::record::{Span, span_type};
use super::settle::Recorded;
use super::{Stack, jitter, refuse};
use crate::body::ResponseBody;
use crate::boot_clock::BootInstant;
use crate::control::Identity;
use crate::delivery::Delivery;

/// The longest that one effect may take, its answer's body included; then it is in doubt.
pub(super) const EFFECT_MAX: Duration = Duration::from_secs(600);
/// How often a call is judged anew because the policy changed under it.
const POLICY_CHANGES: usize = 8;

/// An effect and all that is known of it.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) stack: Arc<Stack>,
    pub(super) identity: Arc<Identity>,
    pub(super) call: Call,
    pub(super) intake: Intake,
    pub(super) judged: Judged,
    pub(super) named: Named,
    pub(super) hash: HashOfStream,
    pub(super) span: SpanId,
    pub(super) attempt: u32,
    pub(super) delivery: Delivery,
}

/// A grant with what goes with it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) grant: Grant,
    pub(super) send_by: BootInstant,
    pub(super) lease: Lease,
    pub(super) at: Instant,
    /// The claim in our own spool that stands in for the ledger's.
    pub(super) claim: Option<u64>,
}

/// What follows an exchange.
enum After {
    /// The caller has its answer, or is gone.
    Over,
    /// The key is free and policy wants another try after this wait.
    DecideAgain(Duration),
}

impl Effect {
    /// Carries the effect out and answers its caller.
    pub(super) async fn answer(self) -> Response<ResponseBody> {
        let (caller, told) = Caller::new();
        let grpc = self.call.grpc;
        let tasks = self.stack.tasks.clone();
        tasks.spawn(self.run(caller));
        told.await.unwrap_or_else(|_| refuse::to_response(&ledger_away(), grpc))
    }

    async fn run(mut self, mut caller: Caller) {
        loop {
            if self.judged.audits() {
                match self.observe(&mut caller).await {
                    Observed::Over => return,
                    Observed::PolicyChanged => continue,
                }
            }
            match self.decide(&mut caller).await {
                Ok(Decided::Granted { grant, send_by, lease_end }) => {
                    self.note_sent(&grant.effect);
                    let lease = self.stack.leases.hold(grant.effect.clone(), grant.fence, lease_end);
                    let granted = Granted { grant, send_by, lease, at: Instant::now(), claim: None };
                    // Between the question and the grant another call may have gone out on a claim.
                    if let Err(refusal) = self.meets_no_claim() {
                        self.on_record(&granted, SettleOutcome::NotSent(NotSentProof::ZeroBytesWritten)).await;
                        return self.refuse(refusal, &mut caller);
                    }
                    match self.exchange(granted, &mut caller).await {
                        After::Over => return,
                        After::DecideAgain(wait) => tokio::time::sleep(wait).await,
                    }
                    // Nothing is under way any more, so nobody is owed another try.
                    if caller.is_gone() || !self.next_attempt() {
                        return;
                    }
                }
                Ok(Decided::Replay(replay)) => {
                    let response = self.replay(replay).await;
                    caller.answer(response);
                    return;
                }
                Ok(Decided::Refused(refuse)) => return self.refuse(self.refusal_of(refuse), &mut caller),
                Ok(Decided::Stale) => {
                    return self.refuse(Refusal::new(Code::PolicyStale, "The policy keeps changing; ask again."), &mut caller);
                }
                Ok(Decided::CallerGone) => return,
                Err(refusal) if self.may_go_alone(&refusal) => match self.go_alone().await {
                    Ok(granted) => {
                        self.exchange(granted, &mut caller).await;
                        return;
                    }
                    Err(refusal) => return self.refuse(refusal, &mut caller),
                },
                Err(refusal) => return self.refuse(refusal, &mut caller),
            }
        }
    }

    fn next_attempt(&mut self) -> bool {
        self.attempt += 1;
        new_span().map(|span| self.span = span).is_ok()
    }

    /// Asks the ledger, judging anew as often as the policy changes underneath.
    async fn decide(&mut self, caller: &mut Caller) -> Result<Decided, Refusal> {
        if !self.stack.spool.outcomes.has_room() {
            let detail = "The sidecar holds as many outcomes as it may until the ledger takes them. Nothing was sent; ask again later.";
            return Err(Refusal::new(Code::SpoolFull, detail));
        }
        self.meets_no_claim()?;
        for _ in 0..POLICY_CHANGES {
            let decided = self.stack.decide(&self.ask(), caller).await?;
            match decided {
                Decided::Stale => self.judge_anew(HOLD).await?,
                // The first answer belongs to a body that is known; so must this one be.
                Decided::Replay(_) if self.named.fingerprint.is_none() => {
                    self.named.fingerprint = Some(self.intake.hash_rest().await?);
                }
                other => return Ok(other),
            }
        }
        Ok(Decided::Stale)
    }

    pub(super) fn ask(&self) -> Ask<'_> {
        Ask {
            call: &self.call,
            intake: &self.intake,
            judged: &self.judged,
            named: &self.named,
            identity: &self.identity,
            span: &self.span,
            attempt: self.attempt,
        }
    }

    /// Judges by the policy that comes next, if it comes `within` this time.
    pub(super) async fn judge_anew(&mut self, within: Duration) -> Result<(), Refusal> {
        let old = self.judged.snapshot.digest();
        let newer = tokio::time::timeout(within, self.stack.control.newer_than(old)).await;
        newer.map_err(|_| {
            Refusal::new(Code::PolicyStale, "The policy in force has not reached this sidecar yet. Nothing was sent; ask again.")
        })?;
        let snapshot = self.stack.control.policy().ok_or_else(ledger_away)?;
        let mut noted = Vec::new();
        let tool = judge::tool_of(&snapshot, &self.call, &mut noted)?;
        self.judged = judge::judge(&snapshot, tool, &self.call, &self.intake, &self.identity, noted)?;
        if let Some(denial) = self.judged.denial() {
            return Err(denial);
        }
        let known = self.named.fingerprint;
        self.named = self.judged.name(&self.call, &self.intake, &self.identity)?;
        // A streamed body has been hashed to its end already, and cannot be once more.
        self.named.fingerprint = self.named.fingerprint.or(known);
        Ok(())
    }

    /// The exchange under one grant, tries and retries, to its outcome.
    async fn exchange(&mut self, granted: Granted, caller: &mut Caller) -> After {
        let (effect, fence) = (granted.grant.effect.clone(), granted.grant.fence);
        self.stack.callers.watch(effect, fence, self.delivery.clone());
        let terms = self.judged.snapshot.policy().retry(&self.call.head, &self.judged.tool).filter(|_| !self.call.controls.no_retries);
        let mut tries = 0;
        // Whether a try may have been executed although no answer said so: then only an answer that says so settles.
        let mut tainted = false;
        loop {
            tries += 1;
            let ended = Attempt { effect: self, granted: &granted, tries, terms: terms.as_ref() }.carry_out().await;
            let follows = match self.follows(&ended, &granted, terms.as_ref(), tries, tainted) {
                // A claim of our own is one exchange; what follows it is the ledger's to decide.
                Next::DecideAgain(_) if granted.claim.is_some() => Next::Stop,
                follows => follows,
            };
            if follows != Next::Stop {
                self.note_try(&ended, tries);
            }
            match (follows, ended) {
                (Next::Again(wait), ended) => {
                    tainted |= ended.may_have_executed() && !broken("a_refusal_says_nothing_of_an_earlier_try");
                    tokio::time::sleep(wait.to_std()).await;
                }
                (Next::DecideAgain(wait), ended) => {
                    if let Some(outcome) = ended.refused_outcome() {
                        self.on_record(&granted, outcome).await;
                    }
                    self.stack.callers.forget(&granted.grant.effect, granted.grant.fence);
                    return After::DecideAgain(wait.to_std());
                }
                (Next::Stop, ended) => return self.conclude(ended, granted, tries, tainted, caller).await,
            }
        }
    }

    /// What policy wants after a try, within what the contract allows.
    fn follows(&self, ended: &Ended, granted: &Granted, terms: Option<&RetryTerms>, tries: u32, tainted: bool) -> Next {
        // A permit that ran out before its first byte is nobody's failure: the call is decided once more, within the hold.
        if matches!(ended, Ended::NotSent { proof: NotSentProof::DeadlineBeforeFirstByte, .. })
            && !tainted
            && self.call.began.1.elapsed() < HOLD
        {
            return Next::DecideAgain(Millis::new(0));
        }
        let (Some(terms), Some(end)) = (terms, ended.attempt_end()) else { return Next::Stop };
        let rule: RetryRule = terms.rule();
        let repeatable = self.judged.tool.is_repeatable() && self.intake.is_whole();
        let safety = if repeatable || broken("only_what_is_declared_is_retried") { Safety::Repeatable } else { Safety::Once };
        // After a try that may have been executed, neither a refusal nor proof about a later try frees the key.
        let end = match end {
            AttemptEnd::Status { status, .. } if tainted => AttemptEnd::Status { status, rejected: false },
            other => other,
        };
        let follows = next(&rule, safety, self.attempt + tries - 1, end, ended.retry_after(), false, jitter());
        match follows {
            Next::Again(wait) | Next::DecideAgain(wait) if wait.to_std() > WAIT_MAX => Next::Stop,
            Next::DecideAgain(wait) if tainted && repeatable => self.while_known(wait, granted),
            Next::DecideAgain(_) if tainted || !self.intake.is_whole() => Next::Stop,
            Next::Again(wait) => self.while_known(wait, granted),
            other => other,
        }
    }

    /// The next try under this grant, if the far side will still remember the key of the first.
    fn while_known(&self, wait: Millis, granted: &Granted) -> Next {
        let known = self.key_known_for(granted).is_none_or(|left| wait.to_std() < left);
        if known { Next::Again(wait) } else { Next::Stop }
    }

    /// How long the far side still remembers the key of the first try; `None` where it does not need to.
    pub(super) fn key_known_for(&self, granted: &Granted) -> Option<Duration> {
        let counts = !self.judged.tool.is_idempotent() && !broken("a_key_is_not_outlived");
        let ttl = self.judged.tool.upstream_key_ttl().filter(|_| counts)?;
        Some(ttl.to_std().saturating_sub(granted.at.elapsed()))
    }

    /// A try that is followed by another has a span of its own.
    fn note_try(&self, ended: &Ended, tries: u32) {
        let Ok(id) = new_span() else { return };
        let span = Span::of(&self.call, &id, span_type(self.judged.tool.class()), Some(&self.judged));
        let span = span.within(&self.span, self.attempt + tries - 1);
        self.stack.record(&span.ended(
            kybernis_core::ksp::SpanStatus::Error,
            Some(ended.code()),
            None,
            Default::default(),
            Default::default(),
        ));
    }

    /// Settles the outcome, then answers; what completed answers as it settles.
    async fn conclude(&mut self, ended: Ended, granted: Granted, tries: u32, tainted: bool, caller: &mut Caller) -> After {
        let doubt = |cause, status| SettleOutcome::InDoubt { cause, status };
        match ended {
            Ended::Completed(heard) => self.deliver(heard, &granted, caller).await,
            Ended::Rejected { heard, not_executed } if !tainted => {
                let status = heard.head.status.as_u16();
                match self.on_record(&granted, SettleOutcome::Rejected { status, not_executed }).await {
                    Recorded::Acknowledged(_) | Recorded::Spooled => self.pass_on(heard, &granted, caller),
                    Recorded::Unknown => self.not_on_record(status, &granted, caller),
                }
            }
            Ended::Rejected { heard, .. } => {
                let status = Some(heard.head.status.as_u16());
                self.in_doubt(&granted, doubt(DoubtCause::RetriesExhausted, status), caller).await;
            }
            Ended::NotSent { proof, detail } if !tainted => {
                self.on_record(&granted, SettleOutcome::NotSent(proof)).await;
                self.stack.callers.forget(&granted.grant.effect, granted.grant.fence);
                let refusal = match proof {
                    NotSentProof::DeadlineBeforeFirstByte => ledger_away(),
                    _ => Refusal::new(Code::UpstreamUnreachable, format!("Nothing was sent: {detail}. The call may be made again.")),
                };
                self.answer_refusal(&refusal, caller);
            }
            Ended::NotSent { .. } => self.in_doubt(&granted, doubt(DoubtCause::RetriesExhausted, None), caller).await,
            Ended::InDoubt { cause, status, .. } => {
                let cause = if tries > 1 { DoubtCause::RetriesExhausted } else { cause };
                self.in_doubt(&granted, doubt(cause, status), caller).await;
            }
        }
        After::Over
    }

    /// 423 for the first caller too: 502 and 504 invite clients to retry.
    pub(super) async fn in_doubt(&self, granted: &Granted, outcome: SettleOutcome, caller: &mut Caller) {
        let SettleOutcome::InDoubt { cause, status } = &outcome else { return };
        let (cause, status) = (*cause, *status);
        // That its fate is unknown is not an answer: who reads it has read nothing.
        if !broken("a_doubt_is_no_answer") {
            self.stack.callers.forget(&granted.grant.effect, granted.grant.fence);
        }
        let gate = match self.on_record(granted, outcome).await {
            Recorded::Acknowledged(gate) => gate,
            Recorded::Spooled | Recorded::Unknown => None,
        };
        let refusal = Refusal {
            gate: gate.clone(),
            upstream_status: status,
            ..Refusal::new(Code::EffectInDoubt, doubt_detail(self, cause, status, gate.as_ref()))
        };
        self.answer_refusal(&refusal, caller);
    }

    /// A refusal before anything was granted: recorded as a blocked span.
    fn refuse(&self, refusal: Refusal, caller: &mut Caller) {
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        self.stack.record(&span.refused(&refusal));
        self.answer_refusal(&refusal, caller);
    }

    pub(super) fn answer_refusal(&self, refusal: &Refusal, caller: &mut Caller) {
        let refusal = Refusal {
            run: Some(self.call.run.clone()),
            span: Some(self.span.clone()),
            policy_id: refusal.policy_id.clone().or_else(|| self.judged.policy_id()),
            ..refusal.clone()
        };
        caller.answer(self.to_response(&refusal));
    }

    pub(super) fn to_response(&self, refusal: &Refusal) -> Response<ResponseBody> {
        refuse::of_attempt(refusal, self.call.grpc, self.attempt)
    }

    pub(super) fn refusal_of(&self, refuse: Refuse) -> Refusal {
        let hint = match refuse.code {
            Code::EffectInDoubt if !self.judged.tool.is_registered() => {
                format!(" A ToolRegistration for {} with `effect.probe` would settle such doubts by itself.", self.call.head.host())
            }
            _ => String::new(),
        };
        Refusal {
            gate: refuse.gate,
            upstream_status: refuse.upstream_status,
            dedupe_of: refuse.dedupe_of,
            retry_after: refuse.retry_after,
            ..Refusal::new(refuse.code, refuse.detail + &hint)
        }
    }
}

fn doubt_detail(effect: &Effect, cause: DoubtCause, status: Option<u16>, gate: Option<&kybernis_core::ids::GateId>) -> String {
    let what = match (cause, status) {
        (DoubtCause::Status | DoubtCause::Outcome, Some(status)) => {
            format!("The far side answered {status}, which does not say whether it was executed")
        }
        (DoubtCause::RetriesExhausted, _) => "No try got a clear answer".to_owned(),
        (DoubtCause::Timeout, _) => "The far side did not answer in time".to_owned(),
        (DoubtCause::Truncated, _) => "The answer was cut short".to_owned(),
        (DoubtCause::LeaseLost, _) => "The lease was lost while the request was under way".to_owned(),
        (_, _) => "The connection broke before the answer".to_owned(),
    };
    let next = match gate {
        Some(gate) => format!("Look at the far side, then decide gate {gate}: executed or not-executed."),
        None if effect.judged.tool.probe().is_some() => "The tool's probe is asking the far side.".to_owned(),
        None => "A person must look at the far side and settle it.".to_owned(),
    };
    let declare = if effect.judged.tool.is_repeatable() || effect.judged.tool.probe().is_some() {
        ""
    } else {
        " Declaring `effect.probe`, `effect.upstreamKeyHeader` or `effect.idempotent` in its ToolRegistration would settle such calls without a person."
    };
    format!("{what}. {next}{declare}")
}
