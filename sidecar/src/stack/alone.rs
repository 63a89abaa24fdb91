//! `failureMode: Open`: a side effect while the ledger is away, on a claim that is fsynced in our own spool first. The
//! namespace's policy asked for it, and the span says so.

use kybernis_core::ids::EffectId;
use kybernis_core::machine::{Fence, Grant};
use kybernis_core::policy::FailureMode;
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Millis;
use tokio::time::Instant;

use super::decide::ledger_away;
use super::effect::{EFFECT_MAX, Effect, Granted};
use super::leases::Lease;
use super::record::{Span, span_type};
use crate::spool::ClaimError;

/// What a repeat is told to wait while its claim is not on record.
const RETRY: Millis = Millis::from_secs(5);

impl Effect {
    /// Whether this refusal may be answered by going without the ledger: it is away, policy says Open, and nobody's approval is
    /// owed, which only the ledger could show.
    pub(super) fn may_go_alone(&self, refusal: &Refusal) -> bool {
        let open = self.judged.snapshot.policy().settings().failure_mode == FailureMode::Open;
        refusal.code == Code::LedgerUnavailable && open && self.judged.approval_rule().is_none()
    }

    /// Claims in our own spool.
    pub(super) fn go_alone(&self) -> Result<Granted, Refusal> {
        let decide = self.stack.late_decide(&self.ask())?;
        let claim = self.stack.spool.claims.claim(decide).map_err(|error| match error {
            ClaimError::Held => {
                let detail = "An effect with this key or meaning went out while the ledger was away. Ask again once the ledger is back.";
                Refusal { retry_after: Some(RETRY), ..Refusal::new(Code::EffectInFlight, detail) }
            }
            ClaimError::Full => Refusal::new(Code::SpoolFull, format!("{error}. Nothing was sent; ask again later.")),
            ClaimError::Spool(error) => {
                tracing::error!(%error, "a claim could not be made durable");
                ledger_away()
            }
        })?;
        let effect = EffectId::new(&format!("alone-{}", uuid::Uuid::new_v4())).map_err(|_| ledger_away())?;
        tracing::warn!(action = self.call.action(), "a side effect goes out without the ledger: failureMode is Open");
        let span = Span::of(&self.call, &self.span, span_type(self.judged.tool.class()), Some(&self.judged));
        self.stack.record(&span.noted("failure_mode", "open").began());
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
