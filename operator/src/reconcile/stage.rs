//! The loop with an API server and a ledger around it, for tests.

use kube::runtime::events::Recorder;
use tokio::task::JoinSet;

use super::*;
use crate::fake_api::FakeApi;
use crate::fixtures::RELEASE;
use crate::ledger::fake::Rig;

/// Starts the loop and its watches.
pub(crate) fn operate(api: &FakeApi, rig: &Rig) -> JoinSet<()> {
    let client = api.client();
    let (watches, tasks) = Watches::new(&client, &rig.wakes, &rig.metrics);
    let reconciler = Reconciler {
        client: client.clone(),
        extra_roots: None,
        release: RELEASE.to_owned(),
        watches,
        secrets: Secrets::new(client.clone(), Arc::clone(&rig.wakes.policies), Arc::clone(&rig.metrics)),
        ledger: rig.ledger.clone(),
        writer: Writer::new(client.clone(), Recorder::new(client, "kybernis.io/operator".into())),
        metrics: Arc::clone(&rig.metrics),
        wake: Arc::clone(&rig.wakes.policies),
        leads: rig.leads.clone(),
        ready: watch::Sender::new(false),
    };
    let mut parts = JoinSet::new();
    for task in tasks {
        parts.spawn(task);
    }
    parts.spawn(reconciler.run());
    parts
}
