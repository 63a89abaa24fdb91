//! The stage of every scenario, set once for a cluster and found again by the next.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kybernis_cluster::{Cluster, Programs, agents_image, own_image, step};
use serde_json::Value;

/// How long one thing in a running cluster may take while the machine is busy.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The node is the world outside: what listens there is no pod's neighbour.
const OUTSIDE: &str = "198.19.0.1";
/// The broker's ports.
const BROKER_HTTP: u16 = 18080;
const BROKER_ADMIN: u16 = 18081;

/// A cluster with Kybernis in it and a broker beside it.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
}

/// A pod of the agents' image.
#[derive(Debug)]
pub struct Agent<'w> {
    world: &'w World,
    namespace: &'w str,
    pod: String,
}

impl World {
    /// Finds or sets the stage.
    ///
    /// # Errors
    /// When a part of it does not come about.
    pub fn set() -> Result<Self> {
        let cluster = Cluster::usual()?;
        let programs = programs()?;
        let kybernis = own_image(&programs.join("kybernis"))?;
        for image in [&kybernis, &own_image(&programs.join("kybernis-broker"))?] {
            step(&format!("load {}", image.display()), || cluster.load(image))?;
        }
        let agents = agents_image(&Programs::build()?)?;
        step("load the agents' image", || cluster.load(&agents))?;
        cluster.set_outside_names(&format!("{OUTSIDE} broker.example.com\n"))?;
        let world = Self { cluster };
        step("install Kybernis", || world.install(&kybernis))?;
        step("the broker outside", || world.apply("broker.yaml").and_then(|()| world.wait("internet", "pod/broker", "condition=Ready")))?;
        Ok(world)
    }

    /// The chart, as people install it; an older one is upgraded. The image's name stays, so its pods are told which build it is.
    fn install(&self, image: &Path) -> Result<()> {
        let build = image.file_stem().unwrap_or_default().to_string_lossy();
        let chart = root().join("charts/kybernis");
        let mut helm = self.cluster.helm(4);
        helm.args(["upgrade", "kybernis"]).arg(chart).args(["--install", "--namespace=kybernis-system", "--create-namespace"]);
        helm.args(["--wait", "--timeout=180s", "--values"]).arg(objects().join("values.yaml"));
        for component in ["ledger", "operator", "webhook"] {
            helm.arg("--set-string").arg(format!("{component}.podAnnotations.build={build}"));
        }
        said(&mut helm).map(drop)
    }

    /// `kubectl`, as the administrator.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(arguments);
        kubectl
    }

    /// Applies a file of `tests/objects`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, file: &str) -> Result<()> {
        said(self.kubectl(["apply", "-f"]).arg(objects().join(file))).map(drop)
    }

    /// Waits for what `kubectl wait --for` can wait for.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait(&self, namespace: &str, what: &str, until: &str) -> Result<()> {
        let until = format!("--for={until}");
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        said(&mut self.kubectl(["wait", "--namespace", namespace, what, &until, &timeout])).map(drop)
    }

    /// The pod of a Deployment, once it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent<'w>(&'w self, namespace: &'w str, deployment: &str) -> Result<Agent<'w>> {
        let of = format!("deployment/{deployment}");
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        said(&mut self.kubectl(["rollout", "status", "--namespace", namespace, &of, &timeout]))?;
        let selector = format!("--selector=app={deployment}");
        let jsonpath = "--output=jsonpath={.items[?(@.status.phase=='Running')].metadata.name}";
        let pod = said(&mut self.kubectl(["get", "pods", "--namespace", namespace, &selector, jsonpath]))?;
        Ok(Agent { world: self, namespace, pod })
    }

    /// Asks the broker's admin port.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn broker(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let url = format!("http://{OUTSIDE}:{BROKER_ADMIN}{path}");
        let mut curl = self.cluster.command(Path::new("curl"));
        curl.args(["--silent", "--show-error", "--fail", "--request", method, "--header", "content-type: application/json"]);
        curl.args(["--data", body, &url]);
        let answer = said(&mut curl)?;
        if answer.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&answer).context(answer) }
    }

    /// How many orders with this id the broker has executed.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn executed(&self, order: &str) -> Result<usize> {
        let executed = self.broker("GET", "/executed", "")?;
        let orders = executed.as_array().context("the broker's journal is no list")?;
        Ok(orders.iter().filter(|found| found.to_string().contains(&format!("\"{order}\""))).count())
    }

    /// Where the broker takes orders.
    pub fn orders(&self) -> String {
        format!("http://broker.example.com:{BROKER_HTTP}/v1/orders")
    }
}

impl Agent<'_> {
    /// Runs a command in its container.
    ///
    /// # Errors
    /// When it cannot be started; its own failure is in the output.
    pub fn run<const N: usize>(&self, command: [&str; N]) -> Result<Output> {
        let mut kubectl = self.world.kubectl(["exec", "--namespace", self.namespace, &self.pod, "--container=app", "--"]);
        kubectl.args(command).output().context("cannot start kubectl")
    }

    /// Its pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }
}

/// What a command printed.
///
/// # Errors
/// When it fails, with what it said.
pub fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{out}\n{err}", output.status);
    }
    Ok(out.into_owned())
}

/// Looks until it is so.
///
/// # Errors
/// When it takes too long, with the last look.
pub fn soon<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let looked = look();
        if let Ok(Some(found)) = looked {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            looked.with_context(|| format!("waited in vain until {what}"))?;
            bail!("waited in vain until {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Where the programs lie that were built beside this one.
fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("the test lies in no target folder")?;
    Ok(folder.into())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects")
}
