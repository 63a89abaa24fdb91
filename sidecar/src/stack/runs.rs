//! Runs that callers name: whose they are is the ledger's to say, once for each.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use kybernis_core::ids::RunId;

use super::call::Call;
use super::observe::AUDITED_WITHIN;
use crate::control::{CallError, Control};

/// Runs that are known to be ours. Beyond it they are asked for again.
const KNOWN_MAX: usize = 1024;
/// How long a read waits to hear whose run it names.
const ASK: std::time::Duration = std::time::Duration::from_secs(2);

/// The named runs that the ledger has let this agent enter.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashSet<RunId>>);

impl Runs {
    /// Whether the call names a run of another agent's. While the ledger is away nothing is known, and a read goes on: its
    /// spans will not be taken for that run.
    pub(super) async fn is_foreign(&self, control: &Control, call: &Call, audited: bool) -> bool {
        if call.controls.run.is_none() || control.identity().is_some_and(|identity| identity.run == call.run) || self.knows(&call.run) {
            return false;
        }
        let within = if audited { AUDITED_WITHIN } else { ASK };
        let asked = tokio::time::timeout(within, control.enter_run(&call.run)).await;
        match asked.unwrap_or_else(|_| Err(CallError::Away("it does not answer".to_owned()))) {
            Ok(None) => {
                self.note(&call.run);
                false
            }
            Ok(Some(_)) => true,
            Err(error) => {
                tracing::debug!(%error, "whose run this is could not be asked");
                false
            }
        }
    }

    fn knows(&self, run: &RunId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }

    fn note(&self, run: &RunId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(run.clone());
    }
}
