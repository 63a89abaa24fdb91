//! One ledger, one sidecar, one far side; either of the first two can be stopped, killed and started again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use kybernis_core::ids::{AgentId, GateId, PersonId, RunId, TenantId};
use kybernis_core::machine::{DecideGate, Effect, EffectState, Gate, GateVerdict};
use kybernis_crds::{AgentScope, Source, load_sources, lower};
use kybernis_ledger::auth::{Claims, Role, TokenKey, Workload};
use kybernis_ledger::engine::{self, Engine};
use kybernis_ledger::policy::{InForce, Secrets};
use kybernis_ledger::{Callers, Ledger};
use kybernis_sidecar::control;
use kybernis_sidecar::serve::{Settings, Sidecar};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::caller::{Answer, Call, Connection};
use crate::far_side::FarSide;

/// The namespace, tenant and agent of every test.
pub const NAMESPACE: &str = "default";

/// Far more than anything here takes; a test must fail and not hang.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a state that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What stands.
#[derive(Debug)]
pub struct Rig {
    /// The far side.
    pub far: FarSide,
    /// The proxy's address.
    pub proxy: SocketAddr,
    data: TempDir,
    policy: watch::Sender<InForce>,
    ledger: Option<Ledger>,
    grpc: TcpListener,
    http: TcpListener,
    sidecar: Option<Sidecar>,
    listener: TcpListener,
    roots: Vec<PathBuf>,
}

fn in_force(manifests: &str) -> InForce {
    let sources = [Source { file: "test.yaml".to_owned(), bytes: manifests.as_bytes().to_vec() }];
    let loaded = load_sources(&sources).unwrap_or_else(|errors| panic!("a test's manifests: {errors:?}"));
    let set = lower(&loaded, &AgentScope { namespace: NAMESPACE.to_owned(), labels: BTreeMap::new() });
    let named = set.tools.iter().filter_map(|tool| tool.effect.probe.as_ref()?.secret_ref.clone());
    let secrets: Secrets = named.filter_map(|named| Some((named.clone(), loaded.secret(&named)?.expose().to_vec().into()))).collect();
    InForce::new(&set, secrets).unwrap_or_else(|errors| panic!("a test's manifests: {errors:?}"))
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("a test's name: {error:?}"))
}

impl Rig {
    /// Everything stands and is ready. `FAR` in the manifests is the far side's address.
    pub async fn start(manifests: &str) -> Self {
        Self::start_trusting(manifests, Vec::new()).await
    }

