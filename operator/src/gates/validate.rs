//! The second phase: which gates have no object yet, which objects show one, and which show none. What it returns is all that the
//! next phases need.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kybernis_core::ids::is_dns_label;
use tokio::time::Instant;

use super::dereference::Facts;
use super::object::Found;
use crate::ledger::{Gate, Place};
use crate::status::Now;

/// How long an object outlives its gate.
pub(super) const SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long the ledger has to tell of an object's gate: whoever made the object may have heard of it before us.
pub(crate) const MOMENT: Duration = Duration::from_secs(5);
/// How far clocks may be apart.
const CLOCKS: SignedDuration = SignedDuration::from_hours(1);
/// Objects of one agent's gates at a time.
const SHOWN_MAX: usize = 500;
/// Longest name of an object (RFC 1123).
const NAME_MAX: usize = 253;

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Validated {
    /// Gates without an object.
    pub(super) absent: Vec<Arc<Gate>>,
    /// Objects that show a gate.
    pub(super) present: Vec<(Found, Arc<Gate>)>,
    /// Objects that must go.
    pub(super) surplus: Vec<(Found, Why)>,
    /// When this is no longer so, whatever happens.
    pub(super) again: Option<Instant>,
}

/// Why an object must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its gate ended a day ago.
    Over,
    /// There is no such gate.
    Unknown,
    /// It shows another than the gate of its name.
    Differs,
}

/// Judges, and remembers since when it has known the objects of which nobody knows the gate.
#[derive(Debug)]
pub(super) struct Validator {
    moment: Duration,
    strangers: HashMap<String, Instant>,
}

impl Validator {
    pub(super) fn new(moment: Duration) -> Self {
        Self { moment, strangers: HashMap::new() }
    }

    /// Judges every gate and every object.
    pub(super) fn validate(&mut self, facts: Facts) -> Validated {
        let Facts { gates, objects, namespaces, now } = facts;
        let mut validated = Validated::default();
        let mut due: Vec<Instant> = Vec::new();
        let mut wanted: BTreeMap<&Place, &Arc<Gate>> = BTreeMap::new();
        for gate in gates.iter() {
            match shown_until(gate, now) {
                Some(until) if until <= now.steady => continue,
                until => due.extend(until),
            }
            wanted.insert(&gate.place, gate);
        }
        let mut taken: BTreeSet<Place> = BTreeSet::new();
        let mut strangers = HashMap::new();
        for object in objects {
            taken.insert(object.place.clone());
            match wanted.get(&object.place) {
                _ if object.deleting => {}
                Some(gate) if object.spec.as_ref() == Some(&gate.spec) => validated.present.push((object, Arc::clone(gate))),
                Some(_) => validated.surplus.push((object, Why::Differs)),
                None if gates.is_strange(&object.place) => {}
                None if gates.get(&object.place).is_some() || is_long_over(&object, now) => validated.surplus.push((object, Why::Over)),
                None => {
                    let since = self.strangers.get(&object.uid).copied().unwrap_or(now.steady);
                    let until = since + self.moment;
                    if until <= now.steady {
                        validated.surplus.push((object, Why::Unknown));
                    } else {
                        strangers.insert(object.uid, since);
                        due.push(until);
                    }
                }
            }
        }
        self.strangers = strangers;
        let has_room = |place: &Place| namespaces.get(&place.namespace).is_some_and(|found| !found.terminating);
        let absent = wanted.into_values().filter(|gate| !taken.contains(&gate.place) && has_room(&gate.place));
        validated.absent = fitting(&validated.present, absent.filter(|gate| is_name(gate)).cloned());
        validated.again = due.into_iter().min();
        validated
    }
}

/// Those gates that may have an object beside those that have one: more than [`SHOWN_MAX`] of one agent are for nobody to read, and an
/// agent, or a far side that is down, could otherwise fill the API server's store. The ledger has them all.
fn fitting(present: &[(Found, Arc<Gate>)], absent: impl Iterator<Item = Arc<Gate>>) -> Vec<Arc<Gate>> {
    let mut shown: HashMap<String, usize> = HashMap::new();
    present.iter().for_each(|(_, gate)| *shown.entry(gate.spec.agent.clone()).or_default() += 1);
    let mut left_out = 0_usize;
    let mut fits = |gate: &Arc<Gate>| {
        let shown = shown.entry(gate.spec.agent.clone()).or_default();
        let fits = *shown < SHOWN_MAX;
        *if fits { shown } else { &mut left_out } += 1;
        fits
    };
    // What still waits first.
    let (waiting, over): (Vec<_>, Vec<_>) = absent.partition(|gate| gate.ended_at.is_none());
    let fitting = waiting.into_iter().chain(over).filter(|gate| fits(gate)).collect();
    if left_out > 0 {
        tracing::warn!(gates = left_out, most = SHOWN_MAX, "an agent has more gates than are shown; the ledger lists them all");
    }
    fitting
}

/// When the object of a gate that has ended goes.
fn shown_until(gate: &Gate, now: Now) -> Option<Instant> {
    let left = left(gate.ended_at?, now.wall);
    Some(now.steady + Duration::try_from(left).unwrap_or_default())
}

fn left(ended: Timestamp, now: Timestamp) -> SignedDuration {
    let end = ended.checked_add(SHOWN_FOR).unwrap_or(Timestamp::MAX);
    end.duration_since(now)
}

/// Whether the ledger tells no more of the object's gate because it is over, by the object's own word.
fn is_long_over(object: &Found, now: Now) -> bool {
    object.status.ended_at.as_ref().is_some_and(|ended| left(ended.0, now.wall) <= CLOCKS)
}

/// Whether the API server takes an object of this name (RFC 1123): the ledger's own names are such.
fn is_name(gate: &Gate) -> bool {
    let name = &gate.place.name;
    let sound = name.len() <= NAME_MAX && name.split('.').all(is_dns_label);
    if !sound {
        tracing::error!(tenant = gate.tenant, gate = %gate.place, "no object can have this gate's name, so nobody sees it");
    }
    sound
}

#[cfg(test)]
mod tests;
