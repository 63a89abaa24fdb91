//! Gates: for each that the ledger knows, an object in the agent's namespace that says what it asks and where it stands. The ledger
//! is the record and the object only shows it: what differs from the record is put right, and what is not on record goes.
//!
//! The phases are those of the policies, a file each: `dereference`, `validate`, `build`, `apply`, `status`.

mod apply;
mod build;
mod dereference;
pub(crate) mod object;
#[cfg(test)]
pub(crate) mod stage;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use kybernis_crds::kinds::GatePhase;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::status::write::Writer;
pub(crate) use self::validate::MOMENT;
use self::validate::{SHOWN_FOR, Validator};
use crate::backoff::Backoff;
use crate::lead::Lead;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::reconcile::Pass;
use crate::status::Now;
use crate::watch::GateWatches;

/// How long gates are remembered after their objects should have gone.
const REMEMBERED_FOR: Duration = Duration::from_secs(2 * SHOWN_FOR.as_secs());

/// The loop's tools.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) watches: GateWatches,
    pub(crate) ledger: Ledger,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) leads: Lead,
    /// How long the ledger has to tell of an object's gate.
    pub(crate) moment: Duration,
}

impl Keeper {
    /// Works while this replica leads; returns when nobody tells any more who does.
    pub(crate) async fn run(self) {
        self.watches.ready().await;
        let mut leads = self.leads.clone();
        while leads.gained().await {
            tokio::select! {
                () = self.lead() => {}
                () = leads.lost() => {}
            }
            // How many wait is the next leader's to say.
            self.metrics.gates_open.set(0);
        }
    }

    async fn lead(&self) {
        let (mut validator, mut writer) = (Validator::new(self.moment), Writer::default());
        let mut backoff = Backoff::new();
        loop {
            let pass = self.pass(&mut validator, &mut writer).await;
            pass.rest(&mut backoff, &self.wake).await;
        }
    }

    async fn pass(&self, validator: &mut Validator, writer: &mut Writer) -> Pass {
        // While the ledger is away nobody knows what should be there, and all stays as it is. It wakes us when it is back.
        let Some(gates) = self.ledger.link().gates else { return Pass { complete: true, again: None } };
        let open = gates.iter().filter(|gate| gate.phase == GatePhase::Pending).count();
        self.metrics.gates_open.set(u64::try_from(open).unwrap_or(u64::MAX));
        let now = Now { wall: Timestamp::now(), steady: Instant::now() };
        let facts = dereference::dereference(gates, &self.watches, now);
        let validated = validator.validate(facts);
        let built = build::build(&validated.absent);
        let (applied, removed) = tokio::join!(
            apply::make(&self.client, built, &self.metrics),
            apply::remove(&self.client, &self.recorder, validated.surplus, &self.metrics)
        );
        let mut shown = validated.present;
        shown.extend(applied.made);
        let told = writer.write(&self.client, shown, now.wall, &self.metrics).await;
        if let Ok(before) = now.wall.checked_sub(REMEMBERED_FOR) {
            self.ledger.forget_gates(before);
        }
        Pass { complete: !applied.failed && removed && told, again: validated.again }
    }
}

#[cfg(test)]
mod tests;
