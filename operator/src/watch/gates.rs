//! Gates, and what people say of them. Apart from what people write in policies: a Gate kind that is not installed holds up no Policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Config;
use kybernis_crds::kinds::{Gate, GateDecision};

use super::{Known, keep, namespaces};
use crate::facts::Namespace as Found;
use crate::ledger::Place;
use crate::metrics::Metrics;
use crate::wake::Wakes;

/// What is known of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GateWatches {
    gates: Known<DynamicObject>,
    decisions: Known<DynamicObject>,
    namespaces: Known<PartialObjectMeta<Namespace>>,
}

impl GateWatches {
    pub(super) fn new(
        client: &Client,
        namespaces: Known<PartialObjectMeta<Namespace>>,
        wakes: &Wakes,
        metrics: &Arc<Metrics>,
    ) -> (Self, Vec<BoxFuture<'static, ()>>) {
        let mut tasks = Vec::new();
        let [gates, decisions] =
            [("Gate", gate(), &wakes.gates), ("GateDecision", decision(), &wakes.decisions)].map(|(what, resource, wake)| {
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                let (known, task) = keep(what, api, Config::default(), Writer::new(resource), &[wake], metrics);
                tasks.push(task);
                known
            });
        (Self { gates, decisions, namespaces }, tasks)
    }

    /// Waits until each has been listed once.
    pub(crate) async fn ready(&self) {
        self.gates.ready().await;
        self.decisions.ready().await;
        self.namespaces.ready().await;
    }

    pub(crate) fn gates(&self) -> Vec<Arc<DynamicObject>> {
        self.gates.store.state()
    }

    pub(crate) fn gate(&self, place: &Place) -> Option<Arc<DynamicObject>> {
        self.gates.store.get(&ObjectRef::new_with(&place.name, gate()).within(&place.namespace))
    }

    pub(crate) fn decisions(&self) -> Vec<Arc<DynamicObject>> {
        self.decisions.store.state()
    }

    pub(crate) fn namespaces(&self) -> BTreeMap<String, Found> {
        namespaces(&self.namespaces)
    }
}

/// Where the API server has gates.
pub(crate) fn gate() -> ApiResource {
    ApiResource::erase::<Gate>(&())
}

/// Where the API server has people's words on them.
pub(crate) fn decision() -> ApiResource {
    ApiResource::erase::<GateDecision>(&())
}