    /// The same beside far sides under CAs of their own.
    pub async fn start_trusting(manifests: &str, roots: Vec<PathBuf>) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let far = FarSide::start().await.unwrap_or_else(|error| panic!("no socket: {error}"));
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no socket: {error}"));
        let (listener, grpc, http) = (bind(), bind(), bind());
        let mut rig = Self {
            proxy: listener.local_addr().unwrap_or_else(|error| panic!("no address: {error}")),
            data: TempDir::new().unwrap_or_else(|error| panic!("no folder: {error}")),
            policy: watch::channel(in_force(&manifests.replace("FAR", &far.address.to_string()))).0,
            far,
            ledger: None,
            grpc,
            http,
            sidecar: None,
            listener,
            roots,
        };
        rig.start_ledger().await;
        rig.start_sidecar(None).await;
        rig
    }

    fn ledger_data(&self) -> PathBuf {
        self.data.path().join("ledger")
    }

    /// Starts the ledger on the folder and sockets that it had.
    pub async fn start_ledger(&mut self) {
        std::fs::create_dir_all(self.ledger_data()).unwrap_or_else(|error| panic!("no folder: {error}"));
        let clone = |listener: &TcpListener| listener.try_clone().unwrap_or_else(|error| panic!("no socket: {error}"));
        let settings = kybernis_ledger::Settings {
            data: self.ledger_data(),
            grpc: clone(&self.grpc),
            http: clone(&self.http),
            callers: Callers::Local { policy: self.policy.subscribe() },
            engine: engine::Settings { tick: Duration::from_millis(20), ..engine::Settings::default() },
        };
        self.ledger = Some(Ledger::start(settings).await.unwrap_or_else(|error| panic!("the ledger did not start: {error}")));
    }

    /// Stops the ledger.
    pub async fn stop_ledger(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            ledger.stop().await.unwrap_or_else(|error| panic!("the ledger did not stop: {error}"));
        }
    }

    /// Starts a sidecar on the folder and socket that the last one had; `run` names its run, else it is implicit.
    pub async fn start_sidecar(&mut self, run: Option<&str>) {
        self.start_sidecar_of("trader", run).await;
    }

    /// Starts a sidecar beside another agent.
    pub async fn start_sidecar_of(&mut self, agent: &str, run: Option<&str>) {
        let folder = self.data.path().join("sidecar");
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("no folder: {error}"));
        let key = TokenKey::open(&self.ledger_data()).unwrap_or_else(|error| panic!("no key: {error}"));
        let workload = Workload {
            agent: name::<AgentId>(agent),
            run: name::<RunId>(run.unwrap_or(if agent == "trader" { "run-implicit" } else { "run-of-another" })),
            explicit_run: run.is_some(),
            labels: BTreeMap::new(),
            instance: "pod-1".to_owned(),
        };
        let claims = Claims {
            role: Role::Sidecar,
            tenant: name::<TenantId>(NAMESPACE),
            subject: name::<PersonId>("sidecar"),
            workload: Some(workload),
            expires: 4_000_000_000,
        };
        let token = folder.join("token");
        std::fs::write(&token, key.mint(&claims)).unwrap_or_else(|error| panic!("no token: {error}"));
        let settings = Settings {
            proxy: vec![self.listener.try_clone().unwrap_or_else(|error| panic!("no socket: {error}"))],
            redirect: Vec::new(),
            dns_udp: Vec::new(),
            dns_tcp: Vec::new(),
            api: Vec::new(),
            admin: None,
            data: folder.join("data"),
            bundle: folder.join("bundle"),
            roots: self.roots.clone(),
            kept_names: None,
            api_server: None,
            control: control::Settings {
                address: format!("https://{}", self.grpc.local_addr().unwrap_or_else(|error| panic!("no address: {error}"))),
                server_name: Ledger::SERVER_NAME.to_owned(),
                ca: Ledger::ca_file(&self.ledger_data()),
                token,
                capture: "Cooperative".to_owned(),
            },
        };
        let sidecar = Sidecar::start(settings).await.unwrap_or_else(|error| panic!("the sidecar did not start: {error}"));
        sidecar.ready().await;
        self.sidecar = Some(sidecar);
    }

    /// Stops the sidecar, its exchanges finished.
    pub async fn stop_sidecar(&mut self) {
        if let Some(sidecar) = self.sidecar.take() {
            sidecar.stop().await;
        }
    }

    /// Sends the ledger these pieces of a call as the sidecar would, then breaks the connection.
    pub async fn send_and_break(&self, method: &str, pieces: &[Vec<u8>]) {
        let token = std::fs::read_to_string(self.data.path().join("sidecar/token")).unwrap_or_else(|error| panic!("no token: {error}"));
        let ledger = self.grpc.local_addr().unwrap_or_else(|error| panic!("no address: {error}"));
        let ca = Ledger::ca_file(&self.ledger_data());
        let sent = crate::control::send_and_break(ledger, Ledger::SERVER_NAME, &ca, &token, method, pieces).await;
        sent.unwrap_or_else(|error| panic!("{method}: {error:?}"));
    }

    /// Another policy.
    pub fn change_policy(&self, manifests: &str) {
        self.policy.send_replace(in_force(&manifests.replace("FAR", &self.far.address.to_string())));
    }

    /// A fresh connection to the proxy.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.proxy, self.far.address).await
    }

    /// One call over a connection of its own, its answer read to the end.
    pub async fn call(&self, call: &Call) -> Answer {
        self.connect().await.call(call).await
    }

    fn engine(&self) -> &Engine {
        self.ledger.as_ref().and_then(Ledger::engine).unwrap_or_else(|| panic!("the ledger is stopped"))
    }

    /// The effects on record, oldest first.
    pub async fn effects(&self) -> Vec<Effect> {
        let effects = self.engine().read(|state| state.effects().cloned().collect::<Vec<_>>()).await;
        let mut effects = effects.unwrap_or_else(|error| panic!("the ledger does not answer: {error}"));
        effects.sort_by_key(|effect| (effect.granted_at, effect.spec.effect.clone()));
        effects
    }

    /// The one effect on record.
    pub async fn effect(&self) -> Effect {
        let mut effects = self.effects().await;
        assert_eq!(effects.len(), 1, "{effects:#?}");
        effects.remove(0)
    }

    /// Waits until the only effect's state fits.
    pub async fn until(&self, fits: impl Fn(&EffectState) -> bool) -> Effect {
        let began = std::time::Instant::now();
        loop {
            let effects = self.effects().await;
            if let [effect] = effects.as_slice()
                && fits(&effect.state)
            {
                return effect.clone();
            }
            assert!(began.elapsed() < PATIENCE, "it never came to that: {effects:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The gates on record.
    pub async fn gates(&self) -> Vec<Gate> {
        let gates = self.engine().read(|state| state.gates().cloned().collect()).await;
        gates.unwrap_or_else(|error| panic!("the ledger does not answer: {error}"))
    }

    /// A person's word on a gate.
    pub async fn say(&self, gate: &str, person: &str, verdict: GateVerdict) {
        let word = DecideGate {
            gate: name::<GateId>(gate),
            digest: None,
            person: name(person),
            verdict,
            reason: "checked".to_owned(),
            voucher: None,
        };
        let said = self.engine().decide_gate(word).await;
        said.unwrap_or_else(|error| panic!("the ledger does not answer: {error}")).unwrap_or_else(|refuse| panic!("refused: {refuse:?}"));
    }

    /// Waits until the events of a run hold each of these texts.
    pub async fn noted(&self, run: &str, texts: &[&str]) {
        let began = std::time::Instant::now();
        for text in texts {
            while !self.has_noted(run, text).await {
                assert!(began.elapsed() < PATIENCE, "{text:?} is never noted: {}", self.written(run).await);
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Whether the events of a run hold this text by now.
    pub async fn has_noted(&self, run: &str, text: &str) -> bool {
        self.written(run).await.contains(text)
    }

    async fn written(&self, run: &str) -> String {
        let events = self.engine().run_events(name(run), 0, 10_000).await;
        let events = events.unwrap_or_else(|error| panic!("the ledger does not answer: {error}"));
        let events = events.unwrap_or_else(|error| panic!("the journal cannot be read: {error}"));
        serde_json::to_string(&events).unwrap_or_else(|error| panic!("events that cannot be written: {error}"))
    }

    /// The span events of a run, as they are on record.
    pub async fn tally(&self, run: &str) -> kybernis_core::machine::Tally {
        let run: RunId = name(run);
        let tally = self.engine().read(move |state| state.run(&run).map(|run| run.tally)).await;
        tally.unwrap_or_else(|error| panic!("the ledger does not answer: {error}")).unwrap_or_default()
    }
}
