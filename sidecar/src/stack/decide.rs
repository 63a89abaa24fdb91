//! Asking the ledger: one decision, repeated under one id until it is answered, given up aloud.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kybernis_core::ids::{DecisionId, EffectId, SpanId};
use kybernis_core::machine::{ACTION_MAX, Decide, Grant, REASON_NOTE, Refuse, Replay, SUMMARY_NOTE};
use kybernis_core::mutation::broken;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::text::shortened;
use kybernis_core::time::Millis;
use kybernis_proto::{DecideAnswer, DecideParts, NOTE_MAX, v1};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Stack;
use super::call::Call;
use super::caller::Caller;
use super::intake::Intake;
use super::judge::{Judged, Named};
use super::leases::{LEASE, lease_ms};
use crate::boot_clock::BootInstant;
use crate::control::{Backoff, CallError, Identity};

/// How long a call is held while the ledger is away, before it fails closed.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// How long a call waits for another's flight.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the ledger holds one ask; a longer hold asks anew, because `send_by` counts from the ask.
const ROUND: Duration = Duration::from_secs(5);
/// How long after its Decide a permit's first byte may be written.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Verdicts of policies in Audit mode that one span keeps.
const AUDIT_NOTED: usize = 16;
/// Answers within the sidecar's own process; more is a ledger that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a decision is asked about.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) call: &'a Call,
    pub(super) intake: &'a Intake,
    pub(super) judged: &'a Judged,
    pub(super) named: &'a Named,
    pub(super) identity: &'a Identity,
    pub(super) span: &'a SpanId,
    pub(super) attempt: u32,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Decided {
    /// It may go, on these terms.
    Granted {
        grant: Grant,
        /// Past this the first byte is not written.
        send_by: BootInstant,
        /// The lease ends no earlier.
        lease_end: BootInstant,
    },
    /// It went already.
    Replay(Replay),
    /// It may not.
    Refused(Refuse),
    /// Another policy is in force.
    Stale,
    /// The caller went away before there was an answer; the decision is given up.
    CallerGone,
}

impl Stack {
    /// One decision.
    pub(super) async fn decide(self: &Arc<Self>, ask: &Ask<'_>, caller: &mut Caller) -> Result<Decided, Refusal> {
        let began = Instant::now();
        let hold_for = ask.judged.approval_rule().map_or(Duration::ZERO, |rule| rule.hold_for.to_std());
        // A call is held for one gate: when that has ended, another is for whoever calls again.
        let mut held_for = None;
        loop {
            let decision = decision_id()?;
            let wait = PATIENCE.saturating_sub(began.elapsed()).min(ROUND);
            let hold = hold_for.saturating_sub(began.elapsed()).min(ROUND);
            let message = self.message(ask, decision.clone(), wait, hold);
            // Whatever ends this before an answer is in, the ledger is told that no answer will be used.
            let given_up = GivenUp::unless_answered(self, decision);
            let asked_at = self.clock.now();
            let answered = tokio::select! {
                answered = self.ask_until_answered(message, wait.max(hold)) => answered?,
                () = caller.gone() => return Ok(Decided::CallerGone),
            };
            given_up.answered();
            match answered {
                DecideAnswer::Refuse(Refuse { code, gate: Some(gate), .. })
                    if is_held(code) && began.elapsed() < hold_for && held_for.get_or_insert_with(|| gate.clone()) == &gate => {}
                answered => return Ok(decided(answered, asked_at)),
            }
        }
    }

    /// Audit mode's question: asked once, beside an exchange that goes whatever the answer. So it is never given up, which would
    /// be proof that nothing was sent.
    pub(super) fn ask_beside(self: &Arc<Self>, ask: &Ask<'_>) -> Result<JoinHandle<Result<Decided, Refusal>>, Refusal> {
        let message = self.message(ask, decision_id()?, Duration::ZERO, Duration::ZERO);
        let (stack, asked_at) = (Arc::clone(self), self.clock.now());
        let asking = async move { Ok(decided(stack.ask_until_answered(message, Duration::ZERO).await?, asked_at)) };
        Ok(self.tasks.spawn(asking))
    }

    /// The same message again and again until the ledger answers it, within the hold.
    async fn ask_until_answered(&self, message: v1::DecideRequest, parked: Duration) -> Result<DecideAnswer, Refusal> {
        let (until, within) = match broken("a_call_is_held_for_the_ledger") {
            true => (Instant::now(), Duration::from_millis(50)),
            false => (Instant::now() + HOLD, parked + ANSWER_WITHIN),
        };
        let mut backoff = Backoff::new();
        loop {
            let mut message = message.clone();
            // Whatever ends this before the ledger has answered, the news are told another time.
            let news = self.callers.news();
            message.observed = news.seen().iter().map(Into::into).collect();
            let asked = tokio::time::timeout(within, self.control.decide(message)).await;
            let away = match asked {
                Ok(Ok(answer)) => {
                    news.told();
                    return Ok(answer);
                }
                Ok(Err(CallError::Refused(reason))) => {
                    tracing::error!(reason, "the ledger takes a decision for invalid");
                    return Err(Refusal::new(
                        Code::BadRequest,
                        format!("The ledger takes no decision on this call: {reason}. Nothing was sent."),
                    ));
                }
                Ok(Err(CallError::Away(reason))) => reason,
                Err(_) => "it does not answer".to_owned(),
            };
            drop(news);
            if Instant::now() >= until {
                tracing::warn!(reason = away, "a call was refused because the ledger is away");
                return Err(ledger_away());
            }
            tokio::time::timeout_at(until, backoff.wait()).await.unwrap_or_default();
        }
    }

