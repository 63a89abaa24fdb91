//! `failureMode: Open`: a side effect while the ledger is away, on a claim that is fsynced in our own spool first. The
//! namespace's policy asked for it, and the span says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kybernis_core::ids::{EffectId, KeyDigest, Meaning, RunId, SpanId};
use kybernis_core::ksp::{KspEvent, SpanEnd, SpanStart, SpanStatus, SpanType};
use kybernis_core::machine::{Fence, Grant};
use kybernis_core::mutation::broken;
use kybernis_core::policy::FailureMode;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Millis;
use kybernis_proto::v1;
use tokio::time::Instant;

use super::decide::ledger_away;
use super::effect::{EFFECT_MAX, Effect, Granted};
use super::judge::Named;
use super::leases::Lease;
use super::{Stack, now};
use crate::spool::{Adoption, ClaimError};

/// What a repeat is told to wait while its claim is not on record.
const RETRY: Millis = Millis::from_secs(5);

/// Effects whose names are kept, for the time when the ledger is away. The oldest are forgotten first.
const SENT_MAX: usize = 16 * 1024;

/// What this sidecar sent with the ledger's grant: the ledger would know a repeat of it, and while it is away only we do.
#[derive(Debug, Default)]
pub(super) struct Sent(Mutex<SentNames>);

#[derive(Debug, Default)]
struct SentNames {
    effects: VecDeque<(EffectId, Vec<[u8; 32]>)>,
    names: HashMap<[u8; 32], usize>,
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, SentNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, effect: &EffectId, named: &Named) {
        let mut sent = self.lock();
        let names: Vec<[u8; 32]> = names_of(&named.keys, named.meaning).collect();
        for name in &names {
            *sent.names.entry(*name).or_default() += 1;
        }
        sent.effects.push_back((effect.clone(), names));
        if sent.effects.len() > SENT_MAX
            && let Some((_, names)) = sent.effects.pop_front()
        {
            sent.release(&names);
        }
    }

    /// The effect's keys are free again.
    pub(super) fn freed(&self, effect: &EffectId) {
        let mut sent = self.lock();
        while let Some(at) = sent.effects.iter().position(|(known, _)| known == effect) {
            if let Some((_, names)) = sent.effects.remove(at) {
                sent.release(&names);
            }
        }
    }

    fn meets(&self, named: &Named) -> bool {
        let sent = self.lock();
        names_of(&named.keys, named.meaning).any(|name| sent.names.contains_key(&name))
    }
}

impl SentNames {
    fn release(&mut self, names: &[[u8; 32]]) {
        for name in names {
            if let Some(count) = self.names.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.names.remove(name);
                }
            }
        }
    }
}

fn names_of(keys: &[KeyDigest], meaning: Meaning) -> impl Iterator<Item = [u8; 32]> {
    keys.iter().map(|key| *key.as_bytes()).chain(std::iter::once(*meaning.as_bytes()))
}

fn held_by_a_claim() -> Refusal {
    let detail = "An effect with this key or meaning went out before, and the ledger, which was away, does not have it on record yet. \
                  Nothing was sent; ask again once the ledger is back.";
    Refusal { retry_after: Some(RETRY), ..Refusal::new(Code::EffectInFlight, detail) }
}

impl Effect {
    /// Whether this refusal may be answered by going without the ledger: it is away, policy says Open, and nobody's approval is
    /// owed, which only the ledger could show.
    pub(super) fn may_go_alone(&self, refusal: &Refusal) -> bool {
        let open = self.judged.snapshot.policy().settings().failure_mode == FailureMode::Open;
        refusal.code == Code::LedgerUnavailable && open && self.judged.approval_rule().is_none()
    }

    /// Nothing that a claim of ours stands for goes out again, although the ledger, which does not know it yet, would let it.
    pub(super) fn meets_no_claim(&self) -> Result<(), Refusal> {
        let meets = self.stack.spool.claims.meets(&self.named.keys, self.named.meaning) && !broken("a_claim_of_our_own_is_met");
        if meets { Err(held_by_a_claim()) } else { Ok(()) }
    }

    /// Keeps a granted effect's names for the time when the ledger is away. They are noted before the claims are looked at, and
    /// a claim is made before the names are: of two calls that pass each other here at least one sees the other.
    pub(super) fn note_sent(&self, effect: &EffectId) {
        if self.judged.snapshot.policy().settings().failure_mode == FailureMode::Open {
            self.stack.sent.note(effect, &self.named);
        }
    }

    /// Claims in our own spool.
    pub(super) async fn go_alone(&self) -> Result<Granted, Refusal> {
        let effect = EffectId::new(&format!("alone-{}", uuid::Uuid::new_v4())).map_err(|_| ledger_away())?;
        let decide = self.stack.late_decide(&self.ask(), &effect)?;
        let claim = self.stack.spool.claims.claim(decide, &effect).await.map_err(|error| match error {
            ClaimError::Held => held_by_a_claim(),
            ClaimError::Full => Refusal::new(Code::SpoolFull, format!("{error}. Nothing was sent; ask again later.")),
            ClaimError::Spool(error) => {
                tracing::error!(%error, "a claim could not be made durable");
                ledger_away()
            }
        })?;
        if self.stack.sent.meets(&self.named) {
            self.stack.spool.claims.withdraw(claim);
            return Err(held_by_a_claim());
        }
        self.stack.callers.alone(effect.clone());
        tracing::warn!(action = self.call.action(), "a side effect goes out without the ledger: failureMode is Open");
        let grant = Grant { effect, fence: Fence::FIRST, generation: 0, approval: None };
        let now = self.stack.clock.now();
        Ok(Granted {
            grant,
            send_by: now.after(EFFECT_MAX),
            lease: Lease::without_ledger(now.after(EFFECT_MAX)),
            at: Instant::now(),
            claim: Some(claim),
        })
    }
}

impl Stack {
    /// What became of a claim once the ledger was back.
    pub(super) fn adopted(&self, adoption: Adoption) {
        match adoption {
            Adoption::Granted { alone: Some(alone), effect, fence } => self.callers.adopted(&alone, &effect, fence),
            Adoption::Granted { alone: None, .. } => {}
            Adoption::Refused { decide, code, reason } => {
                self.callers.refused(&decide.adopts);
                let code = code.map_or("not_on_record", Code::as_str);
                match misfit(&decide, code, &reason) {
                    Some(span) => self.record(&span),
                    None => tracing::error!("a claim that does not fit the record names no span"),
                }
            }
        }
    }
}

/// The span of an effect that went out and does not fit the ledger's record: it is in doubt for whoever reads the run.
fn misfit(decide: &v1::DecideRequest, code: &str, reason: &str) -> Option<[KspEvent; 2]> {
    let (run, span) = (RunId::new(&decide.run).ok()?, SpanId::new(&decide.span).ok()?);
    let mut start = SpanStart::new(now(), run.clone(), span.clone(), SpanType::SideEffect, &decide.action);
    start.parent_span_id = SpanId::new(&decide.parent_span).ok();
    start.attempt = Some(decide.attempt);
    start.attributes.insert("failure_mode".to_owned(), "open".into());
    let mut end = SpanEnd::new(now(), run, span, SpanStatus::Error, Millis::new(0));
    end.error_code = Some(code.to_owned());
    end.error_message =
        Some(format!("It went out while the ledger was away, and does not fit what is on record: {reason}. Look at the far side."));
    Some([KspEvent::SpanStart(start), KspEvent::SpanEnd(end)])
}
