//! What every act in the cluster needs: `kubectl` as a person types it, the broker, the agent's pods.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use kybernis_broker::Fault;
use kybernis_cluster::{Cluster, OwnImage, Programs, agents_image, step};
use serde_json::Value;

use crate::books::Books;

/// How long any one thing may take before the demo says what it waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The broker's admin port, through the API server: so it is reached in every cluster.
const BROKER: &str = "/api/v1/namespaces/internet/services/broker:admin/proxy";

/// Everything that stands on the stage.
pub(crate) struct Stage {
    pub(crate) books: Books,
    cluster: Cluster,
    root: PathBuf,
    /// Where kubectl finds its plug-in.
    plug_in: PathBuf,
    /// What this telling's orders begin with: a ledger forgets nothing, and the cluster may have heard the story before.
    telling: String,
}

impl Stage {
    pub(crate) fn set(programs: &Path) -> Result<Self> {
        let cluster = Cluster::usual()?;
        let ours = std::env::var_os(kybernis_cluster::EXISTING).is_none_or(|value| value.is_empty());
        if ours {
            for own in OwnImage::KYBERNIS.into_iter().chain([OwnImage::Broker]) {
                let image = own.archive(programs)?;
                step(&format!("load {}", own.name()), || cluster.load(&image))?;
            }
            let agents = agents_image(&Programs::build()?)?;
            step("load the agents' image", || cluster.load(&agents))?;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let plug_in = plug_in(programs)?;
        let telling = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs().to_string();
        let stage = Self { books: Books::default(), cluster, root, plug_in, telling };
        step("a broker that does what it is told to do wrong", || stage.broker_stands())?;
        step("an agent in namespace trading", || stage.agents_stand())?;
        Ok(stage)
    }

    fn broker_stands(&self) -> Result<()> {
        self.quietly(&["apply", "-f", "e2e/demo/cluster/far-side.yaml"])?;
        self.quietly(&["wait", "-n", "internet", "pod/broker", "--for=condition=Ready", "--timeout=120s"])?;
        // Ready is not yet reachable: the Service follows a moment later.
        self.soon("the broker answers", || self.asked("/executed").map(|_| Some(())))
    }

    fn agents_stand(&self) -> Result<()> {
        self.applied("apiVersion: v1\nkind: Namespace\nmetadata: {name: trading}\n")?;
        let ca = self.broker_ca()?;
        let files = tempfile(&ca)?;
        let from = |key: &str, path: &Path| format!("--from-file={key}={}", path.display());
        let agent = from("trader.py", &self.root.join("examples/agents/trader.py"));
        let create = ["create", "configmap", "agent", "-n", "trading", &agent, &from("broker-ca.pem", files.path())];
        let map = self.quietly(&[&create[..], &["--dry-run=client", "-o", "yaml"]].concat())?;
        self.applied(&map)?;
        let address = self.quietly(&["get", "service", "broker", "-n", "internet", "-o", "jsonpath={.spec.clusterIP}"])?;
        let agents = std::fs::read_to_string(self.root.join("e2e/demo/cluster/agents.yaml"))?;
        self.applied(&agents.replace("BROKER", address.trim()))?;
        for agent in ["deployment/trader", "deployment/bare"] {
            self.quietly(&["rollout", "status", "-n", "trading", agent, "--timeout=120s"])?;
        }
        Ok(())
    }

    /// PEM of the root that vouches for the broker.
    pub(crate) fn broker_ca(&self) -> Result<String> {
        self.quietly(&["get", "--raw", &format!("{BROKER}/ca.pem")])
    }

    /// An order that nobody has placed before.
    pub(crate) fn order(&self, name: &str) -> String {
        format!("{name}-{}", self.telling)
    }

    /// `helm`, with what a person types.
    pub(crate) fn helm(&self, words: &[&str], more: &[&str]) -> Result<()> {
        println!("   $ helm {}", words.join(" "));
        let mut helm = self.cluster.helm(4);
        helm.args(words).args(more).current_dir(&self.root);
        said(&mut helm).map(drop)
    }

    fn kubectl(&self, words: &[&str]) -> Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(words).current_dir(&self.root);
        kubectl.env("PATH", format!("{}:{}", self.plug_in.display(), std::env::var("PATH").unwrap_or_default()));
        kubectl
    }

    /// `kubectl` behind the curtain.
    pub(crate) fn quietly(&self, words: &[&str]) -> Result<String> {
        said(&mut self.kubectl(words))
    }

    /// `kubectl` as a person types it, with what it prints.
    pub(crate) fn types(&self, words: &[&str]) -> Result<String> {
        println!("   $ kubectl {}", typed(words));
        let printed = self.quietly(words)?;
        printed.lines().for_each(|line| println!("   {line}"));
        Ok(printed)
    }

    /// Applies a manifest that is in no file.
    fn applied(&self, manifest: &str) -> Result<()> {
        let mut kubectl = self.kubectl(&["apply", "-f", "-"]);
        fed(&mut kubectl, manifest).map(drop)
    }

