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
    /// By uid, with the Gate on which it asks the ledger: of one gate one decision at a time, so that they come there in their order.
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
        open.retain(|found| found.metadata.uid.as_ref().is_some_and(|uid| !self.running.contains_key(uid) && !self.done.contains(uid)));
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
            let waiting = self.waiting.get(&decision.uid);
            let verdict = waiting.and_then(|waiting| waiting.verdict.clone());
            // One that is only to be told what became of it was at the ledger, and keeps nobody from it.
            let gate = decision.gate().filter(|_| verdict.is_none());
            let is_behind = gate.as_ref().is_some_and(|gate| !busy.insert(gate.clone()));
            // One that waits has its gate all the same: a denial must not be overtaken by a later approval.
            if is_behind || waiting.is_some_and(|waiting| waiting.due > now) {
                continue;
            }
            self.running.insert(decision.uid.clone(), gate);
            tasks.push(Task { decision, verdict });
        }
        tasks
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

    /// When something is due after `now`, at which the last was taken up: what was due then and is not taken waits for one that runs
    /// to end, and no clock.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A word of that second.
    fn word(second: usize, name: &str, gate: &str) -> Arc<DynamicObject> {
        let created = format!("2030-01-01T00:00:{second:02}Z");
        let metadata = json!({"namespace": "trading", "name": name, "uid": name, "creationTimestamp": created});
        let spec = json!({"gate": gate, "gateUid": "u", "digest": "d", "decision": "Deny"});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn taken(desk: &mut Desk, all: &[Arc<DynamicObject>], now: Instant) -> String {
        let names: Vec<String> = desk.take(all, 0, now).into_iter().map(|task| task.decision.place.name).collect();
        names.join(" ")
    }

    #[test]
    fn words_on_one_gate_come_to_the_ledger_in_their_order_however_long_the_first_waits() {
        let all = [word(3, "elsewhere", "b"), word(2, "approves", "a"), word(1, "denies", "a"), word(4, "late", "a")];
        let (mut desk, start) = (Desk::default(), Instant::now());
        assert_eq!(taken(&mut desk, &all, start), "denies elsewhere");
        desk.note("denies".to_owned(), Outcome::Later(None), start);
        let due = desk.next_due(start).unwrap();
        assert_eq!(taken(&mut desk, &all, start), "", "it waits, and nobody overtakes it");
        assert_eq!(taken(&mut desk, &all, due), "denies");
        desk.note("denies".to_owned(), Outcome::Done, due);
        assert_eq!(taken(&mut desk, &all, due), "approves");
        desk.note("approves".to_owned(), Outcome::Later(Some(Ok(()))), due);
        assert_eq!(taken(&mut desk, &all, due), "late", "the one before is on record, and only not told yet");
    }

    #[test]
    fn what_is_due_and_cannot_be_taken_yet_wakes_nobody() {
        let (mut desk, start) = (Desk::default(), Instant::now());
        let mut all = vec![word(59, "waits", "a")];
        taken(&mut desk, &all, start);
        desk.note("waits".to_owned(), Outcome::Later(None), start);
        let due = desk.next_due(start).unwrap();
        all.extend((0..AT_ONCE).map(|n| word(n, &format!("before-{n}"), &format!("gate-{n}"))));
        taken(&mut desk, &all, start);
        assert_eq!((taken(&mut desk, &all, due).as_str(), desk.next_due(due)), ("", None));
        desk.note("before-0".to_owned(), Outcome::Done, due);
        assert_eq!(taken(&mut desk, &all, due), "waits");
    }
}
