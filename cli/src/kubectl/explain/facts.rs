//! What the cluster shows of a pod: itself, its namespace, what owns it, the webhook, and what people have written for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::Resource;
use kube::{Api, Client};
use kybernis_crds::kinds::{Policy, RetryPolicy, ToolRegistration};
use serde_json::Value;

use super::super::connect::Cluster;
use super::super::release::Release;
use super::super::seen::Seen;

/// The owners whose own metadata and pod template are looked at: Kubernetes' kinds, with group, version and plural.
const WORKLOADS: [(&str, &str, &str, &str); 6] = [
    ("Deployment", "apps", "v1", "deployments"),
    ("ReplicaSet", "apps", "v1", "replicasets"),
    ("StatefulSet", "apps", "v1", "statefulsets"),
    ("DaemonSet", "apps", "v1", "daemonsets"),
    ("Job", "batch", "v1", "jobs"),
    ("CronJob", "batch", "v1", "cronjobs"),
];
/// The owners that are owned themselves, in the ledger's eyes: any other is the topmost.
const MIDDLE: [&str; 2] = ["ReplicaSet", "Job"];

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) pod: Pod,
    pub(super) namespace: Seen<Namespace>,
    /// From the nearest up.
    pub(super) owners: Vec<Owner>,
    pub(super) release: Release,
    /// Of the pod's namespace and of the release's, whatever they select. Raw: a cluster may know fields that this program does not.
    pub(super) policies: Vec<Seen<Vec<DynamicObject>>>,
    pub(super) tools: Vec<Seen<Vec<DynamicObject>>>,
    pub(super) retry_policies: Vec<Seen<Vec<DynamicObject>>>,
}

/// What owns a pod, or its owner.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// The object; absent too where its kind is none of Kubernetes' own.
    pub(super) object: Seen<DynamicObject>,
}

impl Facts {
    /// Looks.
    pub(super) async fn gather(cluster: &Cluster, pod: &str, release: Release) -> anyhow::Result<Self> {
        let Cluster { client, namespace, .. } = cluster;
        let pod = Api::<Pod>::namespaced(client.clone(), namespace).get(pod).await?;
        let seen = Seen::of(Api::<Namespace>::all(client.clone()).get(namespace).await)?;
        let owners = owners(client, namespace, &pod).await?;
        let mut namespaces = vec![namespace.as_str()];
        if release.namespace != *namespace {
            namespaces.push(&release.namespace);
        }
        let policies = listed::<Policy>(client, &namespaces).await?;
        let tools = listed::<ToolRegistration>(client, &namespaces).await?;
        let retry_policies = listed::<RetryPolicy>(client, &namespaces).await?;
        Ok(Self { pod, namespace: seen, owners, release, policies, tools, retry_policies })
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace_name(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.pod.metadata.labels.clone().unwrap_or_default()
    }

    pub(super) fn namespace_label(&self, name: &str) -> Option<&str> {
        self.namespace.found()?.metadata.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// What could not be read, and what was said of that.
    pub(super) fn unknown(&self) -> Vec<String> {
        let lists = self.policies.iter().chain(&self.tools).chain(&self.retry_policies).filter_map(Seen::hidden);
        let owners = self.owners.iter().filter_map(|owner| owner.object.hidden());
        let mut said: Vec<String> = self.namespace.hidden().into_iter().chain(owners).chain(lists).map(str::to_owned).collect();
        said.dedup();
        said
    }
}

impl Owner {
    /// The one that manages an object: of all its owners at most one may.
    fn managing(owners: Option<&[OwnerReference]>) -> Option<&OwnerReference> {
        owners?.iter().find(|owner| owner.controller == Some(true))
    }

    /// Annotations of the pods that it makes.
    pub(super) fn template_annotation(&self, name: &str) -> Option<&str> {
        let spec = &self.object.found()?.data["spec"];
        let template = if self.kind == "CronJob" { &spec["jobTemplate"]["spec"]["template"] } else { &spec["template"] };
        template["metadata"]["annotations"].get(name).and_then(Value::as_str)
    }

    /// Its own, which no pod inherits.
    pub(super) fn own_annotation(&self, name: &str) -> Option<&str> {
        self.object.found()?.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// As far up as the ledger looks; a namesake of what owned the pod says nothing.
async fn owners(client: &Client, namespace: &str, pod: &Pod) -> kube::Result<Vec<Owner>> {
    let mut chain = Vec::new();
    let mut reference = Owner::managing(pod.metadata.owner_references.as_deref()).cloned();
    while let Some(OwnerReference { api_version, kind, name, uid, .. }) = reference.take() {
        let known = WORKLOADS.iter().find(|(known, group, version, _)| kind == *known && api_version == format!("{group}/{version}"));
        let object = match known {
            Some((kind, group, version, plural)) => Seen::of(workload(client, namespace, (kind, group, version, plural)).get(&name).await)?,
            None => Seen::Absent,
        };
        let object = match object {
            Seen::Found(object) if object.metadata.uid.as_deref() != Some(&uid) => Seen::Absent,
            seen => seen,
        };
        if chain.is_empty() && MIDDLE.contains(&kind.as_str()) {
            reference = object.found().and_then(|object| Owner::managing(object.metadata.owner_references.as_deref())).cloned();
        }
        chain.push(Owner { kind, name, uid, object });
    }
    Ok(chain)
}

fn workload(client: &Client, namespace: &str, (kind, group, version, plural): (&str, &str, &str, &str)) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

async fn listed<K: Resource<DynamicType = ()>>(client: &Client, namespaces: &[&str]) -> kube::Result<Vec<Seen<Vec<DynamicObject>>>> {
    let resource = ApiResource::erase::<K>(&());
    let mut all = Vec::new();
    for namespace in namespaces {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        all.push(Seen::of(api.list(&ListParams::default()).await.map(|list| list.items))?);
    }
    Ok(all)
}
