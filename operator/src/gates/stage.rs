//! Gates and decisions with an API server and a ledger around them, for tests.

use k8s_openapi::jiff::Timestamp;
use kybernis_proto::v1;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Keeper;
use crate::decisions::Clerk;
use crate::fake_api::{FakeApi, World};
use crate::lead;
use crate::ledger::fake::{Rig, Tell, gate_update, gates_synced, synced};
use crate::watch::Watches;

/// How long an unknown object is left alone here.
pub(crate) const MOMENT: std::time::Duration = std::time::Duration::from_millis(300);

pub(crate) struct Stage {
    pub(crate) api: FakeApi,
    pub(crate) rig: Rig,
    pub(crate) tell: Option<Tell<v1::GateUpdate>>,
    sidecars: Option<Tell<v1::SidecarUpdate>>,
    tasks: JoinSet<()>,
}

impl Stage {
    /// An operator that leads, in a cluster with the namespace `trading`, and a ledger that is away.
    pub(crate) async fn start() -> Self {
        let (api, rig) = (FakeApi::new(), Rig::start().await);
        api.change(|world| world.put("namespaces", "", "trading", json!({})));
        let mut stage = Self { api, rig, tell: None, sidecars: None, tasks: JoinSet::new() };
        stage.operate();
        stage
    }

    /// Starts an operator, instead of the one that works now.
    pub(crate) fn operate(&mut self) {
        self.tasks = JoinSet::new();
        let client = lead::writing(self.api.client(), self.rig.leads.clone());
        let (watches, tasks) = Watches::new(&client, &self.rig.wakes, &self.rig.metrics);
        let (gates, gate_tasks) = watches.gates(&client, &self.rig.wakes, &self.rig.metrics);
        for task in tasks.into_iter().chain(gate_tasks) {
            self.tasks.spawn(task);
        }
        let recorder = kube::runtime::events::Recorder::new(client.clone(), "kybernis.io/operator".into());
        let keeper = Keeper {
            client: client.clone(),
            watches: gates.clone(),
            ledger: self.rig.ledger.clone(),
            recorder: recorder.clone(),
            metrics: self.rig.metrics.clone(),
            wake: self.rig.wakes.gates.clone(),
            leads: self.rig.leads.clone(),
            moment: MOMENT,
        };
        self.tasks.spawn(keeper.run());
        let clerk = Clerk {
            client,
            watches: gates,
            ledger: self.rig.ledger.clone(),
            recorder,
            metrics: self.rig.metrics.clone(),
            wake: self.rig.wakes.decisions.clone(),
            leads: self.rig.leads.clone(),
        };
        self.tasks.spawn(clerk.run());
    }

    /// The ledger comes, with these gates.
    pub(crate) fn ledger(&mut self, gates: impl IntoIterator<Item = v1::GateState>) {
        self.tell = Some(self.rig.gate_stream(gates.into_iter().map(gate_update).chain([gates_synced()])));
        self.sidecars = Some(self.rig.stream([synced()]));
    }

    /// The ledger goes.
    pub(crate) fn ledger_goes(&mut self) {
        (self.tell, self.sidecars) = (None, None);
    }

    /// The ledger tells of a gate.
    pub(crate) fn gate(&self, gate: v1::GateState) {
        self.tell.as_ref().unwrap().send(gate_update(gate)).unwrap();
    }

    /// Waits until a Gate object is in this phase, and returns it.
    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Value {
        self.api.until(&format!("{name} {phase}"), |world| phase_of(world, name) == phase).await;
        self.api.world().get("gates", "trading", name).unwrap().clone()
    }

    /// Waits until there is no such Gate object.
    pub(crate) async fn gone(&self, name: &str) {
        self.api.until(&format!("{name} gone"), |world| world.get("gates", "trading", name).is_none()).await;
    }
}

fn phase_of<'w>(world: &'w World, name: &str) -> &'w str {
    world.get("gates", "trading", name).and_then(|gate| gate["status"]["phase"].as_str()).unwrap_or_default()
}

/// `Decided=True Approved` and so on.
pub(crate) fn conditions(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions.iter().map(|found| format!("{}={} {}", text(&found["type"]), text(&found["status"]), text(&found["reason"]))).collect()
}

/// Some hours before now, as the ledger tells it.
pub(crate) fn hours_ago(hours: u64) -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap() - hours * 3_600_000
}
