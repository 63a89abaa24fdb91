//! What the engine owes the world once a batch is durable: words for people, probes for sidecars, answers that are dropped.

use std::sync::PoisonError;

use kybernis_core::ids::{AgentId, EffectId};
use kybernis_core::machine::{Action, Effect, EffectState, Fact, Fence, State};
use tokio::sync::mpsc;

use super::writer::Writer;
use super::{PROBE, ProbeOrder, blob_key};
use crate::journal::JournalError;

/// Stored answers that the sweep looks at in one go.
const SWEEP: u32 = 1024;

/// Stored answers that are dropped in one go.
const DROP: usize = 64;

impl Writer {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            // Callers were woken with the batch; where answers lie is asked of the facts, while their record still says it.
            Action::Wake { .. } | Action::DropBody { .. } => {}
            Action::GateDecided { gate } => tracing::info!(%gate, "a gate was decided"),
            Action::GateOpened { gate } => tracing::info!(%gate, "a gate waits for a person"),
            Action::Alarm { effect } => tracing::error!(%effect, "an effect was executed twice: its earlier grant is proven too"),
            Action::Probe { agent, effect, fence, sealed } => {
                let asked_at = self.clock.now(self.state.last_ts());
                self.state.note_probe(&effect, asked_at);
                match self.vault.open_text(PROBE, &sealed) {
                    Ok(request) => self.order(&agent, ProbeOrder { effect, fence, request, asked_at }),
                    Err(error) => tracing::error!(%effect, %error, "a probe cannot be opened"),
                }
            }
        }
    }

    /// Hands a probe to the first live sidecar of the agent that has room for it.
    fn order(&self, agent: &AgentId, order: ProbeOrder) {
        let mut probers = self.probers.lock().unwrap_or_else(PoisonError::into_inner);
        probers.retain(|_, (_, orders)| !orders.is_closed());
        let mut order = Some(order);
        for (_, orders) in probers.values().filter(|(of, _)| of == agent) {
            match order.take().map(|order| orders.try_send(order)) {
                None | Some(Ok(())) => return,
                Some(Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back))) => order = Some(back),
            }
        }
    }

    /// Drops stored answers. One that stays is dropped when its record is forgotten, or by the next sweep.
    pub(super) async fn drop_answers(&self, keys: &[String]) {
        for keys in keys.chunks(DROP) {
            if let Err(error) = self.journal.drop_blobs(keys).await {
                tracing::warn!(answers = keys.len(), %error, "answers past their retention could not be dropped");
            }
            // Many are due at once where many came at once: other tasks have their turn in between.
            tokio::task::yield_now().await;
        }
    }

    /// Drops the stored answers that no record holds: a crash came between a fact and its errand, or the store failed.
    pub(super) async fn sweep(&self) {
        if let Err(error) = self.try_sweep().await {
            tracing::warn!(%error, "stored answers could not be looked through; the next start does it");
        }
    }

    async fn try_sweep(&self) -> Result<(), JournalError> {
        let mut after = String::new();
        loop {
            let mut keys = self.journal.blob_keys(&after, SWEEP).await?;
            let Some(last) = keys.last() else { return Ok(()) };
            after.clone_from(last);
            keys.retain(|key| !is_held(&self.state, key));
            self.drop_answers(&keys).await;
        }
    }
}

/// Whether a repeat could be answered with what lies there.
fn is_held(state: &State, key: &str) -> bool {
    let id = key.rsplit_once('/').and_then(|(effect, _)| EffectId::new(effect).ok());
    id.and_then(|id| state.effect(&id)).is_some_and(|effect| {
        matches!(effect.state, EffectState::Completed { answer: Some(_), .. }) && blob_key(&effect.spec.effect, effect.fence) == key
    })
}

/// Where answers may lie that are of no use after this fact. Asked ahead of its fold: a forgotten record names no fence.
pub(super) fn stale_answers(state: &State, fact: &Fact) -> Vec<String> {
    let (Fact::AnswerDropped { effect } | Fact::EffectForgotten { effect }) = fact else { return Vec::new() };
    let last = state.effect(effect).map(|Effect { fence, .. }| fence.get()).unwrap_or_default();
    (1..=last).filter_map(Fence::new).map(|fence| blob_key(effect, fence)).collect()
}
