//! What is on the desk: which decisions are being seen to, which wait for another try, and which are done but for the watch's word.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::core::DynamicObject;
use tokio::time::Instant;

use super::object::{Decision, is_open};
use super::status::Verdict;
use crate::backoff::Backoff;
use crate::ledger::Place;

/// Decisions at a time: the ledger syncs a disk for each, and those whose tries fail wait outside.
const AT_ONCE: usize = 8;

/// A decision and what is known of it already.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) decision: Decision,
    /// What is to be written; `None` until anybody knows.
    pub(super) verdict: Option<Verdict>,
}

/// How a try ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What became of it is told.
    Done,
    /// It is to be tried again; what is known of it already.
    Later(Option<Verdict>),
}

#[derive(Debug)]
struct Waiting {
    backoff: Backoff,
    due: Instant,
    verdict: Option<Verdict>,
}

/// The desk.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// By uid, with the Gate that it is about: of one gate one decision at a time, so that they come to the ledger in their order.
    running: HashMap<String, Option<Place>>,
    waiting: HashMap<String, Waiting>,
    done: HashSet<String>,
    session: u64,
}

impl Desk {
    /// Takes up what is due of all that there are; the oldest first.
    pub(super) fn take(&mut self, all: &[Arc<DynamicObject>], session: u64, now: Instant) -> Vec<Task> {
        if session != self.session {
            // A ledger that is back is asked at once.
            self.session = session;
            self.waiting.values_mut().for_each(|waiting| waiting.due = now);
        }
        let mut open: Vec<&Arc<DynamicObject>> = all.iter().filter(|found| is_open(found)).collect();
        let living: HashSet<&str> = open.iter().filter_map(|found| found.metadata.uid.as_deref()).collect();
        self.waiting.retain(|uid, _| living.contains(uid.as_str()));
        self.done.retain(|uid| living.contains(uid.as_str()));
        open.retain(|found| found.metadata.uid.as_ref().is_some_and(|uid| self.is_due(uid, now)));
        open.sort_by_key(|found| {
            (found.metadata.creation_timestamp.clone(), found.metadata.namespace.clone(), found.metadata.name.clone())
        });
        let mut busy: BTreeSet<Place> = self.running.values().flatten().cloned().collect();
        let mut tasks = Vec::new();
        for found in open {
            if self.running.len() >= AT_ONCE {
                break;
            }
            let Some(decision) = Decision::read(found) else { continue };
            let gate = decision.gate();
            if gate.as_ref().is_some_and(|gate| !busy.insert(gate.clone())) {
                continue;
            }
            self.running.insert(decision.uid.clone(), gate);
            let verdict = self.waiting.get(&decision.uid).and_then(|waiting| waiting.verdict.clone());
            tasks.push(Task { decision, verdict });
        }
        tasks
    }

    fn is_due(&self, uid: &str, now: Instant) -> bool {
        let waits = self.waiting.get(uid).is_some_and(|waiting| waiting.due > now);
        !waits && !self.running.contains_key(uid) && !self.done.contains(uid)
    }

    /// Notes how a try ended.
    pub(super) fn note(&mut self, uid: String, outcome: Outcome, now: Instant) {
        self.running.remove(&uid);
        match outcome {
            Outcome::Done => {
                self.waiting.remove(&uid);
                self.done.insert(uid);
            }
            Outcome::Later(verdict) => {
                let waiting = self.waiting.entry(uid).or_insert_with(|| Waiting { backoff: Backoff::new(), due: now, verdict: None });
                waiting.due = now + waiting.backoff.next();
                waiting.verdict = verdict;
            }
        }
    }

    /// When something is due again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().filter(|(uid, _)| !self.running.contains_key(*uid)).map(|(_, waiting)| waiting.due).min()
    }
}
