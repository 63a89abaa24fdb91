//! What a review costs at the webhook over what reading it costs anybody: CPU, and an API server's wait.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{micros, shown, tell};
use crate::RunArgs;
use crate::cluster::Cluster;
use crate::load::{Call, Client, Crowd, Took, Way, count, median, percentile};
use crate::population::RELEASE;
use crate::process::{Process, free_address, is_ready, until};
use crate::reviews::{self, NAMESPACE};
use crate::stage::folder;
use crate::table::{Bound, Row, Table};
use crate::tls;

const INJECT: &str = "/inject?timeout=10s";
const VALIDATE: &str = "/validate/pods?timeout=10s";
/// Connections where there are many: of three API servers in a burst.
const CLIENTS: usize = 16;
/// Rounds; the median of their ratios counts. Odd, so that there is one.
const ROUNDS: usize = 7;
/// Reviews before anything is measured: connections, allocators, caches.
const WARM_UP: usize = 20;

/// What is reviewed.
struct Case {
    name: String,
    path: &'static str,
    review: Bytes,
    /// Reviews of one round: at one connection, and of each where there are many.
    each: (usize, usize),
    /// The most CPU that it may cost, as a multiple of the baseline's.
    most: f64,
    /// The most milliseconds that 99 of 100 reviews may take where there are many.
    p99_ms: f64,
}

/// Both webhooks, and the API server that one of them works with.
struct Stage {
    baseline: Side,
    governed: Side,
    tls: Arc<ClientConfig>,
    _cluster: Cluster,
    _folder: TempDir,
}

struct Side {
    process: Process,
    at: SocketAddr,
}

/// A side's open connections.
struct Connections {
    one: Crowd,
    many: Crowd,
}

/// Picks a part of a whole.
type Pick<W, P> = fn(&W) -> &P;

/// What one side made of a round.
struct Figures {
    cpu: Duration,
    one: Took,
    many: Took,
}

pub(super) async fn measure(args: &RunArgs, table: &mut Table) -> Result<()> {
    let stage = Stage::set(&args.kybernis, args.data.as_deref()).await?;
    for case in stage.cases().await? {
        tell(format_args!("admission of a {}", case.name));
        stage.compare(&case, table).await?;
    }
    stage.governed.process.stop().await
}

impl Stage {
    async fn set(kybernis: &Path, data: Option<&Path>) -> Result<Self> {
        let folder = folder(data)?;
        let dir = folder.path();
        tls::create(dir)?;
        let (baseline, at) = Process::role(&["admit", "--dir", &dir.to_string_lossy()]).await?;
        let baseline = Side { process: baseline, at: at[0] };
        let cluster = Cluster::start(dir).await?;
        let labels = json!({"kybernis.io/inject": "enabled"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}});
        cluster.create("namespaces", &namespace).await?;
        let governed = webhook(kybernis, dir, &cluster).await?;
        let tls = tls::client(&dir.join(tls::CA), &[b"http/1.1"])?;
        Ok(Self { baseline, governed, tls, _cluster: cluster, _folder: folder })
    }

    fn way(&self) -> Way {
        Way::Tls(Arc::clone(&self.tls))
    }

    /// What the webhook makes of a review, which it must allow.
    async fn admitted(&self, path: &str, pod: &Value) -> Result<Value> {
        let mut client = Client::open(&self.way(), self.governed.at).await?;
        let answer = client.ask(Call::post(path, reviews::review(pod).to_string())).await?;
        reviews::admitted(pod.clone(), &answer)
    }

    /// Each is seen to do what it is there for.
    async fn cases(&self) -> Result<Vec<Case>> {
        let (small, deployment, huge) = (reviews::small(), reviews::deployment(), reviews::huge());
        let mut injected = Value::Null;
        for pod in [&small, &huge, &deployment] {
            injected = self.admitted(INJECT, pod).await?;
            anyhow::ensure!(injected != *pod, "a pod that is opted in comes out as it went in");
        }
        let validated = self.admitted(VALIDATE, &injected).await?;
        anyhow::ensure!(validated == injected, "validation changes the pod");
        let case = |what: &str, path, pod: &Value, each, most, p99_ms| {
            let (review, size) = (reviews::review(pod).to_string(), pod.to_string().len());
            let size =
                if size < 1 << 20 { format!("{:.1} KiB", count(size) / 1024.0) } else { format!("{:.1} MiB", count(size >> 10) / 1024.0) };
            Case { name: format!("{what}, {size}"), path, review: review.into(), each, most, p99_ms }
        };
        Ok(vec![
            case("small pod", INJECT, &small, (400, 100), 8.0, 10.0),
            case("Deployment's pod", INJECT, &deployment, (400, 100), 4.0, 10.0),
            case("huge pod", INJECT, &huge, (12, 3), 4.0, 1000.0),
            case("Deployment's pod, injected: validation", VALIDATE, &injected, (400, 100), 3.0, 10.0),
        ])
    }

    async fn open(&self, case: &Case, side: &Side) -> Result<Connections> {
        let way = self.way();
        let mut connections = Connections { one: Crowd::open(&way, side.at, 1).await?, many: Crowd::open(&way, side.at, CLIENTS).await? };
        connections.one.run(WARM_UP.min(case.each.0), case.calls()).await?;
        connections.many.run(WARM_UP.min(case.each.1), case.calls()).await?;
        Ok(connections)
    }

    async fn compare(&self, case: &Case, table: &mut Table) -> Result<()> {
        let (mut plain, mut ruled) = (self.open(case, &self.baseline).await?, self.open(case, &self.governed).await?);
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            // In turns, so that a machine that slows down or speeds up favours neither.
            let (baseline, governed) = if round % 2 == 0 {
                let baseline = figures(case, &self.baseline, &mut plain).await?;
                (baseline, figures(case, &self.governed, &mut ruled).await?)
            } else {
                let governed = figures(case, &self.governed, &mut ruled).await?;
                (figures(case, &self.baseline, &mut plain).await?, governed)
            };
            let (a, b) = (micros(baseline.cpu), micros(governed.cpu));
            tell(format_args!("  round {}: baseline {a:.1} µs, governed {b:.1} µs, ratio {:.2}", round + 1, b / a));
            rounds.push((baseline, governed));
        }
        report(case, &rounds, table)
    }
}

