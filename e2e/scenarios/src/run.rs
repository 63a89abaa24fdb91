//! Carries one cell out: the broker is told what goes wrong, the client runs on its own or under `kybernis run`, and both books
//! are read.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kybernis_broker::{Authority, Broker, Settings};
use serde::Deserialize;

use crate::case::{CLIENT_TIMEOUT_S, CLIENT_TRIES, Case, ORDERS, QUOTE, Speaks};
use crate::client::Client;
use crate::declared::State;
use crate::kit::{Errand, Kit};
use crate::manifests::Manifests;
use crate::process::Process;

/// For one cell, a slow machine's start-up included.
const PATIENCE: Duration = Duration::from_secs(90);
/// For the ledger to say what it must, after the client has ended: the probe needs a moment.
const SETTLING: Duration = Duration::from_secs(15);
/// Between two looks at the ledger.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What every JDK's own trust store has.
const TRUST_STORE_PASSWORD: &str = "changeit";

/// How a governed client's connections are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capture {
    /// By the kernel.
    Redirect,
    /// By variables, where the client honours them.
    Cooperative,
}

impl Capture {
    /// As `kybernis run --capture` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "Redirect",
            Self::Cooperative => "Cooperative",
        }
    }
}

/// What a client printed.
#[derive(Clone, Debug, Deserialize)]
pub struct Printed {
    /// Where it tells.
    pub attempts: Option<u32>,
    /// The last answer's.
    pub status: Option<u16>,
    /// Instead of an answer.
    pub error: Option<String>,
}

/// An effect as `kybernis effects -o json` shows it; only what the matrix looks at.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// `METHOD host:port/path`.
    #[serde(default)]
    pub action: String,
    state: String,
    #[serde(default)]
    settled_by: Option<String>,
}

impl Recorded {
    /// What the ledger says, if it is one of the things that it may say in the end.
    pub fn state(&self) -> Option<State> {
        match (self.state.as_str(), self.settled_by.as_deref()) {
            ("COMPLETED", Some("proof")) => Some(State::Completed),
            ("COMPLETED", Some("probe")) => Some(State::CompletedByProbe),
            ("REJECTED", _) => Some(State::Rejected),
            ("IN_DOUBT", _) => Some(State::InDoubt),
            _ => None,
        }
    }
}

/// What a cell came to.
#[derive(Clone, Debug)]
pub struct Observed {
    /// How often the far side executed the order.
    pub executions: usize,
    /// How often the fault struck.
    pub fired: usize,
    /// What the client printed.
    pub printed: Printed,
    /// The ledger's effects; none for a client on its own.
    pub effects: Vec<Recorded>,
}

/// What all cells share.
#[derive(Debug)]
pub struct Stage {
    kit: Kit,
    kybernis: Option<PathBuf>,
    folder: PathBuf,
    authority: Arc<Authority>,
}

impl Stage {
    /// Everything is kept below `folder`. Without `kybernis`, clients run on their own only.
    ///
    /// # Errors
    /// When the brokers' authority cannot be made or written.
    pub fn set(kit: Kit, kybernis: Option<PathBuf>, folder: &Path) -> Result<Self> {
        let authority = Arc::new(Authority::create()?);
        let stage = Self { kit, kybernis, folder: folder.into(), authority };
        // Any broker writes the certificate; Java wants it in a form of its own.
        stage.broker(true)?.stop();
        let import = ["-importcert", "-noprompt", "-alias", "broker", "-storetype", "PKCS12", "-storepass", TRUST_STORE_PASSWORD];
        let mut keytool = Command::new("keytool");
        keytool.args(import).arg("-file").arg(stage.ca()).arg("-keystore").arg(stage.trust_store());
        let made = keytool.output().context("cannot start keytool")?;
        if !made.status.success() {
            bail!("keytool: {}", String::from_utf8_lossy(&made.stdout));
        }
        Ok(stage)
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("broker-ca.pem")
    }

    fn trust_store(&self) -> PathBuf {
        self.folder.join("broker-ca.p12")
    }

    fn broker(&self, http2: bool) -> Result<Broker> {
        let settings = Settings { http2, authority: Some(Arc::clone(&self.authority)), ..Settings::new(self.ca()) };
        Broker::start(settings).context("no broker")
    }
}

/// Two brokers, which one worker at a time may use.
#[derive(Debug)]
pub struct Place<'s> {
    stage: &'s Stage,
    http1: Broker,
    http2: Broker,
}

impl<'s> Place<'s> {
    /// Opens the brokers' ports.
    ///
    /// # Errors
    /// When there are none to be had.
    pub fn take(stage: &'s Stage) -> Result<Self> {
        Ok(Self { stage, http1: stage.broker(false)?, http2: stage.broker(true)? })
    }

