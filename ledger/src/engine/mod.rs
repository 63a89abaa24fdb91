//! The engine: the one writer of a shard. It gathers what callers ask, decides it by the rules, appends once for all of
//! them (group commit), and only then answers.
//!
//! ```text
//! calls ──▶ batch ──▶ apply + fold, in memory ──▶ one append ──▶ answers, errands, reads
//!                                                     └── fate unknown: drop memory, acquire, refold, run the batch again
//! ```

mod batch;
mod deciding;
mod errands;
mod grantees;
mod index;
mod presence;
mod waiting;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kybernis_core::ids::{AgentId, BootId, EffectId, PolicyDigest, RunId};
use kybernis_core::machine::{
    Abandon, Command, DecideGate, Effect, EnterRun, Event, Evidence, Fence, KeyLevel, Observe, Refuse, Renew, Reply, Settle, Spans, State,
};
use kybernis_core::reason::Code;
use kybernis_core::time::{Millis, Timestamp};
use kybernis_proto::{DecideAnswer, DecideParts};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::batch::{Answer, Ask};
use crate::gates::TenantGates;
use crate::journal::{Blob, Journal, JournalError};
use crate::metrics::TenantMetrics;
use crate::vault::{Vault, VaultError};

/// Calls that wait for the writer; more wait in their own connections.
const QUEUE: usize = 4096;

/// Probe orders that wait for one sidecar; more are asked for again at the next interval.
const ORDERS: usize = 64;

/// Lengths that the engine goes by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A fresh lease for grants that were in flight when the ledger stopped.
    pub lease: Millis,
    /// How long a sidecar may be out of touch before its callers count as gone.
    pub absence: Duration,
    /// The same where a call that means what such a caller meant is waiting to know.
    pub asked_absence: Duration,
    /// How often time alone is looked at: leases, probes, gates, waiting callers.
    pub tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Millis::from_secs(30),
            absence: Duration::from_secs(30),
            asked_absence: Duration::from_secs(3),
            tick: Duration::from_millis(100),
        }
    }
}

/// Who hears of what a writer does.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    /// Of gates; nobody on a laptop.
    pub(crate) gates: Option<TenantGates>,
    /// Of everything, in numbers.
    pub(crate) metrics: TenantMetrics,
}

/// Why the engine cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A segment does not hold events that this version can read.
    #[error("segment {segment} cannot be read: {reason}")]
    Events {
        /// Its number, from 1.
        segment: u64,
        /// Why.
        reason: String,
    },
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The writer is gone; nothing is known about the call's fate.
    #[error("the ledger is stopping")]
    Stopped,
}

/// A probe to be carried out by a sidecar of the agent.
#[derive(Clone, Debug)]
pub struct ProbeOrder {
    /// The effect in doubt.
    pub effect: EffectId,
    /// The grant in doubt.
    pub fence: Fence,
    /// The rendered request, opened.
    pub request: Vec<u8>,
    /// When the ledger asked.
    pub asked_at: Timestamp,
}

/// Where an effect stands after a Settle.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whether the word is the effect's outcome now.
    pub stands: bool,
    /// The gate that asks a person.
    pub gate: Option<kybernis_core::ids::GateId>,
}

type Prober = (AgentId, mpsc::Sender<ProbeOrder>);

/// A handle on the writer. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    asks: mpsc::Sender<Ask>,
    journal: Arc<dyn Journal>,
    vault: Arc<Vault>,
    probers: Arc<Mutex<HashMap<u64, Prober>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(…)")
    }
}

