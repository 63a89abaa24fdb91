//! Where each run's events lie in the journal. Rebuilt by the fold; never stored.

use std::collections::HashMap;

use kybernis_core::ids::RunId;
use kybernis_core::machine::Event;

use super::EngineError;
use crate::journal::Journal;

/// Bytes of segments that one page of events may cost; a page that would cost more is shorter.
const PAGE_BYTES: usize = 32 * 1024 * 1024;

/// One event's place: the segment's number and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    segment: u64,
    position: u32,
}

/// The places of every run's events, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    runs: HashMap<RunId, Vec<Place>>,
}

impl Index {
    pub(super) fn note(&mut self, run: RunId, segment: u64, position: usize) {
        // A segment holds one batch's events, far fewer than 2^32.
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        self.runs.entry(run).or_default().push(Place { segment, position });
    }

    pub(super) fn forget(&mut self, run: &RunId) {
        self.runs.remove(run);
    }

    pub(super) fn of_run(&self, run: &RunId, after: u64, limit: usize) -> Vec<Place> {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        self.runs.get(run).into_iter().flatten().skip(skip).take(limit).copied().collect()
    }
}

/// Reads the events at `places`, numbering them from `after + 1`; at least the first, and as many as one page may cost.
pub(super) async fn read(journal: &dyn Journal, places: Vec<Place>, after: u64) -> Result<Vec<(u64, Event)>, EngineError> {
    let mut events = Vec::with_capacity(places.len());
    let mut open: Option<(u64, Vec<Event>)> = None;
    let mut cost = 0;
    for (number, place) in (after + 1..).zip(places) {
        if open.as_ref().is_none_or(|(segment, _)| *segment != place.segment) {
            if cost > PAGE_BYTES {
                break;
            }
            let bytes = journal.read(place.segment - 1, 1).await?.into_iter().next().unwrap_or_default();
            cost += bytes.len();
            open = Some((place.segment, decode(place.segment, &bytes)?));
            // A journal that answers where it is polled gives nobody else a turn.
            tokio::task::yield_now().await;
        }
        let position = usize::try_from(place.position).unwrap_or(usize::MAX);
        events.extend(open.as_ref().and_then(|(_, segment)| segment.get(position)).map(|event| (number, event.clone())));
    }
    Ok(events)
}

/// Packs a batch's events into one segment.
pub(super) fn encode(events: &[Event]) -> Vec<u8> {
    // Events are strings, integers and maps with text keys: this cannot fail.
    serde_json::to_vec(events).unwrap_or_default()
}

/// Unpacks a segment.
pub(super) fn decode(segment: u64, bytes: &[u8]) -> Result<Vec<Event>, EngineError> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::Events { segment, reason: error.to_string() })
}
