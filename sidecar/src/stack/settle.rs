//! Getting an outcome on record: by the ledger's word or, while it is away, in the spool. Outcomes are never dropped.

use std::sync::Arc;
use std::time::Duration;

use kybernis_core::ids::GateId;
use kybernis_core::machine::Settle;
use kybernis_proto::{settle_request, v1};

use super::Stack;
use crate::control::{Backoff, CallError};

/// How long the ledger is waited for before the outcome goes to the spool instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where an outcome is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// In the ledger, with the gate that asks a person where it is in doubt.
    Acknowledged(Option<GateId>),
    /// On the sidecar's disk; the ledger will have it.
    Spooled,
    /// The ledger knows no such effect of ours; the outcome is kept on disk for people to look at.
    Unknown,
}

impl Stack {
    /// The same for an effect that went out on a claim of our own.
    pub(super) async fn settle_claim(&self, claim: u64, settle: &Settle, body: Vec<u8>) -> Recorded {
        // The fence is the ledger's to give.
        let request = v1::SettleRequest { fence: 0, ..settle_request(settle, body) };
        let mut backoff = Backoff::new();
        while let Err(error) = self.spool.claims.settled(claim, &request).await {
            tracing::error!(%error, "a claim's outcome could not be spooled");
            backoff.wait().await;
        }
        Recorded::Spooled
    }

    /// Returns once the outcome is on record.
    pub(super) async fn settle(self: &Arc<Self>, settle: &Settle, body: Vec<u8>) -> Recorded {
        let request = settle_request(settle, body);
        let mut backoff = Backoff::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.control.settle(request.clone())).await {
                Ok(Ok(reply)) => return Recorded::Acknowledged(GateId::new(&reply.gate).ok()),
                Ok(Err(CallError::Refused(reason))) => {
                    tracing::error!(effect = %settle.effect, reason, "the ledger does not take an outcome; it is kept as .refused");
                    if let Err(error) = self.spool.outcomes.refused(&request).await {
                        tracing::error!(%error, "a refused outcome could not be kept");
                    }
                    return Recorded::Unknown;
                }
                Ok(Err(CallError::Away(reason))) => tracing::warn!(reason, "an outcome goes to the spool: the ledger is away"),
                Err(_) => tracing::warn!("an outcome goes to the spool: the ledger does not answer"),
            }
            match self.spool.outcomes.settle(&request).await {
                Ok(()) => return Recorded::Spooled,
                // Neither is to be had: the caller waits for its end until one of the two is.
                Err(error) => tracing::error!(%error, "an outcome could not be spooled"),
            }
            backoff.wait().await;
        }
    }
}
