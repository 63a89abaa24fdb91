//! When authorities and leaves are made, taken into service and dropped. Every API server must trust the leaf that we serve at
//! every instant, and each learns of a change of `caBundle` a little after it was written. So a new authority is published
//! beside the old one, a grace time passes, the leaf is signed anew, another passes, and the old authority goes.
//!
//! Pure: what was seen and what time it is are arguments, what is to be done comes out. The keys are the driver's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moment::Moment;

/// Authorities at a time: one in service, one that comes or goes.
const AUTHORITIES_MAX: usize = 2;

/// How long things live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an authority. A successor is made at two thirds of it.
    pub authority: Duration,
    /// Of a leaf. It is signed anew at two thirds of it.
    pub leaf: Duration,
    /// From a change of the configurations until every API server is taken to know it, and from a change of the Secret until
    /// every replica is.
    pub grace: Duration,
}

impl Default for Lifetimes {
    /// A leaf of 30 days may fail to be renewed for ten of them before anybody is turned away. A year for the authority: its key
    /// lies in a Secret, and a path that is walked once in ten years is broken when it is needed. A webhook that was switched off
    /// for longer begins anew. Informers of API servers lag by milliseconds, and by some seconds when they reconnect.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { authority: DAY * 365, leaf: DAY * 30, grace: Duration::from_secs(60) }
    }
}

impl Lifetimes {
    /// What is wrong with them, where something is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.grace.is_zero() {
            Some("the grace time is nothing. Give it a minute")
        } else if self.leaf < self.grace.saturating_mul(3) {
            // Else a leaf is renewed before the old authority may be dropped, and it never is.
            Some("the leaf lives for less than three grace times. Let it live longer")
        } else if self.authority < self.leaf.saturating_mul(3) {
            // Else the last leaf of an authority ends with it, before a successor has been published.
            Some("the authority lives for less than three leaves. Let it live longer")
        } else {
            None
        }
    }
}

/// Who signs leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authority {
    pub(crate) id: u64,
    pub(crate) made: Moment,
    pub(crate) ends: Moment,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) id: u64,
    /// The authority.
    pub(crate) by: u64,
    pub(crate) made: Moment,
    pub(crate) ends: Moment,
}

/// What all replicas agree on; it lies in the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The id that is given next.
    pub(crate) next: u64,
    /// The oldest first.
    pub(crate) authorities: Vec<Authority>,
    pub(crate) leaf: Option<Leaf>,
}

/// Since when this replica has seen each authority in every configuration. Each replica watches for itself: one that restarts
/// waits for a grace time again, which harms nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(BTreeMap<u64, Moment>);

impl Seen {
    /// Notes what every configuration holds now. What was taken away begins again when it comes back.
    pub(crate) fn observe(&mut self, published: &BTreeSet<u64>, now: Moment) {
        self.0.retain(|id, _| published.contains(id));
        for id in published {
            self.0.entry(*id).or_insert(now);
        }
    }

    fn ready_at(&self, id: u64, grace: Duration) -> Option<Moment> {
        self.0.get(&id).map(|since| since.after(grace))
    }
}

/// What the driver has to do to reach the new state. Whatever it is, the state's leaf is to be served and its authorities are to be
/// published, and neither before the Secret holds the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a key and a certificate for this authority.
    MakeAuthority(u64),
    /// Make a key and have this authority sign its certificate.
    SignLeaf { id: u64, by: u64 },
    /// Forget an authority and its key.
    DropAuthority(u64),
}

/// The next state, how to reach it, and when there may be something to do again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) state: State,
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Moment,
}

/// One step. Stepping again with nothing new seen at the same time does nothing.
pub(crate) fn step(state: &State, seen: &Seen, now: Moment, lifetimes: &Lifetimes) -> Step {
    let mut step = Step { state: state.clone(), actions: Vec::new(), wake: now.after(lifetimes.authority) };
    step.drop_what_ended(now);
    step.make_authority(now, lifetimes);
    step.sign_leaf(seen, now, lifetimes);
    step.drop_predecessors(now, lifetimes);
    step
}

