//! How fast the operator follows what people write, and how much memory it takes, while kubelets write too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{mib, shown, tell};
use crate::RunArgs;
use crate::cluster::{Cluster, resource};
use crate::load::percentile;
use crate::population::{NAMESPACES, PODS_EACH, POLICIES_EACH, RELEASE, namespace, namespace_object, pod, pod_name, policy, policy_name};
use crate::process::{Process, free_address};
use crate::stage::folder;
use crate::table::{Bound, Row, Table};
use crate::tls;

const POLICIES: usize = NAMESPACES * POLICIES_EACH;
const PODS: usize = NAMESPACES * PODS_EACH;
/// Whoever fills the cluster writes as many things at a time as the operator does.
const WRITES: usize = 8;
/// In this time every pod is written once.
const KUBELETS: Duration = Duration::from_secs(60);
/// Changes before those that count.
const WARM_UP: usize = 10;
/// Changes that count.
const CHANGES: usize = 200;
/// Changes come at any time after the one before is in force, up to this.
const PAUSE_MS: usize = 500;
/// Longer than anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a watch of ours lasts before it is opened anew, in seconds.
const WATCH_SECONDS: u32 = 240;
/// Who applies.
const MANAGER: &str = "bench";

pub(super) async fn measure(args: &RunArgs, table: &mut Table) -> Result<()> {
    let folder = folder(args.data.as_deref())?;
    let dir = folder.path();
    tls::create(dir)?;
    let cluster = Cluster::start(dir).await?;
    let (_ledger, ledger) = Process::role(&["ledger", "--dir", &dir.to_string_lossy()]).await?;
    tell(format_args!("the operator: {POLICIES} Policies and {PODS} pods are written"));
    let written = fill(&cluster, dir).await?;
    let kubelets = tokio::spawn(kubelets(cluster.client.clone()));
    let mut policies = Followed::from_now(cluster.objects(&policies(), None)).await?;

    let began = Instant::now();
    let operator = operator(&args.kybernis, dir, &cluster, &ledger[0].to_string())?;
    let in_time = tokio::time::timeout(PATIENCE, policies.all()).await;
    in_time.context("not all Policies are programmed in time")??;
    let converged = began.elapsed();
    tell(format_args!("  written in {}, programmed {} after the operator's start", shown(written), shown(converged)));

    let mut changes = Vec::with_capacity(CHANGES);
    for number in 0..WARM_UP + CHANGES {
        let change = tokio::time::timeout(PATIENCE, policies.change(&cluster, number)).await;
        let change = change.context("a change is not programmed in time")??;
        if number >= WARM_UP {
            changes.push(change);
        }
        // Spread evenly, and the same in each run.
        tokio::time::sleep(Duration::from_millis((number * 137 % PAUSE_MS) as u64)).await;
    }
    ensure!(!kubelets.is_finished(), "the kubelets stopped writing: {:?}", kubelets.await);
    kubelets.abort();
    report(&operator, (written, converged), &changes, table)?;
    operator.stop().await
}

/// One change of a Policy.
struct Change {
    /// From before it was applied until it was seen to be programmed.
    programmed: Duration,
    /// The applying alone: one round trip of a write.
    applied: Duration,
}

fn report(operator: &Process, (written, converged): (Duration, Duration), changes: &[Change], table: &mut Table) -> Result<()> {
    table.add(Row {
        measure: format!("{POLICIES} Policies, from the operator's start until all are programmed"),
        governed: shown(converged),
        baseline: format!("{} to write them, {WRITES} at a time", shown(written)),
        value: converged.as_secs_f64() / written.as_secs_f64(),
        unit: "×",
        bound: Some(Bound::gate_at_most(4.0)),
    });
    let of = |which: fn(&Change) -> Duration, percent| percentile(changes.iter().map(which).collect(), percent).context("no changes");
    let write = of(|change| change.applied, 50)?;
    for (percent, most) in [(50, 100.0), (99, 150.0)] {
        let programmed = of(|change| change.programmed, percent)?;
        table.add(Row {
            measure: format!("one Policy changes: p{percent} until it is programmed"),
            governed: shown(programmed),
            baseline: format!("{}, one write", shown(write)),
            value: programmed.as_secs_f64() / write.as_secs_f64(),
            unit: "×",
            bound: Some(Bound::gate_at_most(most)),
        });
    }
    table.add(Row {
        measure: "operator: resident memory, peak".to_owned(),
        governed: format!("{:.1} MiB, {:.1} MiB at the end", mib(operator.peak()?), mib(operator.resident()?)),
        baseline: String::new(),
        value: mib(operator.peak()?),
        unit: " MiB",
        bound: Some(Bound::target_at_most(64.0)),
    });
    Ok(())
}

fn policies() -> ApiResource {
    resource("kybernis.io/v1alpha1", "Policy", "policies")
}

fn pods() -> ApiResource {
    resource("v1", "Pod", "pods")
}

