//! People's words on gates: each GateDecision is passed on to the ledger once, with what admission has signed, and told what became
//! of it. Nothing is believed here, and nothing decided: the ledger checks the signature and counts.

mod desk;
mod object;
mod status;
mod validate;

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use kybernis_proto::v1::DecideGateRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::desk::{Desk, Outcome, Task};
use self::object::Decision;
use self::status::Verdict;
use self::validate::{Refusal, Signed};
use crate::apply::WriteError;
use crate::lead::Lead;
use crate::ledger::{Answer, Ledger};
use crate::metrics::Metrics;
use crate::reconcile::RESYNC;
use crate::watch::GateWatches;

/// The loop's tools.
pub(crate) struct Clerk {
    pub(crate) client: Client,
    pub(crate) watches: GateWatches,
    pub(crate) ledger: Ledger,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) leads: Lead,
}

/// Why a decision has to wait.
#[derive(Debug, thiserror::Error)]
enum Later {
    #[error("the ledger cannot be asked now: {0}")]
    Away(String),
    #[error("the ledger has not told of its gate yet")]
    NotTold,
    #[error("its Gate cannot be looked at")]
    Gate(#[source] WriteError),
}

impl Clerk {
    /// Works while this replica leads; returns when nobody tells any more who does.
    pub(crate) async fn run(self) {
        self.watches.ready().await;
        let mut leads = self.leads.clone();
        while leads.gained().await {
            tokio::select! {
                () = self.lead() => {}
                () = leads.lost() => {}
            }
        }
    }

    /// What is under way when the lead is lost is let go: the next leader passes it on again, and the ledger has it once.
    async fn lead(&self) {
        let (mut desk, mut running) = (Desk::default(), FuturesUnordered::new());
        loop {
            let now = Instant::now();
            for task in desk.take(&self.watches.decisions(), self.ledger.link().session, now) {
                running.push(self.see_to(task));
            }
            let due = desk.next_due(now).unwrap_or(now + RESYNC);
            tokio::select! {
                () = self.wake.notified() => {}
                Some((uid, outcome)) = running.next(), if !running.is_empty() => desk.note(uid, outcome, Instant::now()),
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    async fn see_to(&self, task: Task) -> (String, Outcome) {
        let Task { decision, verdict } = task;
        let verdict = match verdict {
            Some(verdict) => verdict,
            None => match self.judge(&decision).await {
                Ok(verdict) => self.counted(&decision, verdict),
                Err(error) => {
                    tracing::info!(decision = %decision.place, %error, "a decision waits");
                    return (decision.uid, Outcome::Later(None));
                }
            },
        };
        let written = status::write(&self.client, &decision, &verdict, Timestamp::now()).await;
        self.metrics.gate_writes.count(&written);
        if let Err(error) = written {
            tracing::warn!(decision = %decision.place, %error, "what became of a decision cannot be written");
            return (decision.uid, Outcome::Later(Some(verdict)));
        }
        status::tell(&self.recorder, &decision, &verdict).await;
        (decision.uid, Outcome::Done)
    }

    fn counted(&self, decision: &Decision, verdict: Verdict) -> Verdict {
        match &verdict {
            Ok(()) => {
                tracing::info!(decision = %decision.place, "a decision is on record");
                self.metrics.decisions.recorded.add(1);
            }
            Err(refusal) => {
                tracing::warn!(decision = %decision.place, error = %refusal, "a decision is not taken");
                self.metrics.decisions.refused.add(1);
            }
        }
        verdict
    }

    /// What becomes of a decision.
    async fn judge(&self, decision: &Decision) -> Result<Verdict, Later> {
        let signed = match validate::signed(decision) {
            Ok(signed) => signed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = validate::living(&self.client, &self.watches, &signed).await.map_err(Later::Gate)? {
            return Ok(Err(refusal));
        }
        let Signed { gate: place, request } = signed;
        let link = self.ledger.link();
        let (Some(connection), Some(gates)) = (link.connection, link.gates) else {
            return Err(Later::Away("it is not connected".to_owned()));
        };
        // An object of which the ledger knows no gate goes soon, and then its decisions are refused.
        let gate = gates.get(&place).ok_or(Later::NotTold)?;
        let (tenant, class) = (gate.tenant.clone(), gate.spec.class.clone());
        match connection.decide(DecideGateRequest { tenant, class, ..request }).await.map_err(Later::Away)? {
            Answer::Recorded => Ok(Ok(())),
            Answer::Refused(detail) => Ok(Err(Refusal::Refused(detail))),
        }
    }
}

#[cfg(test)]
mod tests;