impl Step {
    /// An authority that has ended vouches for nothing, nor does a leaf.
    fn drop_what_ended(&mut self, now: Moment) {
        let (ended, left): (Vec<_>, Vec<_>) = self.state.authorities.drain(..).partition(|authority| authority.ends <= now);
        self.state.authorities = left;
        self.actions.extend(ended.iter().map(|authority| Action::DropAuthority(authority.id)));
        let authorities = &self.state.authorities;
        self.state.leaf.take_if(|leaf| leaf.ends <= now || !authorities.iter().any(|authority| authority.id == leaf.by));
    }

    fn make_authority(&mut self, now: Moment, lifetimes: &Lifetimes) {
        let due = self.state.authorities.last().map(|newest| due(newest.made, newest.ends, lifetimes.authority));
        if self.state.authorities.len() >= AUTHORITIES_MAX {
            return;
        }
        if let Some(due) = due.filter(|due| now < *due) {
            self.wake(due);
            return;
        }
        let id = self.new_id();
        self.state.authorities.push(Authority { id, made: now, ends: now.after(lifetimes.authority) });
        self.actions.push(Action::MakeAuthority(id));
    }

    /// Signs the leaf by the newest authority that has been published for the grace time; never goes back to an older one. Where
    /// no leaf is left to be served nobody can be turned away, and waiting would only prolong that: then by the oldest, which
    /// API servers are the likeliest to know.
    fn sign_leaf(&mut self, seen: &Seen, now: Moment, lifetimes: &Lifetimes) {
        let current = self.state.leaf.as_ref();
        let serving = current.map_or(0, |leaf| leaf.by);
        let candidates = self.state.authorities.iter().filter(|authority| authority.id >= serving);
        let readiness: Vec<_> = candidates.map(|authority| (authority.clone(), seen.ready_at(authority.id, lifetimes.grace))).collect();
        let ready = readiness.iter().rev().find(|(_, ready)| ready.is_some_and(|ready| ready <= now));
        let Some((signer, _)) = ready.or(readiness.first()).cloned() else { return };
        let ends = now.after(lifetimes.leaf).min(signer.ends);
        let is_due = match current {
            None => true,
            Some(leaf) if leaf.by != signer.id => true,
            // One that ends with its authority cannot be made to end later.
            Some(leaf) => due(leaf.made, leaf.ends, lifetimes.leaf) <= now && leaf.ends != ends,
        };
        if is_due {
            let id = self.new_id();
            self.state.leaf = Some(Leaf { id, by: signer.id, made: now, ends });
            self.actions.push(Action::SignLeaf { id, by: signer.id });
        }
        readiness.iter().filter(|(authority, _)| authority.id > signer.id).filter_map(|(_, ready)| *ready).for_each(|ready| {
            self.wake(ready);
        });
        if let Some(leaf) = self.state.leaf.clone() {
            let due = due(leaf.made, leaf.ends, lifetimes.leaf);
            self.wake(if due <= now { leaf.ends } else { due });
        }
    }

    /// What came before the authority in service goes when every replica serves the leaf.
    fn drop_predecessors(&mut self, now: Moment, lifetimes: &Lifetimes) {
        let Some(leaf) = self.state.leaf.clone() else { return };
        let older: Vec<u64> = self.state.authorities.iter().map(|authority| authority.id).filter(|id| *id < leaf.by).collect();
        if older.is_empty() {
            return;
        }
        let due = leaf.made.after(lifetimes.grace);
        if now < due {
            self.wake(due);
            return;
        }
        self.state.authorities.retain(|authority| authority.id >= leaf.by);
        self.actions.extend(older.into_iter().map(Action::DropAuthority));
    }

    fn new_id(&mut self) -> u64 {
        // From 1 on, so that 0 is before all of them.
        self.state.next = self.state.next.saturating_add(1);
        self.state.next
    }

    fn wake(&mut self, at: Moment) {
        self.wake = self.wake.min(at);
    }
}

/// At two thirds of its life, or of what a life has been told to be since it was made, where that is shorter.
fn due(made: Moment, ends: Moment, life: Duration) -> Moment {
    made.after(ends.since(made).min(life) * 2 / 3)
}

#[cfg(test)]
mod tests;
