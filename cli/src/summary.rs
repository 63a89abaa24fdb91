//! The last word of a run: what was called, what was replayed or refused, and what somebody still owes.

use std::fmt;

use kybernis_core::ids::RunId;
use kybernis_ledger::views::RunView;

use crate::api::Api;
use crate::read::{Listing, Source as _};

/// A run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    run: String,
    calls: u64,
    replayed: u64,
    refused: u64,
    in_doubt: u64,
    gates_open: usize,
}

impl Summary {
    /// Asks the ledger.
    pub(crate) async fn of(run: &RunId, api: &Api) -> anyhow::Result<Self> {
        let runs = api.list(Listing::Runs, "").await?;
        let views = runs.into_iter().filter_map(|run| serde_json::from_value::<RunView>(run).ok());
        let gates = api.list(Listing::Gates, &format!("run_id={run}&status=PENDING")).await?;
        let found = views.into_iter().find(|view| view.run_id == run.as_str());
        Ok(Self::new(run, found.as_ref(), gates.len()))
    }

    /// A run that made no call is on no record.
    fn new(run: &RunId, view: Option<&RunView>, gates_open: usize) -> Self {
        let count = |of: fn(&RunView) -> u64| view.map_or(0, of);
        Self {
            run: run.to_string(),
            calls: count(|view| view.calls),
            replayed: count(|view| view.replayed),
            refused: count(|view| view.refused),
            in_doubt: count(|view| view.in_doubt),
            gates_open,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, calls, replayed, refused, in_doubt, gates_open } = self;
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        write!(f, "kybernis: run {run}: {calls} call{}, {replayed} replayed, {refused} refused, ", plural(*calls))?;
        write!(f, "{in_doubt} in doubt, {gates_open} gate{} open", plural(*gates_open as u64))?;
        if *gates_open > 0 {
            write!(f, "\nkybernis: somebody owes a decision: `kybernis gates` lists what is asked")?;
        }
        if *in_doubt > 0 {
            write!(f, "\nkybernis: `kybernis effects --in-doubt` says what nobody knows the outcome of")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_comes_with_the_command_to_type() {
        let run = RunId::new("r-1").unwrap();
        let quiet = Summary::new(&run, None, 0).to_string();
        assert_eq!(quiet, "kybernis: run r-1: 0 calls, 0 replayed, 0 refused, 0 in doubt, 0 gates open");
        let view: RunView = serde_json::from_value(serde_json::json!({
            "run_id": "r-1", "agent": "a", "explicit": false, "started_at": "", "last_at": "", "calls": 1, "effects": 1,
            "replayed": 2, "refused": 3, "in_doubt": 4, "events": 9, "head": ""
        }))
        .unwrap();
        let owed = Summary::new(&run, Some(&view), 1).to_string();
        assert!(owed.starts_with("kybernis: run r-1: 1 call, 2 replayed, 3 refused, 4 in doubt, 1 gate open\n"), "{owed}");
        assert!(owed.contains("kybernis gates") && owed.contains("kybernis effects --in-doubt"), "{owed}");
    }
}
