//! A Control service on a real socket that misbehaves as it is told, and a ledger that is followed there.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1::control_server::{Control, ControlServer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response};

use super::*;

/// The name of a set of which it keeps a part.
pub(crate) const KEPT: [u8; 32] = [7; 32];

/// What a stream tells next.
pub(crate) type Update<T> = Result<T, Status>;
type Streams<T> = VecDeque<mpsc::UnboundedReceiver<Update<T>>>;

/// What the ledger does.
#[derive(Default)]
pub(crate) struct Script {
    /// How the next streams go; with none left, none opens.
    streams: Streams<v1::SidecarUpdate>,
    gate_streams: Streams<v1::GateUpdate>,
    /// Answers to the next programs; with none left, they are taken.
    pub(crate) answers: VecDeque<Status>,
    /// Tenants that it cannot store.
    pub(crate) closed: BTreeSet<String>,
    /// Tenants as they were programmed.
    pub(crate) programmed: Vec<String>,
    /// Hears of each tenant that is programmed, and of the set's digest.
    pub(crate) on_program: Option<mpsc::UnboundedSender<(String, Vec<u8>)>>,
    /// The tokens that came.
    pub(crate) tokens: Vec<String>,
    /// Answers to the next words on gates; with none left, they are taken.
    pub(crate) verdicts: VecDeque<Update<v1::DecideGateReply>>,
    /// The words that came.
    pub(crate) decided: Vec<v1::DecideGateRequest>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) watches: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Control for Fake {
    type WatchGatesStream = BoxStream<'static, Update<v1::GateUpdate>>;
    type WatchSidecarsStream = BoxStream<'static, Update<v1::SidecarUpdate>>;

    async fn program(&self, request: Request<v1::ProgramRequest>) -> Result<Response<v1::ProgramReply>, Status> {
        let mut script = self.script.lock().unwrap();
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        script.tokens.push(token);
        if let Some(status) = script.answers.pop_front() {
            return Err(status);
        }
        let request = request.into_inner();
        if script.closed.contains(&request.tenant) {
            return Err(Status::unavailable(format!("the ledger cannot open the records of tenant {}", request.tenant)));
        }
        let set: PolicySet = serde_json::from_slice(&request.policy_set).unwrap();
        // What it keeps beside the release's part makes another set of it.
        let digest = if request.keep_own { KEPT } else { *set.digest().as_bytes() }.to_vec();
        if let Some(hear) = &script.on_program {
            let _ = hear.send((request.tenant.clone(), digest.clone()));
        }
        script.programmed.push(request.tenant);
        Ok(Response::new(v1::ProgramReply { digest }))
    }

    async fn watch_sidecars(&self, _: Request<v1::WatchSidecarsRequest>) -> Result<Response<Self::WatchSidecarsStream>, Status> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        let next = self.script.lock().unwrap().streams.pop_front();
        match next {
            Some(stream) => Ok(Response::new(UnboundedReceiverStream::new(stream).boxed())),
            None => Err(Status::unavailable("not now")),
        }
    }

    async fn watch_gates(&self, _: Request<v1::WatchGatesRequest>) -> Result<Response<Self::WatchGatesStream>, Status> {
        let next = self.script.lock().unwrap().gate_streams.pop_front();
        match next {
            Some(stream) => Ok(Response::new(UnboundedReceiverStream::new(stream).boxed())),
            None => Err(Status::unimplemented("gates")),
        }
    }

    async fn decide_gate(&self, request: Request<v1::DecideGateRequest>) -> Result<Response<v1::DecideGateReply>, Status> {
        let mut script = self.script.lock().unwrap();
        script.decided.push(request.into_inner());
        script.verdicts.pop_front().unwrap_or_else(|| Ok(v1::DecideGateReply::default())).map(Response::new)
    }
}

pub(crate) struct Rig {
    pub(crate) fake: Fake,
    pub(crate) ledger: Ledger,
    pub(crate) wakes: Wakes,
    pub(crate) tell_lead: watch::Sender<Option<Instant>>,
    pub(crate) leads: Lead,
    folder: tempfile::TempDir,
    pub(crate) metrics: Arc<Metrics>,
}

