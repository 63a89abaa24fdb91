//! Decides that wait: for another call's flight, or for a person. Waiting holds no claim.

use std::collections::HashMap;

use kybernis_core::ids::{BootId, EffectId, GateId};
use kybernis_proto::{DecideAnswer, DecideParts};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One Decide until it is answered.
pub(super) struct Waiting {
    pub(super) parts: DecideParts,
    answer: oneshot::Sender<DecideAnswer>,
    /// When it stops waiting for another's flight.
    flight_until: Instant,
    /// When it stops waiting for a person.
    person_until: Instant,
    /// The gate that it waits at. When that has ended, another is for whoever calls again.
    gate: Option<GateId>,
}

/// What a Decide waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Obstacle {
    /// Another call's effect is in flight.
    Flight(EffectId),
    /// A person has not decided yet.
    Person(GateId),
    /// A sidecar whose caller meant the same is out of touch; from then on it counts as gone.
    Absence(BootId, Instant),
}

impl Waiting {
    pub(super) fn new(parts: DecideParts, answer: oneshot::Sender<DecideAnswer>) -> Self {
        let now = Instant::now();
        let flight_until = now + parts.wait.to_std();
        let person_until = now + parts.hold.to_std();
        Self { parts, answer, flight_until, person_until, gate: None }
    }

    /// Nobody waits for the answer any more: granting it would only put the effect in doubt.
    pub(super) fn is_deserted(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn patience_over(&self) -> bool {
        Instant::now() >= self.flight_until
    }

    pub(super) fn holds_at(&mut self, gate: &GateId) -> bool {
        Instant::now() < self.person_until && self.gate.get_or_insert_with(|| gate.clone()) == gate
    }

    pub(super) fn until(&self, obstacle: &Obstacle) -> Instant {
        match obstacle {
            Obstacle::Flight(_) => self.flight_until,
            Obstacle::Person(_) => self.person_until,
            Obstacle::Absence(_, then) => *then,
        }
    }

    pub(super) fn send(self, answer: DecideAnswer) {
        // A sidecar that gave up says so with Abandon.
        let _ = self.answer.send(answer);
    }
}

/// All that wait, by what stands in their way, in the order in which they came.
#[derive(Default)]
pub(super) struct Parked {
    by_obstacle: HashMap<Obstacle, Vec<Waiting>>,
}

impl Parked {
    pub(super) fn park(&mut self, obstacle: Obstacle, waiting: Waiting) {
        self.by_obstacle.entry(obstacle).or_default().push(waiting);
    }

    /// Those who waited for this.
    pub(super) fn wake(&mut self, obstacle: &Obstacle) -> Vec<Waiting> {
        self.by_obstacle.remove(obstacle).unwrap_or_default()
    }

    /// Those whose time is over, and nobody who has gone.
    pub(super) fn overdue(&mut self) -> Vec<Waiting> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (obstacle, waiting) in &mut self.by_obstacle {
            waiting.retain(|one| !one.is_deserted());
            due.extend(waiting.extract_if(.., |one| one.until(obstacle) <= now));
        }
        self.by_obstacle.retain(|_, waiting| !waiting.is_empty());
        due
    }

    /// Everyone, for another run after memory was dropped.
    pub(super) fn all(&mut self) -> Vec<Waiting> {
        self.by_obstacle.drain().flat_map(|(_, waiting)| waiting).collect()
    }
}
