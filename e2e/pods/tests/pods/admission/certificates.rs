//! The webhook's certificates rotate while pods are made: whoever asks is answered, by whichever certificate.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybernis_pods::{Release, Space, World, said};
use serde_json::{Value, json};

use super::{Answer, Run, submit};
use crate::scenario::{Told, installed};

/// As short as two replicas and an API server on a busy machine can be: a new authority every minute.
const LIVES: [&str; 3] =
    ["webhook.certificates.authoritySeconds=90", "webhook.certificates.leafSeconds=30", "webhook.certificates.graceSeconds=10"];
/// Authorities that have come into service, and the one before it gone, while pods were made.
const ROTATIONS: usize = 2;
/// They may take this long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Who makes pods, side by side: connections to the webhook are shared by those that follow one another.
const MAKERS: usize = 2;
/// Every so many pods are not only admitted but made.
const REAL_EVERY: usize = 12;
const END: &str = "-----END CERTIFICATE-----";

/// What was seen of the certificates.
#[derive(Default)]
struct Seen {
    /// In `caBundle`, at any time.
    authorities: BTreeSet<String>,
    /// Out of it again.
    gone: BTreeSet<String>,
    /// In handshakes.
    leaves: BTreeSet<String>,
}

pub(crate) fn rotate(world: &World) -> Result<Told> {
    installed(world)?;
    world.install_with(Release::Today, &LIVES)?;
    let rotated = under_load(world);
    // What the scenarios after this one expect.
    world.install(Release::Today)?;
    let (seen, admitted, made) = rotated?;
    let told = format!(
        "{admitted} pods admitted, {made} of them made, none refused; {} authorities came and {} went, {} certificates were served",
        seen.authorities.len(),
        seen.gone.len(),
        seen.leaves.len()
    );
    Ok(Told::new("the webhook's authority and certificate rotate under a load of pods that ask for a sidecar", told))
}

fn under_load(world: &World) -> Result<(Seen, usize, usize)> {
    let space = world.space("certificates")?;
    space.wait("serviceaccount/default", "create")?;
    let (stop, failed) = (AtomicBool::new(false), Mutex::new(None));
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let seen = thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (stop, failed, counts, space) = (&stop, &failed, &counts, &space);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = make(world, space, maker, counts) {
                        stop.store(true, Ordering::Relaxed);
                        if let Ok(mut failed) = failed.lock() {
                            *failed = Some(error);
                        }
                    }
                }
            });
        }
        let seen = watch(world, &stop);
        stop.store(true, Ordering::Relaxed);
        seen
    });
    if let Ok(Some(error)) = failed.into_inner() {
        return Err(error);
    }
    let [admitted, made] = counts.map(AtomicUsize::into_inner);
    // Those that were made last run: what they got is whole.
    for pod in space.field("pods", "{.items[*].metadata.name}")?.split_whitespace() {
        space.wait(&format!("pod/{pod}"), "condition=Ready")?;
    }
    Ok((seen?, admitted, made))
}

/// Asks for one pod; now and then it is made, in the place of the one before.
fn make(world: &World, space: &Space<'_>, maker: usize, [admitted, made]: &[AtomicUsize; 2]) -> Result<()> {
    let number = admitted.fetch_add(1, Ordering::Relaxed);
    let name = format!("agent-{maker}");
    let run = if number % REAL_EVERY == 0 { Run::Real } else { Run::Dry };
    if run == Run::Real {
        said(&mut space.kubectl(["delete", "pod", &name, "--ignore-not-found", "--grace-period=1"]))?;
    }
    // A name that is there already would be refused, and not by us.
    let name = if run == Run::Real { name } else { format!("{name}-{number}") };
    match submit(world, space.name(), &agent(&name), run)? {
        Answer::Taken { pod, .. } => {
            let first = &pod["spec"]["initContainers"][0]["name"];
            ensure!(first == "kybernis-capture", "pod {number} is let in and begins with {first}");
        }
        Answer::Refused(why) => bail!("pod {number} is refused: {why}"),
    }
    if run == Run::Real {
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Looks until enough authorities have come into service.
fn watch(world: &World, stop: &AtomicBool) -> Result<Seen> {
    let start = Instant::now();
    let address = said(&mut world.kubectl_system(["get", "service/kybernis-webhook", "--output=jsonpath={.spec.clusterIP}"]))?;
    let mut seen = Seen::default();
    while seen.gone.len() < ROTATIONS {
        // Whoever stops it says why.
        if stop.load(Ordering::Relaxed) {
            return Ok(seen);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "{} authorities came and {} went in {} s",
            seen.authorities.len(),
            seen.gone.len(),
            PATIENCE.as_secs()
        );
        let now = published(world)?;
        seen.gone.extend(seen.authorities.difference(&now).cloned());
        seen.authorities.extend(now);
        seen.leaves.insert(served(world, &address)?);
        thread::sleep(Duration::from_millis(500));
    }
    ensure!(seen.authorities.len() > ROTATIONS && seen.leaves.len() > ROTATIONS, "fewer certificates than rotations");
    Ok(seen)
}

/// The authorities by which API servers check the webhook.
fn published(world: &World) -> Result<BTreeSet<String>> {
    let path = "--output=jsonpath={.webhooks[0].clientConfig.caBundle}";
    let bundle = STANDARD.decode(said(&mut world.kubectl(["get", "mutatingwebhookconfiguration/kybernis", path]))?)?;
    let bundle = String::from_utf8(bundle)?;
    let authorities: BTreeSet<String> =
        bundle.split_inclusive(END).map(str::trim).filter(|pem| !pem.is_empty()).map(str::to_owned).collect();
    ensure!(!authorities.is_empty(), "caBundle is empty");
    Ok(authorities)
}

/// The certificate of a handshake.
fn served(world: &World, address: &str) -> Result<String> {
    let mut curl = world.cluster().command(Path::new("curl"));
    curl.args(["--silent", "--insecure", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{certs}"]);
    let chain = said(curl.arg(format!("https://{address}/")))?;
    let (first, _) = chain.split_once(END).ok_or_else(|| anyhow!("no certificate in {chain:?}"))?;
    let (_, pem) = first.split_once("-----BEGIN CERTIFICATE-----").context("no beginning")?;
    Ok(pem.to_owned())
}

fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"kybernis.io/inject": "true"}},
        "spec": {
            "containers": [{
                "name": "app",
                "image": kybernis_cluster::AGENTS_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["python3", "-u", "/agents/idle.py"],
                "volumeMounts": [{"name": "agents", "mountPath": "/agents"}],
            }],
            "volumes": [{"name": "agents", "configMap": {"name": "agents"}}],
        },
    })
}
