//! What became of the answers that callers were given: read to the end, or not. The ledger is told with the next Decide
//! or Renew, because a repeat means another thing to an answer that was read.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kybernis_core::ids::EffectId;
use kybernis_core::machine::{Fence, Observation, Seen};

use crate::delivery::{Delivery, Fate};

/// Answers whose fate is open at a time. Beyond it the ledger keeps taking them for unread, which is the safe side.
const WATCHED_MAX: usize = 16 * 1024;

type Name = (EffectId, Fence);

/// The answers whose fate is not known yet, and what has not been told.
#[derive(Debug, Default)]
pub(super) struct Callers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: Vec<(Name, Watched)>,
    untold: Vec<Observation>,
    /// Effects that went out without the ledger, which would not know of what it is told.
    alone: HashSet<EffectId>,
}

#[derive(Debug)]
struct Watched {
    delivery: Delivery,
    gone_told: bool,
}

impl Callers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This effect's answer goes to that caller.
    pub(super) fn watch(&self, effect: EffectId, fence: Fence, delivery: Delivery) {
        let mut state = self.state();
        if state.watched.len() < WATCHED_MAX {
            state.watched.push(((effect, fence), Watched { delivery, gone_told: false }));
        }
    }

    /// The caller is known to have gone, by other signs than its connection's.
    pub(super) fn gone(&self, effect: &EffectId, fence: Fence) {
        let mut state = self.state();
        let name = (effect.clone(), fence);
        let told = state.watched.iter().any(|(known, watched)| *known == name && watched.gone_told);
        state.watched.retain(|(known, _)| *known != name);
        if told {
            return;
        }
        state.untold.push(Observation { effect: name.0, fence, seen: Seen::CallerGone });
    }

    /// There is no answer of the far side's for this caller to read: whatever else it is told is not one.
    pub(super) fn forget(&self, effect: &EffectId, fence: Fence) {
        self.state().watched.retain(|(known, _)| (&known.0, known.1) != (effect, fence));
    }

    /// It does not fit the record: nothing of it is ever told.
    pub(super) fn refused(&self, alone: &str) {
        let mut state = self.state();
        state.watched.retain(|(name, _)| name.0.as_str() != alone);
        state.untold.retain(|seen| seen.effect.as_str() != alone);
        state.alone.retain(|effect| effect.as_str() != alone);
    }

    /// This effect goes out without the ledger.
    pub(super) fn alone(&self, effect: EffectId) {
        self.state().alone.insert(effect);
    }

    /// The ledger has on record what went out without it.
    pub(super) fn adopted(&self, alone: &EffectId, effect: &EffectId, fence: Fence) {
        let mut state = self.state();
        state.alone.remove(alone);
        let State { watched, untold, .. } = &mut *state;
        for (name, _) in watched.iter_mut().filter(|(name, _)| name.0 == *alone) {
            *name = (effect.clone(), fence);
        }
        for seen in untold.iter_mut().filter(|seen| seen.effect == *alone) {
            (seen.effect, seen.fence) = (effect.clone(), fence);
        }
    }

    /// Whether a caller has gone, and the ledger has not been told.
    pub(super) fn are_gone(&self) -> bool {
        let state = self.state();
        let is_gone = |watched: &Watched| !watched.gone_told && matches!(watched.delivery.fate(), Fate::Leaving | Fate::Lost);
        let told = |effect: &EffectId| !state.alone.contains(effect);
        state.untold.iter().any(|seen| seen.seen == Seen::CallerGone && told(&seen.effect))
            || state.watched.iter().any(|((effect, _), watched)| told(effect) && is_gone(watched))
    }

    /// What there is to tell now, of effects that the ledger knows; for a call that may not get through.
    pub(super) fn news(&self) -> News<'_> {
        let mut state = self.state();
        let State { watched, untold, alone } = &mut *state;
        let (unknown, mut news): (Vec<_>, Vec<_>) = std::mem::take(untold).into_iter().partition(|seen| alone.contains(&seen.effect));
        *untold = unknown;
        watched.retain_mut(|((effect, fence), watched)| {
            if alone.contains(effect) {
                return true;
            }
            let mut tell = |seen| news.push(Observation { effect: effect.clone(), fence: *fence, seen });
            match watched.delivery.fate() {
                Fate::Read => {
                    tell(Seen::Read);
                    false
                }
                Fate::Pending => true,
                Fate::Leaving if watched.gone_told => true,
                Fate::Leaving => {
                    tell(Seen::CallerGone);
                    watched.gone_told = true;
                    true
                }
                Fate::Lost => {
                    if !watched.gone_told {
                        tell(Seen::CallerGone);
                    }
                    false
                }
            }
        });
        News { callers: self, seen: news }
    }
}

/// What a call to the ledger carries; kept for the next one unless it is told.
#[derive(Debug)]
pub(super) struct News<'a> {
    callers: &'a Callers,
    seen: Vec<Observation>,
}

impl News<'_> {
    pub(super) fn seen(&self) -> &[Observation] {
        &self.seen
    }

    /// The ledger has them.
    pub(super) fn told(mut self) {
        self.seen.clear();
    }
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        if !self.seen.is_empty() {
            self.callers.state().untold.append(&mut self.seen);
        }
    }
}