impl Engine {
    /// Takes the journal's epoch, folds what it holds, and starts the writer, which tells `observers` what it does.
    /// The task ends when every handle is gone, or
    /// with the error that made it stop serving.
    pub(crate) async fn open(
        journal: Arc<dyn Journal>,
        vault: Arc<Vault>,
        policy: watch::Receiver<PolicyDigest>,
        observers: Observers,
        settings: Settings,
    ) -> Result<(Self, JoinHandle<Result<(), EngineError>>), EngineError> {
        let probers = Arc::new(Mutex::new(HashMap::new()));
        let (asks, queue) = mpsc::channel(QUEUE);
        let engine = Self { asks, journal: Arc::clone(&journal), vault: Arc::clone(&vault), probers: Arc::clone(&probers) };
        let writer = writer::Writer::open(journal, vault, policy, probers, observers, settings).await?;
        Ok((engine, tokio::spawn(writer.run(queue))))
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, CallError> {
        let (answer, wait) = oneshot::channel();
        self.asks.send(make(answer)).await.map_err(|_| CallError::Stopped)?;
        wait.await.map_err(|_| CallError::Stopped)
    }

    async fn command(&self, by: Option<AgentId>, command: Command, blobs: Vec<Blob>) -> Result<Reply, CallError> {
        self.ask(|answer| Ask::Command { by, command, blobs, answer: Answer::new(answer) }).await
    }

    /// May this side effect go? Waits as long as the call allows for another's flight or a person.
    pub async fn decide(&self, mut parts: DecideParts) -> Result<DecideAnswer, CallError> {
        if let (Some(plan), Some(request)) = (&mut parts.decide.probe, parts.probe_request.take()) {
            match self.vault.seal_text(PROBE, &request) {
                Ok(sealed) => plan.sealed = sealed,
                Err(error) => return Ok(DecideAnswer::Refuse(Refuse::new(Code::LedgerUnavailable, error.to_string()))),
            }
        }
        self.ask(|answer| Ask::decide(waiting::Waiting::new(parts, answer))).await
    }

    /// What became of an effect. The body of a completed one is sealed and becomes durable with the outcome.
    pub async fn settle(&self, by: AgentId, settle: Settle, body: Option<Vec<u8>>) -> Result<Result<Standing, Refuse>, CallError> {
        let blobs = match body {
            None => Vec::new(),
            Some(body) => match self.vault.seal_body(&blob_key(&settle.effect, settle.fence), &body) {
                Ok(blobs) => blobs,
                Err(error) => return Ok(Err(Refuse::new(Code::LedgerUnavailable, error.to_string()))),
            },
        };
        Ok(match self.command(Some(by), Command::Settle(Box::new(settle)), blobs).await? {
            Reply::Settled { stands, gate } => Ok(Standing { stands, gate }),
            Reply::Refuse(refuse) => Err(*refuse),
            _ => Ok(Standing { stands: false, gate: None }),
        })
    }

    /// Keeps leases; returns those that are lost.
    pub async fn renew(&self, renew: Renew) -> Result<Vec<(EffectId, Fence)>, CallError> {
        match self.command(None, Command::Renew(renew), Vec::new()).await? {
            Reply::Renewed { lost } => Ok(lost),
            _ => Ok(Vec::new()),
        }
    }

    /// A decision that its sidecar will not use.
    pub async fn abandon(&self, abandon: Abandon) -> Result<(), CallError> {
        self.command(None, Command::Abandon(abandon), Vec::new()).await.map(drop)
    }

    /// Records spans; returns the highest number on record.
    pub async fn spans(&self, spans: Spans) -> Result<u64, CallError> {
        match self.command(None, Command::Spans(Box::new(spans)), Vec::new()).await? {
            Reply::SpansAcked { through } => Ok(through),
            _ => Ok(0),
        }
    }

    /// What a probe found.
    pub async fn evidence(&self, by: AgentId, evidence: Evidence) -> Result<(), CallError> {
        self.command(Some(by), Command::Evidence(evidence), Vec::new()).await.map(drop)
    }

    /// A person's word on a gate.
    pub async fn decide_gate(&self, word: DecideGate) -> Result<Result<(), Refuse>, CallError> {
        match self.command(None, Command::DecideGate(Box::new(word)), Vec::new()).await? {
            Reply::Refuse(refuse) => Ok(Err(*refuse)),
            _ => Ok(Ok(())),
        }
    }

    /// A run that its caller named, before a call that needs no decision; a stranger's is refused.
    pub async fn enter_run(&self, entered: EnterRun) -> Result<Result<(), Refuse>, CallError> {
        match self.command(None, Command::EnterRun(entered), Vec::new()).await? {
            Reply::Refuse(refuse) => Ok(Err(*refuse)),
            _ => Ok(Ok(())),
        }
    }

    /// A sidecar's process is known to be over.
    pub async fn boot_gone(&self, boot: BootId) -> Result<(), CallError> {
        self.command(None, Command::Observe(Observe::BootGone { boot }), Vec::new()).await.map(drop)
    }

    /// Reads the committed state.
    pub async fn read<T: Send + 'static>(&self, read: impl FnOnce(&State) -> T + Send + 'static) -> Result<T, CallError> {
        self.ask(|answer| {
            Ask::Read(Box::new(move |state, _| {
                // A reader that went away needs no answer.
                let _ = answer.send(read(state));
            }))
        })
        .await
    }

    /// A run's events after the first `after`, at most `limit`, with their numbers in the run.
    pub async fn run_events(&self, run: RunId, after: u64, limit: usize) -> Result<Result<Vec<(u64, Event)>, EngineError>, CallError> {
        let places = self
            .ask(|answer| {
                Ask::Read(Box::new(move |_, index| {
                    let _ = answer.send(index.of_run(&run, after, limit));
                }))
            })
            .await?;
        Ok(index::read(&*self.journal, places, after).await)
    }

    /// The stored body of a completed effect; `None` when there is none, or it is not for this agent: a tool's own key is the
    /// whole tenant's, and so is the answer that a repeat under it gets; every other is its agent's alone.
    pub async fn body(&self, by: AgentId, effect: EffectId, fence: Fence) -> Result<Result<Option<Vec<Vec<u8>>>, EngineError>, CallError> {
        let id = effect.clone();
        let may_see = move |effect: &Effect| effect.spec.agent == by || effect.spec.level == KeyLevel::Tool;
        if !self.read(move |state| state.effect(&id).is_some_and(may_see)).await? {
            return Ok(Ok(None));
        }
        let key = blob_key(&effect, fence);
        let chunks = match self.journal.read_blobs(&key).await {
            Ok(chunks) if chunks.is_empty() => return Ok(Ok(None)),
            Ok(chunks) => chunks,
            Err(error) => return Ok(Err(error.into())),
        };
        Ok(self.vault.open_body(&key, &chunks).map(Some).map_err(Into::into))
    }

    /// Probe orders for one agent's effects in doubt, until the receiver is dropped.
    pub fn probes(&self, agent: AgentId) -> mpsc::Receiver<ProbeOrder> {
        let (orders, receive) = mpsc::channel(ORDERS);
        let mut probers = self.probers.lock().unwrap_or_else(PoisonError::into_inner);
        probers.retain(|_, (_, orders)| !orders.is_closed());
        let number = probers.keys().max().map_or(0, |last| last + 1);
        probers.insert(number, (agent, orders));
        receive
    }

    /// A sidecar is in touch until the guard is dropped.
    pub fn presence(&self, boot: BootId) -> PresenceGuard {
        PresenceGuard::new(self.asks.clone(), boot)
    }
}

pub use self::presence::PresenceGuard;

/// What sealed probes are sealed for.
const PROBE: &str = "probe";

/// Where an effect's answer lies in the vault.
fn blob_key(effect: &EffectId, fence: Fence) -> String {
    format!("{effect}/{}", fence.get())
}
