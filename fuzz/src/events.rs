//! KSP events, and the journal's segments: what is read is written the same, and can be folded.

use kybernis_core::ksp::KspEvent;
use kybernis_core::machine::{Command, Entropy, Event, State, apply};
use kybernis_ledger::views::{EffectView, EventView, GateView, RunView};

use crate::input::choice;

/// `k` KSP event, `j` journal segment.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    match kind {
        b'k' => ksp(rest),
        b'j' => segment(rest),
        _ => {}
    }
}

fn ksp(bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice::<KspEvent>(bytes) else { return };
    let written = serde_json::to_vec(&event).expect("an event is a document");
    let again: KspEvent = serde_json::from_slice(&written).expect("an event is read as it is written");
    assert_eq!(again, event);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written), "a chain over the event's bytes would break at a restart");
}

fn segment(bytes: &[u8]) {
    let Ok(events) = serde_json::from_slice::<Vec<Event>>(bytes) else { return };
    let written = serde_json::to_vec(&events).expect("events are a document");
    let again: Vec<Event> = serde_json::from_slice(&written).expect("a segment is read as it is written");
    assert_eq!(again, events);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written), "a chain over the events' bytes would break at a restart");
    let mut state = State::default();
    for event in &events {
        state.fold(event);
    }
    let _ = apply(&state, &Command::Expire, state.last_ts(), Entropy::new([7; 16]));
    let runs = state.runs().map(|(id, run)| serde_json::to_value(RunView::new(id, run)));
    let effects = state.effects().map(|effect| serde_json::to_value(EffectView::new(effect)));
    let gates = state.gates().map(|gate| serde_json::to_value(GateView::new(gate)));
    let listed = (1..).zip(&events).map(|(seq, event)| serde_json::to_value(EventView::new(seq, event)));
    assert!(runs.chain(effects).chain(gates).chain(listed).all(|view| view.is_ok()));
}
