//! The writer's task: batch after batch, one append each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kybernis_core::ids::{AgentId, PolicyDigest};
use kybernis_core::machine::{Action, Command, Entropy, Event, Fact, Observe, Outcome, Refuse, Reply, State, apply};
use kybernis_core::reason::Code;
use kybernis_core::time::Timestamp;
use kybernis_proto::DecideAnswer;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::batch::{Answer, Ask, Look};
use super::errands::stale_answers;
use super::grantees::Grantees;
use super::index::{self, Index};
use super::presence::Presence;
use super::waiting::{Obstacle, Parked, Waiting};
use super::{EngineError, Observers, Prober, Settings};
use crate::journal::{Append, Blob, Epoch, Head, Journal, JournalError};
use crate::vault::Vault;

/// Asks that one append may answer: bounds a segment, and how long the first in it waits for the last.
const BATCH: usize = 512;

/// Batches of spans that one append may take: each has up to `kybernis_proto::MESSAGE_MAX` bytes, and a segment is one row, which
/// must stay far below what SQLite takes (a gigabyte).
const SPANS: usize = 16;

/// Segments read at once while folding.
const READ_AHEAD: u32 = 256;

/// Waits between tries to take the epoch again after an append of unknown fate.
const RETRY: Duration = Duration::from_millis(200);

/// Wall time that never runs backwards: anchored once, then counted monotonically.
#[derive(Debug)]
pub(super) struct Clock {
    anchor: Instant,
    wall: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { anchor: Instant::now(), wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    pub(super) fn now(&self, last: Timestamp) -> Timestamp {
        let ms = (self.wall + self.anchor.elapsed()).as_millis();
        Timestamp::from_epoch_ms(u64::try_from(ms).unwrap_or(u64::MAX)).max(last)
    }
}

/// The first asks, as many as one append may answer.
fn one_batch(asks: &mut VecDeque<Ask>) -> VecDeque<Ask> {
    let is_spans = |ask: &Ask| matches!(ask, Ask::Command { command: Command::Spans(_), .. });
    let spans = asks.iter().enumerate().filter(|(_, ask)| is_spans(ask));
    let end = spans.map(|(at, _)| at).nth(SPANS).unwrap_or(asks.len());
    asks.drain(..end).collect()
}

/// What a batch has led to in memory, before it is durable.
#[derive(Default)]
pub(super) struct Staged {
    events: Vec<Event>,
    blobs: Vec<Blob>,
    actions: Vec<Action>,
    pub(super) decided: Vec<(Box<Waiting>, Decided)>,
    pub(super) replies: Vec<Replied>,
    looks: Vec<Look>,
    /// Where answers lie that no record holds any more.
    stale: Vec<String>,
}

/// A command with what it is answered once it is durable, and what it takes to run it again.
pub(super) struct Replied {
    pub(super) command: Command,
    pub(super) by: Option<AgentId>,
    pub(super) blobs: Vec<Blob>,
    pub(super) answer: Answer,
    pub(super) reply: Reply,
}

/// Where one Decide of a batch stands.
pub(super) enum Decided {
    Answer(DecideAnswer),
    Park(Obstacle),
}

pub(super) struct Writer {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) vault: Arc<Vault>,
    pub(super) policy: watch::Receiver<PolicyDigest>,
    pub(super) probers: Arc<Mutex<HashMap<u64, Prober>>>,
    observers: Observers,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    epoch: Epoch,
    head: Head,
    pub(super) state: State,
    index: Index,
    grantees: Grantees,
    parked: Parked,
    pub(super) presence: Presence,
}

impl Writer {
    pub(super) async fn open(
        journal: Arc<dyn Journal>,
        vault: Arc<Vault>,
        policy: watch::Receiver<PolicyDigest>,
        probers: Arc<Mutex<HashMap<u64, Prober>>>,
        observers: Observers,
        settings: Settings,
    ) -> Result<Self, EngineError> {
        let (epoch, head) = journal.acquire().await?;
        let (clock, state, index) = (Clock::start(), State::default(), Index::default());
        let (grantees, parked, presence) = (Grantees::default(), Parked::default(), Presence::default());
        let mut writer =
            Self { journal, vault, policy, probers, observers, settings, clock, epoch, head, state, index, grantees, parked, presence };
        writer.refold().await?;
        writer.tell();
        writer.sweep().await;
        writer.observers.metrics.open();
        Ok(writer)
    }