    /// The message by which a claim of our own becomes the ledger's: nothing is waited for any more.
    pub(super) fn late_decide(&self, ask: &Ask<'_>, alone: &EffectId) -> Result<v1::DecideRequest, Refusal> {
        let mut message = self.message(ask, decision_id()?, Duration::ZERO, Duration::ZERO);
        message.adopts = alone.to_string();
        message.notes.insert("failure_mode".to_owned(), "open".to_owned());
        Ok(message)
    }

    fn message(&self, ask: &Ask<'_>, decision: DecisionId, wait: Duration, hold: Duration) -> v1::DecideRequest {
        let (probe, probe_request) = ask.judged.probe().unzip();
        let settings = ask.judged.snapshot.policy().settings();
        let decide = Decide {
            boot: self.control.boot().clone(),
            decision,
            agent: ask.identity.agent.clone(),
            run: ask.call.run.clone(),
            explicit_run: ask.call.explicit_run,
            span: ask.span.clone(),
            parent_span: ask.call.controls.parent.clone(),
            tool: ask.judged.tool.name().clone(),
            action: shortened(&ask.call.action(), ACTION_MAX),
            level: ask.named.level,
            keys: ask.named.keys.clone(),
            key_hint: ask.named.hint.clone(),
            meaning: ask.named.meaning,
            fingerprint: ask.named.fingerprint,
            principal: ask.named.principal,
            derived: ask.named.derived,
            derived_window: settings.derived_keys.window,
            retention: ask.judged.tool.retention(),
            probe,
            policy: ask.judged.snapshot.digest(),
            policy_id: ask.judged.judgement.policy_id.clone(),
            approval: ask.judged.approval(ask.call, ask.intake, ask.named),
            attempt: ask.attempt,
            observed: Vec::new(),
            lease: lease_ms(),
            patience_over: false,
            adopts: None,
            audit: ask.judged.audits(),
            notes: notes(ask),
        };
        DecideParts { decide, probe_request, wait: millis(wait), hold: millis(hold) }.to_message()
    }
}

/// What an answer comes to; a grant's terms count from when it was asked for.
fn decided(answer: DecideAnswer, asked_at: BootInstant) -> Decided {
    match answer {
        DecideAnswer::Grant(grant) => Decided::Granted { grant, send_by: asked_at.after(SEND_WITHIN), lease_end: asked_at.after(LEASE) },
        DecideAnswer::Replay(replay) => Decided::Replay(replay),
        DecideAnswer::PolicyStale(_) => Decided::Stale,
        DecideAnswer::Refuse(refuse) => Decided::Refused(refuse),
    }
}

/// 503: nothing was sent, and asking again later may succeed.
pub(super) fn ledger_away() -> Refusal {
    let detail = "The ledger cannot be reached, so no side effect leaves. Nothing was sent; ask again.";
    Refusal::new(Code::LedgerUnavailable, detail)
}

/// Whether a person is asked, and may still answer while the call is held.
fn is_held(code: Code) -> bool {
    matches!(code, Code::ApprovalRequired | Code::ApprovalMismatch | Code::ApprovalExpired)
}

fn millis(span: Duration) -> Millis {
    Millis::new(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn decision_id() -> Result<DecisionId, Refusal> {
    DecisionId::new(&uuid::Uuid::new_v4().to_string()).map_err(|error| Refusal::new(Code::LedgerUnavailable, error.to_string()))
}

/// What the ledger is told of the call besides: for the caller, why people are asked; for whoever is asked about an effect in doubt, what
/// the request said; what Audit mode would have done; and control headers that mean nothing here.
fn notes(ask: &Ask<'_>) -> BTreeMap<String, String> {
    let by_policy = ask
        .judged
        .judgement
        .audit
        .iter()
        .map(|note| format!("{} by {}: {}", note.verdict.name(), note.policy_id, note.reason.as_deref().unwrap_or("no reason given")));
    let besides = ask.judged.noted.iter().map(|refusal| format!("{}: {}", refusal.code, refusal.detail));
    let audit = by_policy.chain(besides).take(AUDIT_NOTED).zip(1..).map(|(text, n)| (format!("audit_{n}"), shortened(&text, NOTE_MAX)));
    let unknown = &ask.call.controls.unknown;
    let unknown = (!unknown.is_empty()).then(|| ("unknown_control_headers".to_owned(), shortened(&unknown.join(", "), NOTE_MAX)));
    let people = ask.judged.approval_rule().and(ask.judged.judgement.reason.as_ref());
    let reason = people.map(|reason| (REASON_NOTE.to_owned(), shortened(reason, NOTE_MAX)));
    // A gate shows its own.
    let summary = || (SUMMARY_NOTE.to_owned(), shortened(&ask.judged.summary(ask.call, ask.intake), NOTE_MAX));
    let summary = ask.judged.approval_rule().is_none().then(summary);
    audit.chain(unknown).chain(reason).chain(summary).collect()
}

/// Tells the ledger, by way of the spool, that a decision's answer will not be used.
struct GivenUp {
    stack: Option<Arc<Stack>>,
    decision: DecisionId,
}

impl GivenUp {
    fn unless_answered(stack: &Arc<Stack>, decision: DecisionId) -> Self {
        Self { stack: Some(Arc::clone(stack)), decision }
    }

    fn answered(mut self) {
        self.stack = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let Some(stack) = self.stack.take() else { return };
        let abandon = v1::AbandonRequest { boot: stack.control.boot().to_string(), decision: self.decision.to_string() };
        let tasks = stack.tasks.clone();
        tasks.spawn(async move {
            if let Err(error) = stack.spool.outcomes.abandon(&abandon).await {
                // A grant that nobody uses ends in doubt with its lease: visible, and never sent.
                tracing::error!(%error, "an abandoned decision could not be spooled");
            }
        });
    }
}