    /// The agent in a Deployment's pod, to its end, with what it prints.
    pub(crate) fn agent(&self, deployment: &str, order: &str, more: &[&str]) -> Result<()> {
        self.begin(deployment, order, more)?.wait().map(drop).context("cannot wait for kubectl")
    }

    /// The same, while the play goes on.
    pub(crate) fn begin(&self, deployment: &str, order: &str, more: &[&str]) -> Result<Child> {
        let place = format!("deployment/{deployment}");
        let url = "https://broker.example.com/v1/orders";
        let agent = ["python3", "/agent/trader.py", "--url", url, "--order", order];
        let words = [&["exec", "-n", "trading", &place, "-c", "app", "--"][..], &agent, more].concat();
        println!("   $ kubectl {}", typed(&words));
        // What it prints begins with two spaces, as all that is printed here; how it ends, kubectl would repeat.
        self.kubectl(&words).stderr(Stdio::null()).spawn().context("cannot start kubectl")
    }

    /// Any command in the governed agent's pod.
    pub(crate) fn in_trader(&self, command: &[&str]) -> Result<()> {
        let words = [&["exec", "-n", "trading", "deployment/trader", "-c", "app", "--"][..], command].concat();
        println!("   $ kubectl {}", typed(&words));
        let output = self.kubectl(&words).output().context("cannot start kubectl")?;
        String::from_utf8_lossy(&output.stdout).lines().for_each(|line| println!("   {line}"));
        Ok(())
    }

    /// What goes wrong next.
    pub(crate) fn script(&self, faults: &[Fault]) -> Result<()> {
        self.quietly(&["delete", "--raw", &format!("{BROKER}/faults")])?;
        let mut kubectl = self.kubectl(&["create", "--raw", &format!("{BROKER}/faults"), "-f", "-"]);
        fed(&mut kubectl, &serde_json::to_string(faults)?).map(drop)
    }

    fn asked(&self, path: &str) -> Result<Value> {
        let answer = self.quietly(&["get", "--raw", &format!("{BROKER}{path}")])?;
        serde_json::from_str(&answer).with_context(|| format!("the broker says {answer:?}"))
    }

    /// How often the broker has executed what is named so.
    pub(crate) fn executed(&self, subject: &str) -> Result<usize> {
        let executed = self.asked("/executed")?;
        let executed = executed.as_array().context("the broker's journal is no list")?;
        Ok(executed.iter().filter(|one| one["subject"] == subject).count())
    }

    /// Closes an act.
    pub(crate) fn count(&mut self, act: &'static str, subject: &str, intended: usize, governed: bool) -> Result<()> {
        let executed = self.executed(subject)?;
        self.books.count(act, executed, intended, governed);
        Ok(())
    }

    /// Looks until it is so.
    pub(crate) fn soon<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            match look() {
                Ok(Some(found)) => return Ok(found),
                Err(error) if start.elapsed() > PATIENCE => return Err(error.context(format!("waited in vain until {what}"))),
                Ok(None) if start.elapsed() > PATIENCE => bail!("waited in vain until {what}"),
                Ok(None) | Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// The name of the gate that waits, of this type.
    pub(crate) fn gate(&self, kind: &str) -> Result<String> {
        let path = format!("jsonpath={{range .items[?(@.spec.type==\"{kind}\")]}}{{.metadata.name}} {{.status.phase}}{{\"\\n\"}}{{end}}");
        self.soon("a gate waits", || {
            let gates = self.quietly(&["get", "gates", "-n", "trading", "-o", &path])?;
            Ok(gates.lines().find_map(|line| line.strip_suffix(" Pending")).map(str::to_owned))
        })
    }

    /// The whole table, and what to type next.
    pub(crate) fn close(&self, took: Duration) {
        self.books.print();
        println!("\nTold in {:.0} s. All of it still stands; go on with:\n", took.as_secs_f64());
        println!("   export PATH={}:$PATH        # for kubectl's plug-in", self.plug_in.display());
        for words in
            ["get kybernis -A", "get gates -n trading", "kyb runs -n trading", "kyb show RUN -n trading", "kyb explain-pod POD -n trading"]
        {
            println!("   cargo xtask cluster kubectl {words}");
        }
        println!("   cargo xtask cluster down");
    }
}

/// A folder in which kubectl finds its plug-in: `kybernis` under another name.
fn plug_in(programs: &Path) -> Result<PathBuf> {
    let folder = kybernis_cluster::cache().join("demo/bin");
    std::fs::create_dir_all(&folder)?;
    let place = folder.join("kubectl-kyb");
    match std::fs::remove_file(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("the plug-in of before is in the way"),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(programs.join("kybernis"), &place)?;
    Ok(folder)
}

/// Words as a shell would read them.
fn typed(words: &[&str]) -> String {
    let quoted = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !word.is_empty() && word.chars().all(plain) { (*word).to_owned() } else { format!("'{word}'") }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{out}{err}", output.status);
    }
    Ok(out.into_owned())
}

/// The same, with something on its standard input.
fn fed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn tempfile(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