    /// Builds memory anew from the journal.
    async fn refold(&mut self) -> Result<(), EngineError> {
        self.state = State::default();
        self.index = Index::default();
        self.grantees = Grantees::default();
        let mut after = 0;
        while after < self.head.segments {
            let segments = self.journal.read(after, READ_AHEAD).await?;
            if segments.is_empty() {
                return Err(JournalError::Corrupt { segment: after + 1 }.into());
            }
            for bytes in segments {
                after += 1;
                let events = index::decode(after, &bytes)?;
                events.iter().enumerate().for_each(|(position, event)| self.fold(event, after, position));
            }
            tokio::task::yield_now().await;
        }
        let now = self.clock.now(self.state.last_ts());
        self.state.restart_leases(now, self.settings.lease);
        self.presence.expect(self.state.boots_with_callers());
        Ok(())
    }

    fn fold(&mut self, event: &Event, segment: u64, position: usize) {
        if let Some(run) = self.state.run_of(&event.fact) {
            self.index.note(run, segment, position);
        } else if let Fact::RunForgotten { run } = &event.fact {
            self.index.forget(run);
        }
        self.grantees.note(&self.state, &event.fact);
        self.state.fold(event);
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Ask>) -> Result<(), EngineError> {
        let mut tick = tokio::time::interval(self.settings.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = queue.recv_many(&mut asks, BATCH) => if taken == 0 {
                    return Ok(());
                },
                _ = tick.tick() => self.look_at_time(&mut asks),
            }
            let mut asks: VecDeque<Ask> = asks.drain(..).collect();
            while !asks.is_empty() {
                let batch = one_batch(&mut asks);
                self.serve(batch).await?;
            }
        }
    }

    /// What time alone asks for.
    fn look_at_time(&mut self, asks: &mut Vec<Ask>) {
        let own = |command| Ask::Command { by: None, command, blobs: Vec::new(), answer: Answer::nobody() };
        asks.push(own(Command::Expire));
        asks.extend(self.presence.gone(self.settings.absence).into_iter().map(|boot| own(Command::Observe(Observe::BootGone { boot }))));
        asks.extend(self.parked.overdue().into_iter().map(Ask::decide));
    }

    /// One batch: decided in memory, appended once, then answered.
    async fn serve(&mut self, asks: VecDeque<Ask>) -> Result<(), EngineError> {
        let mut staged = self.stage(asks)?;
        while !staged.events.is_empty() {
            let events = index::encode(&staged.events);
            let append = Append { epoch: self.epoch, expected: self.head, events, blobs: std::mem::take(&mut staged.blobs) };
            let begun = Instant::now();
            match self.journal.append(append).await {
                Ok(head) => {
                    self.observers.metrics.committed(begun.elapsed());
                    self.head = head;
                    break;
                }
                Err(JournalError::Unknown(reason)) => {
                    self.observers.metrics.unknown();
                    tracing::warn!(reason, "an append's fate is unknown: reading the journal again before anything is answered");
                    staged = self.recover(staged).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Ahead of the answers: whoever has one sees what it led to.
        self.tell();
        self.answer(staged).await;
        Ok(())
    }

    /// Says what has changed; all that there is, once memory was built anew. Only where what memory holds is durable.
    fn tell(&mut self) {
        let touched = self.state.take_touched_gates();
        let now = self.clock.now(self.state.last_ts());
        if let Some(gates) = &mut self.observers.gates {
            gates.tell(&self.state, touched, now);
        }
        self.observers.metrics.in_doubt(self.state.effects_in_doubt());
    }

    /// Drops memory, takes the epoch (which orders or kills the append), folds what is durable and decides the batch again.
    /// Whatever of it was durable answers as a repeat does.
    async fn recover(&mut self, staged: Staged) -> Result<Staged, EngineError> {
        let (epoch, head) = loop {
            match self.journal.acquire().await {
                Ok(taken) => break taken,
                Err(error) => {
                    tracing::error!(%error, "the journal does not answer");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        (self.epoch, self.head) = (epoch, head);
        self.refold().await?;
        let mut asks = VecDeque::new();
        for Replied { command, by, blobs, answer, .. } in staged.replies {
            asks.push_back(Ask::Command { by, command, blobs, answer });
        }
        asks.extend(staged.decided.into_iter().map(|(waiting, _)| Ask::Decide(waiting)));
        asks.extend(self.parked.all().into_iter().map(Ask::decide));
        asks.extend(staged.looks.into_iter().map(Ask::Read));
        self.stage(asks)
    }

    fn stage(&mut self, mut asks: VecDeque<Ask>) -> Result<Staged, EngineError> {
        let mut staged = Staged::default();
        while let Some(ask) = asks.pop_front() {
            let woken = staged.actions.len();
            match ask {
                Ask::Read(look) => staged.looks.push(look),
                Ask::Presence { boot, present } => self.presence.note(boot, present),
                Ask::Decide(waiting) => self.stage_decide(waiting, &mut staged)?,
                Ask::Command { by, command, blobs, answer } => {
                    let reply = self.stage_command(by.as_ref(), &command, &blobs, &mut staged)?;
                    staged.replies.push(Replied { command, by, blobs, answer, reply });
                }
            }
            for action in &staged.actions[woken..] {
                let obstacle = match action {
                    Action::Wake { effect } => Obstacle::Flight(effect.clone()),
                    Action::GateDecided { gate } => Obstacle::Person(gate.clone()),
                    Action::Probe { .. } | Action::GateOpened { .. } | Action::DropBody { .. } | Action::Alarm { .. } => continue,
                };
                asks.extend(self.parked.wake(&obstacle).into_iter().map(Ask::decide));
                // Those of this very batch who found the obstacle before it went away.
                let (waits, rest) = std::mem::take(&mut staged.decided)
                    .into_iter()
                    .partition(|(_, decided)| matches!(decided, Decided::Park(found) if *found == obstacle));
                staged.decided = rest;
                let waits: Vec<(Box<Waiting>, Decided)> = waits;
                asks.extend(waits.into_iter().map(|(waiting, _)| Ask::Decide(waiting)));
            }
        }
        Ok(staged)
    }

    /// Applies a command to memory and keeps what it led to; the reply waits for the append.
    pub(super) fn take_in(&mut self, command: &Command, staged: &mut Staged) -> Result<(Reply, bool), EngineError> {
        let now = self.clock.now(self.state.last_ts());
        let entropy = Entropy::new(self.vault.random()?);
        let Outcome { events, reply, actions } = apply(&self.state, command, now, entropy);
        let segment = self.head.segments + 1;
        for (position, event) in (staged.events.len()..).zip(&events) {
            staged.stale.extend(stale_answers(&self.state, &event.fact));
            self.fold(event, segment, position);
        }
        let changed = !events.is_empty();
        staged.events.extend(events);
        staged.actions.extend(actions);
        Ok((reply, changed))
    }

    fn stage_command(
        &mut self,
        by: Option<&AgentId>,
        command: &Command,
        blobs: &[Blob],
        staged: &mut Staged,
    ) -> Result<Reply, EngineError> {
        let is_stranger = |effect, fence| {
            let of = self.state.effect(effect).map(|effect| self.grantees.of(effect, fence));
            by.is_some_and(|by| of.is_some_and(|of| of != by))
        };
        match command {
            Command::Settle(settle) if is_stranger(&settle.effect, settle.fence) => {
                let refuse = Refuse::new(Code::NotFound, format!("There is no effect {} of this agent.", settle.effect));
                return Ok(Reply::Refuse(Box::new(refuse)));
            }
            Command::Evidence(evidence) if is_stranger(&evidence.effect, evidence.fence) => return Ok(Reply::Done),
            _ => {}
        }
        let (reply, changed) = self.take_in(command, staged)?;
        // A late word that does not stand leaves no answer behind: nothing would replay it.
        if changed && matches!(reply, Reply::Settled { stands: true, .. }) {
            staged.blobs.extend_from_slice(blobs);
        }
        if let Command::Renew(renew) = command {
            self.state.extend_leases(renew, self.clock.now(self.state.last_ts()));
        }
        Ok(reply)
    }

    /// Everything that was promised is durable now.
    async fn answer(&mut self, staged: Staged) {
        for (waiting, decided) in staged.decided {
            match decided {
                Decided::Answer(answer) => waiting.send(answer),
                Decided::Park(obstacle) => self.parked.park(obstacle, *waiting),
            }
        }
        for Replied { answer, reply, .. } in staged.replies {
            answer.send(reply);
        }
        for look in staged.looks {
            look(&self.state, &self.index);
        }
        for action in staged.actions {
            self.act(action);
        }
        self.drop_answers(&staged.stale).await;
    }
}