async fn webhook(kybernis: &Path, dir: &Path, cluster: &Cluster) -> Result<Side> {
    let (at, admin) = (free_address()?, free_address()?);
    let config = json!({
        "version": "0.1.0", "releaseNamespace": RELEASE,
        "images": {"sidecar": "ghcr.io/kybernis/sidecar:0.1.0", "capture": "ghcr.io/kybernis/capture:0.1.0"},
        "ledger": {"address": format!("https://kybernis-ledger.{RELEASE}.svc:7443"), "serverName": format!("kybernis-ledger.{RELEASE}.svc")},
    });
    let file = dir.join("webhook.yaml");
    // JSON is YAML.
    fs::write(&file, config.to_string())?;
    let [certificate, key] = tls::files(dir);
    let mut command = cluster.role(kybernis, "webhook");
    command.arg("--config").arg(file).arg("--tls-certificate").arg(certificate).arg("--tls-key").arg(key);
    let process = Process::start(command.args(["--listen", &at.to_string(), "--admin-listen", &admin.to_string()]))?;
    until("the webhook is ready", || is_ready(admin)).await?;
    Ok(Side { process, at })
}

impl Case {
    fn calls(&self) -> impl Fn() -> Call + Clone + Send + 'static {
        let (path, review) = (self.path, self.review.clone());
        move || Call::post(path, review.clone())
    }
}

async fn figures(case: &Case, side: &Side, connections: &mut Connections) -> Result<Figures> {
    let before = side.process.cpu()?;
    let one = connections.one.run(case.each.0, case.calls()).await?;
    let many = connections.many.run(case.each.1, case.calls()).await?;
    let reviews = u32::try_from(one.calls + many.calls)?;
    Ok(Figures { cpu: (side.process.cpu()? - before) / reviews, one, many })
}

fn report(case: &Case, rounds: &[(Figures, Figures)], table: &mut Table) -> Result<()> {
    let middle = |of: &dyn Fn(&(Figures, Figures)) -> f64| median(rounds.iter().map(of).collect()).context("no rounds");
    let cpu = |micros: f64| format!("{}, {:.0}/s a core", shown(Duration::from_secs_f64(micros / 1e6)), 1e6 / micros);
    table.add(Row {
        measure: format!("{}: CPU per review", case.name),
        governed: cpu(middle(&|(_, governed)| micros(governed.cpu))?),
        baseline: cpu(middle(&|(baseline, _)| micros(baseline.cpu))?),
        value: middle(&|(baseline, governed)| governed.cpu.as_secs_f64() / baseline.cpu.as_secs_f64())?,
        unit: "×",
        bound: Some(Bound::gate_at_most(case.most)),
    });
    let latency = |side: Pick<(Figures, Figures), Figures>, of: Pick<Figures, Took>| {
        // Of all rounds together: one has too few for a p99.
        let each: Vec<Duration> = rounds.iter().flat_map(|round| of(side(round)).each.iter().copied()).collect();
        let [p50, p99] = [50, 99].map(|percent| percentile(each.clone(), percent).unwrap_or_default());
        (p50, p99, format!("p50 {}, p99 {}", shown(p50), shown(p99)))
    };
    let sides = |of| (latency(|(baseline, _)| baseline, of), latency(|(_, governed)| governed, of));
    let (baseline, governed) = sides(|side| &side.one);
    table.add(Row {
        measure: format!("{}: p50 at one connection", case.name),
        governed: governed.2,
        baseline: baseline.2,
        value: governed.0.as_secs_f64() / baseline.0.as_secs_f64(),
        unit: "×",
        bound: None,
    });
    let (baseline, governed) = sides(|side| &side.many);
    table.add(Row {
        measure: format!("{}: p99 at {CLIENTS} connections", case.name),
        governed: governed.2,
        baseline: baseline.2,
        value: micros(governed.1) / 1e3,
        unit: " ms",
        bound: Some(Bound::target_at_most(case.p99_ms)),
    });
    Ok(())
}
