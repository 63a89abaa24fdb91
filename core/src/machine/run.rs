//! Runs: whose they are, what they did, and the hash chain over their events.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Outcome;
use super::command::{EnterRun, Spans};
use super::event::{Event, Fact};
use super::reply::{Refuse, Reply};
use super::state::State;
use crate::ids::{AgentId, ChainHash, RunId};
use crate::ksp::{KspEvent, SpanStatus};
use crate::reason::Code;
use crate::time::{Millis, Timestamp};

/// How long a run is known after its last event, and after the last record of its effects: a quarter, so that whoever settles
/// accounts finds it. Its events stay in the journal; its id is anybody's again.
pub const RUN_MEMORY: Millis = Millis::from_secs(90 * 24 * 3600);

/// What a run has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that were made, refused or replayed.
    pub calls: u64,
    /// Effects that were granted.
    pub effects: u64,
    /// Calls answered with an earlier call's answer.
    pub replayed: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Effects that are in doubt now.
    pub in_doubt: u64,
}

/// One run's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The only agent that may use it.
    pub agent: AgentId,
    /// Named by its caller.
    pub explicit: bool,
    /// First use.
    pub opened_at: Timestamp,
    /// Last event.
    pub last_at: Timestamp,
    /// What it has done.
    pub tally: Tally,
    /// The hash of its last event chained to all before.
    pub head: ChainHash,
    /// Number of its events.
    pub events: u64,
    /// Its effects that are on record, tombstones too.
    pub effects_on_record: u64,
}

/// The next link: SHA-256 over the previous link and the event's canonical bytes.
pub fn chain(previous: ChainHash, event: &[u8]) -> ChainHash {
    ChainHash::from_bytes(Sha256::new().chain_update(previous.as_bytes()).chain_update(event).finalize().into())
}

impl Refuse {
    /// A run of another agent's.
    pub fn foreign_run(run: &RunId) -> Self {
        Self::new(Code::RunForeign, format!("Run {run} belongs to another agent; use a run id of your own."))
    }
}

/// The event that opens `run`, unless it is open; an error when it belongs to another agent.
pub(super) fn enter(state: &State, run: &RunId, agent: &AgentId, explicit: bool, now: Timestamp) -> Result<Option<Event>, Box<Refuse>> {
    match state.run(run) {
        Some(known) if known.agent != *agent && !crate::mutation::broken("a_run_has_one_agent") => Err(Box::new(Refuse::foreign_run(run))),
        Some(_) => Ok(None),
        None => Ok(Some(Event { ts: now, fact: Fact::RunOpened { run: run.clone(), agent: agent.clone(), explicit } })),
    }
}

/// A run id belongs to the agent that used it first.
pub(super) fn enter_named(state: &State, entered: &EnterRun, now: Timestamp) -> Outcome {
    match enter(state, &entered.run, &entered.agent, true, now) {
        Ok(event) => Outcome { events: event.into_iter().collect(), ..Outcome::default() },
        Err(foreign) => Outcome::reply(Reply::Refuse(foreign)),
    }
}

/// Records spans that are not on record yet. A span of a stranger's run is not kept: the run is not
/// its to write.
pub(super) fn spans(state: &State, spans: &Spans, now: Timestamp) -> Outcome {
    let through = state.spans_through(&spans.boot);
    let mut events = Vec::new();
    let mut opened: Vec<RunId> = Vec::new();
    let mut last = through;
    for (nth, span) in (0_u64..).zip(&spans.spans) {
        // A sidecar that is not ours may number as it likes; no number ends the count.
        let Some(seq) = spans.first_seq.checked_add(nth) else { break };
        if seq <= through {
            continue;
        }
        if seq != last.saturating_add(1) {
            // A gap: the sidecar resumes from what is acknowledged.
            break;
        }
        last = seq;
        let run = span.run_id();
        let refused = !opened.contains(run)
            && match enter(state, run, &spans.agent, false, now) {
                Ok(event) => {
                    events.extend(event);
                    opened.push(run.clone());
                    false
                }
                Err(_) => true,
            };
        let boot = spans.boot.clone();
        let fact = if refused { Fact::SpanRefused { boot, seq } } else { Fact::SpanRecorded { boot, seq, span: Box::new(span.clone()) } };
        events.push(Event { ts: now, fact });
    }
    Outcome { events, reply: Reply::SpansAcked { through: last }, actions: Vec::new() }
}

/// Counts a recorded span in its run's tally.
pub(super) fn count(tally: &mut Tally, span: &KspEvent) {
    match span {
        KspEvent::SpanStart(_) => {}
        KspEvent::SpanEnd(end) => {
            tally.calls += 1;
            match end.status {
                SpanStatus::Deduped => tally.replayed += 1,
                SpanStatus::Blocked => tally.refused += 1,
                SpanStatus::Ok | SpanStatus::Error | SpanStatus::Canceled => {}
            }
        }
    }
}