    const fn broker(&self, case: &Case) -> &Broker {
        match case.speaks {
            Speaks::Http1 => &self.http1,
            Speaks::Http2 => &self.http2,
        }
    }

    /// The client on its own.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn bare(&self, case: &Case, client: Client, order: &str) -> Result<Observed> {
        let broker = self.prepare(case, Manifests::None, order)?;
        let words = self.words(case, client, order, broker);
        let ca = self.stage.ca();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stderr(std::process::Stdio::null());
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            command.env(name, &ca);
        }
        let store = self.stage.trust_store();
        let java = format!(
            "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}",
            store.display()
        );
        without_proxies(command.env("JAVA_TOOL_OPTIONS", java));
        let mut process = Process::start(&mut command, PATIENCE)?;
        let printed = process.json()?;
        process.finish()?;
        Ok(observed(broker, order, printed, Vec::new()))
    }

    /// The client under `kybernis run`, until the ledger says `until`, or long enough after the client's end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn governed(
        &self,
        case: &Case,
        client: Client,
        manifests: Manifests,
        capture: Capture,
        order: &str,
        until: Option<State>,
    ) -> Result<Observed> {
        let kybernis = self.stage.kybernis.as_deref().context("without `kybernis` no client is governed")?;
        let broker = self.prepare(case, manifests, order)?;
        let folder = self.stage.folder.join(order);
        fs::create_dir_all(&folder)?;
        let data = folder.join("data");
        let mut command = Command::new(kybernis);
        command.args(["run", "--capture", capture.name(), "--agent", "matrix", "--data"]).arg(&data);
        command.arg("--root").arg(self.stage.ca());
        if let Some(policies) = manifests.write(&folder.join("policies"), broker.https_port())? {
            command.arg("--policies").arg(policies);
        }
        // The client, and then a pause: the run's sidecar stays for the probe, and its ledger for being read.
        command.args(["--", "sh", "-c", "\"$@\"; cat >/dev/null", "sh"]).args(self.words(case, client, order, broker));
        without_proxies(command.stderr(File::create(folder.join("stderr"))?));
        let mut process = Process::start(&mut command, PATIENCE)?;
        let printed = process.json().with_context(|| tail(&folder.join("stderr")))?;
        let effects = effects(kybernis, &data, until)?;
        process.finish()?;
        Ok(observed(broker, order, printed, effects))
    }

    fn prepare(&self, case: &Case, manifests: Manifests, order: &str) -> Result<&Broker> {
        let broker = self.broker(case);
        broker.reset();
        broker.honour_keys(manifests.broker_honours_keys());
        broker.script([case.fault(order)])?;
        Ok(broker)
    }

    fn words(&self, case: &Case, client: Client, order: &str, broker: &Broker) -> Vec<OsString> {
        words(&self.stage.kit, case, client, order, &format!("https://localhost:{}", broker.https_port()))
    }
}

/// The command line by which a client places an order with the broker at `origin`.
pub fn words(kit: &Kit, case: &Case, client: Client, order: &str, origin: &str) -> Vec<OsString> {
    let body = serde_json::json!({"client_order_id": order, "symbol": "AAPL", "side": "buy", "qty": 5, "price": 190.5});
    let (url, body) = (format!("{origin}{ORDERS}"), body.to_string());
    let first = case.reads_first.then(|| format!("{origin}{QUOTE}"));
    kit.words(client, Errand { url: &url, body: &body, tries: CLIENT_TRIES, timeout_s: CLIENT_TIMEOUT_S, first: first.as_deref() })
}

/// What the machine's own user has set must not lead clients elsewhere.
fn without_proxies(command: &mut Command) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
}

/// Reads the broker's books.
pub fn observed(broker: &Broker, order: &str, printed: Printed, effects: Vec<Recorded>) -> Observed {
    let now = broker.snapshot();
    let executions = now.executed.iter().filter(|executed| executed.subject == order).count();
    Observed { executions, fired: now.fired.len(), printed, effects }
}

/// Asks until the one effect is as wanted, or long enough.
fn effects(kybernis: &Path, data: &Path, until: Option<State>) -> Result<Vec<Recorded>> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let mut command = Command::new(kybernis);
        without_proxies(command.args(["effects", "-o", "json", "--data"]).arg(data));
        let output = command.output().context("cannot start kybernis")?;
        let effects: Vec<Recorded> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("kybernis effects: {}", String::from_utf8_lossy(&output.stderr)))?;
        let is_there = match (until, effects.as_slice()) {
            (None, []) => true,
            (Some(wanted), [one]) => one.state() == Some(wanted),
            _ => false,
        };
        if is_there || Instant::now() >= deadline {
            return Ok(effects);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