/// A lead that does not end before the test.
pub(crate) fn for_long() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(3600))
}

pub(crate) fn synced() -> Update<v1::SidecarUpdate> {
    Ok(v1::SidecarUpdate { update: Some(v1::sidecar_update::Update::Synced(v1::Synced { partial: false })) })
}

pub(crate) fn gates_synced() -> Update<v1::GateUpdate> {
    Ok(v1::GateUpdate { update: Some(v1::gate_update::Update::Synced(v1::Synced { partial: false })) })
}

pub(crate) fn gate_update(gate: v1::GateState) -> Update<v1::GateUpdate> {
    Ok(v1::GateUpdate { update: Some(v1::gate_update::Update::Gate(gate)) })
}

/// Tells what a stream tells.
pub(crate) type Tell<T> = mpsc::UnboundedSender<Update<T>>;

fn told<T>(first: impl IntoIterator<Item = Update<T>>) -> (Tell<T>, mpsc::UnboundedReceiver<Update<T>>) {
    let (tell, stream) = mpsc::unbounded_channel();
    for update in first {
        assert!(tell.send(update).is_ok(), "the other end is ours");
    }
    (tell, stream)
}

impl Rig {
    /// A ledger that is followed by who leads; the CA comes later than the operator.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let signed = rcgen::generate_simple_self_signed(vec!["ledger.test".to_owned()]).unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(signed.cert.pem(), signed.signing_key.serialize_pem()));
        let fake = Fake::default();
        let server = Server::builder().tls_config(tls).unwrap().add_service(ControlServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let wakes = Wakes::default();
        let (tell_lead, leads) = Lead::new();
        tell_lead.send_replace(for_long());
        let (ledger, metrics) = (Ledger::new(wakes.clone(), leads.clone()), Arc::new(Metrics::default()));
        let settings = LedgerSettings {
            address: format!("https://{address}"),
            server_name: "ledger.test".to_owned(),
            ca: folder.path().join("ca.pem"),
            token: folder.path().join("token"),
        };
        let rig = Self { fake, ledger: ledger.clone(), wakes, tell_lead, leads, folder, metrics: Arc::clone(&metrics) };
        tokio::spawn(ledger.follow(settings, metrics));
        rig.until(|_| true).await;
        rig.write("token", "one");
        rig.write("ca.pem", &signed.cert.pem());
        rig
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path: &Path = self.folder.path();
        std::fs::write(path.join(name), text).unwrap();
    }

    /// A stream that will be opened.
    pub(crate) fn stream(&self, first: impl IntoIterator<Item = Update<v1::SidecarUpdate>>) -> Tell<v1::SidecarUpdate> {
        let (tell, stream) = told(first);
        self.fake.script.lock().unwrap().streams.push_back(stream);
        tell
    }

    /// A stream of gates that will be opened.
    pub(crate) fn gate_stream(&self, first: impl IntoIterator<Item = Update<v1::GateUpdate>>) -> Tell<v1::GateUpdate> {
        let (tell, stream) = told(first);
        self.fake.script.lock().unwrap().gate_streams.push_back(stream);
        tell
    }

    /// Waits until the numbers are so.
    pub(crate) async fn until_counted(&self, so: impl Fn(&Metrics) -> bool) {
        let counted = async {
            while !so(&self.metrics) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), counted).await.unwrap();
    }

    /// Waits for the ledger to tell of a change after which this is so.
    pub(crate) async fn until(&self, so: impl Fn(&Link) -> bool) -> Link {
        self.until_told(&self.wakes.policies, so).await
    }

    /// The same of gates; whoever waits for them elsewhere hears nothing meanwhile.
    pub(crate) async fn until_gates(&self, so: impl Fn(&Link) -> bool) -> Link {
        self.until_told(&self.wakes.gates, so).await
    }

    async fn until_told(&self, wake: &Notify, so: impl Fn(&Link) -> bool) -> Link {
        let waiting = async {
            loop {
                wake.notified().await;
                let link = self.ledger.link();
                if so(&link) {
                    return link;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap()
    }
}