/// Writes everything; how long that took of the Policies.
async fn fill(cluster: &Cluster, dir: &Path) -> Result<Duration> {
    let ca = fs::read_to_string(dir.join(tls::CA))?;
    cluster.create("namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RELEASE}})).await?;
    let trust = json!({"name": "kybernis-trust", "namespace": RELEASE, "labels": {"app.kubernetes.io/managed-by": "kybernis"}});
    cluster.create("configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": trust, "data": {"ca.pem": ca}})).await?;
    let each = |many: usize| (0..NAMESPACES).flat_map(move |team| (0..many).map(move |number| (team, number)));
    write(cluster, "namespaces", (0..NAMESPACES).map(namespace_object)).await?;
    write(cluster, "pods", each(PODS_EACH).map(|(team, number)| pod(team, number))).await?;
    let began = Instant::now();
    write(cluster, "policies", each(POLICIES_EACH).map(|(team, number)| policy(team, number, 0))).await?;
    Ok(began.elapsed())
}

async fn write(cluster: &Cluster, plural: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
    let mut writes = stream::iter(objects).map(|object| async move { cluster.create(plural, &object).await }).buffer_unordered(WRITES);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

/// Pods' status changes now and then, as their nodes see to it.
async fn kubelets(client: kube::Client) -> Result<()> {
    let mut next = tokio::time::interval(KUBELETS / u32::try_from(PODS)?);
    for beat in 0_usize.. {
        next.tick().await;
        let (team, number) = (beat % NAMESPACES, beat / NAMESPACES % PODS_EACH);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace(team), &pods());
        let ready = json!([{"type": "Ready", "status": "True", "lastProbeTime": beat.to_string()}]);
        let status = Patch::Merge(json!({"status": {"conditions": ready}}));
        api.patch_status(&pod_name(number), &PatchParams::default(), &status).await?;
    }
    Ok(())
}

fn operator(kybernis: &Path, dir: &Path, cluster: &Cluster, ledger: &str) -> Result<Process> {
    let token = dir.join("token");
    fs::write(&token, "bench")?;
    let mut command = cluster.role(kybernis, "operator");
    command.args(["--namespace", RELEASE, "--ledger", &format!("https://{ledger}"), "--ledger-name", tls::NAME]);
    command.arg("--ledger-ca").arg(dir.join(tls::CA)).arg("--token-file").arg(token);
    Process::start(command.args(["--admin-listen", &free_address()?.to_string()]))
}

/// The Policies, as a client sees them that watches.
struct Followed {
    api: Api<DynamicObject>,
    version: String,
    events: BoxStream<'static, kube::Result<WatchEvent<DynamicObject>>>,
}

impl Followed {
    async fn from_now(api: Api<DynamicObject>) -> Result<Self> {
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.context("no version")?;
        Ok(Self { api, version, events: stream::empty().boxed() })
    }

    /// The next one that changes.
    async fn next(&mut self) -> Result<DynamicObject> {
        loop {
            match self.events.try_next().await? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.version = object.metadata.resource_version.clone().context("no version")?;
                    return Ok(object);
                }
                Some(WatchEvent::Bookmark(_)) => {}
                Some(WatchEvent::Deleted(_)) => anyhow::bail!("a Policy is gone"),
                Some(WatchEvent::Error(status)) => return Err(kube::Error::Api(status).into()),
                None => {
                    let params = WatchParams::default().timeout(WATCH_SECONDS);
                    self.events = self.api.watch(&params, &self.version).await?.boxed();
                }
            }
        }
    }

    /// Waits until every one has been seen to be programmed.
    async fn all(&mut self) -> Result<()> {
        let mut programmed = BTreeSet::new();
        while programmed.len() < POLICIES {
            let object = self.next().await?;
            if is_programmed(&object) {
                programmed.insert((object.metadata.namespace, object.metadata.name));
            }
        }
        Ok(())
    }

    /// Changes one, and waits until that is programmed.
    async fn change(&mut self, cluster: &Cluster, number: usize) -> Result<Change> {
        // Far from the one before, and each only once.
        let which = number * 367 % POLICIES;
        let (namespace, name) = (namespace(which % NAMESPACES), policy_name(which / NAMESPACES));
        let api = cluster.objects(&policies(), Some(&namespace));
        let wanted = Patch::Apply(policy(which % NAMESPACES, which / NAMESPACES, number + 1));
        let began = Instant::now();
        let changed = api.patch(&name, &PatchParams::apply(MANAGER).force(), &wanted).await?;
        let applied = began.elapsed();
        loop {
            let object = self.next().await?;
            let is_it = object.metadata.uid == changed.metadata.uid && object.metadata.generation == changed.metadata.generation;
            if is_it && is_programmed(&object) {
                return Ok(Change { programmed: began.elapsed(), applied });
            }
        }
    }
}

/// Whether the status says so of the generation that there is.
fn is_programmed(object: &DynamicObject) -> bool {
    let conditions = object.data["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Programmed"
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == object.metadata.generation
    })
}
