//! Against a Control service on a real socket that misbehaves as it is told.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1::control_server::{Control, ControlServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response};

use super::*;
use crate::apply::{Programmer, Trouble};
use crate::build::build;
use crate::fixtures::{facts, live, policy, probed, secret};
use crate::validate::{Validated, Validator};

type Update = Result<v1::SidecarUpdate, Status>;

/// What the ledger does.
#[derive(Default)]
struct Script {
    /// How the next streams go; with none left, one stays open.
    streams: VecDeque<mpsc::UnboundedReceiver<Update>>,
    /// Answers to the next programs; with none left, they are taken.
    answers: VecDeque<Status>,
    /// Tenants as they were programmed.
    programmed: Vec<String>,
    /// The tokens that came.
    tokens: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake {
    script: Arc<Mutex<Script>>,
    watches: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Control for Fake {
    type WatchSidecarsStream = BoxStream<'static, Update>;

    async fn program(&self, request: Request<v1::ProgramRequest>) -> Result<Response<v1::ProgramReply>, Status> {
        let mut script = self.script.lock().unwrap();
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        script.tokens.push(token);
        if let Some(status) = script.answers.pop_front() {
            return Err(status);
        }
        let request = request.into_inner();
        let set: PolicySet = serde_json::from_slice(&request.policy_set).unwrap();
        script.programmed.push(request.tenant);
        Ok(Response::new(v1::ProgramReply { digest: set.digest().as_bytes().to_vec() }))
    }

    async fn watch_sidecars(&self, _: Request<v1::WatchSidecarsRequest>) -> Result<Response<Self::WatchSidecarsStream>, Status> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        let next = self.script.lock().unwrap().streams.pop_front();
        match next {
            Some(stream) => Ok(Response::new(tokio_stream::wrappers::UnboundedReceiverStream::new(stream).boxed())),
            None => Err(Status::unavailable("not now")),
        }
    }
}

struct Rig {
    fake: Fake,
    ledger: Ledger,
    wake: Arc<Notify>,
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

fn synced() -> Update {
    Ok(v1::SidecarUpdate { update: Some(v1::sidecar_update::Update::Synced(v1::Synced {})) })
}

impl Rig {
    /// A ledger that is followed; the CA comes later than the operator.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let signed = rcgen::generate_simple_self_signed(vec!["ledger.test".to_owned()]).unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(signed.cert.pem(), signed.signing_key.serialize_pem()));
        let fake = Fake::default();
        let server = Server::builder().tls_config(tls).unwrap().add_service(ControlServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        let wake = Arc::new(Notify::new());
        let (ledger, metrics) = (Ledger::new(Arc::clone(&wake)), Arc::new(Metrics::default()));
        let settings = LedgerSettings {
            address: format!("https://{address}"),
            server_name: "ledger.test".to_owned(),
            ca: folder.path().join("ca.pem"),
            token: folder.path().join("token"),
        };
        let rig = Self { fake, ledger: ledger.clone(), wake, folder, metrics: Arc::clone(&metrics) };
        tokio::spawn(ledger.follow(settings, metrics));
        rig.until(|_| true).await;
        rig.write("token", "one");
        rig.write("ca.pem", &signed.cert.pem());
        rig
    }

    fn write(&self, name: &str, text: &str) {
        let path: &Path = self.folder.path();
        std::fs::write(path.join(name), text).unwrap();
    }

    /// A stream that will be opened.
    fn stream(&self, first: impl IntoIterator<Item = Update>) -> mpsc::UnboundedSender<Update> {
        let (tell, stream) = mpsc::unbounded_channel();
        first.into_iter().for_each(|update| tell.send(update).unwrap());
        self.fake.script.lock().unwrap().streams.push_back(stream);
        tell
    }

    /// Waits for the ledger to tell of a change after which this is so.
    async fn until(&self, so: impl Fn(&Link) -> bool) -> Link {
        let waiting = async {
            loop {
                self.wake.notified().await;
                let link = self.ledger.link();
                if so(&link) {
                    return link;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap()
    }
}

fn instances(link: &Link) -> Vec<String> {
    let fleet = link.fleet.as_ref().unwrap();
    fleet.of("trading").map(|(instance, _)| instance.to_owned()).collect()
}

#[tokio::test]
async fn the_fleet_is_followed_through_lost_changes_and_lost_connections() {
    let rig = Rig::start().await;
    let first = rig.stream([Ok(live("trading", "pod-1", b"1", "")), Ok(live("trading", "pod-2", b"1", "")), synced()]);
    let link = rig.until(|link| link.fleet.is_some()).await;
    assert_eq!((link.session, instances(&link)), (1, vec!["pod-1".to_owned(), "pod-2".to_owned()]));
    assert_eq!(rig.metrics.ledger_connected.get(), 1);

    let gone = v1::GoneSidecar { tenant: "trading".to_owned(), instance: "pod-1".to_owned() };
    first.send(Ok(v1::SidecarUpdate { update: Some(v1::sidecar_update::Update::Gone(gone)) })).unwrap();
    rig.until(|link| instances(link) == ["pod-2"]).await;

    // A change was lost: it starts over on the same connection, and nothing is programmed again.
    let second = rig.stream([Ok(live("trading", "pod-3", b"1", "")), synced()]);
    first.send(Err(Status::aborted("3 changes were lost on the way; ask again"))).unwrap();
    let link = rig.until(|link| link.fleet.is_some() && instances(link) == ["pod-3"]).await;
    assert_eq!((link.session, rig.metrics.fleet_restarts.get()), (1, 1));

    // The ledger goes: nobody knows who is live until it is back, and then it may have lost what it had.
    drop(second);
    let link = rig.until(|link| link.connection.is_none()).await;
    assert!(link.fleet.is_none());
    let watches = rig.fake.watches.load(Ordering::SeqCst);
    let _third = rig.stream([synced()]);
    let link = rig.until(|link| link.connection.is_some()).await;
    assert_eq!((link.session, instances(&link).len()), (2, 0));
    assert!(rig.fake.watches.load(Ordering::SeqCst) > watches);
}

#[tokio::test]
async fn a_set_is_sent_when_it_or_its_secrets_change_and_in_a_new_session() {
    let rig = Rig::start().await;
    let first = rig.stream([synced()]);
    let link = rig.until(|link| link.fleet.is_some()).await;
    let mut programmer = Programmer::default();
    let mut facts = facts(vec![probed("a", "orders", "x.example.com"), policy("b", "p", &[])], &[]);
    secret(&mut facts, "a", "k", "one");
    let mut validator = Validator::default();
    let validated = validator.validate(&facts);
    let programmed = || std::mem::take(&mut rig.fake.script.lock().unwrap().programmed);
    let trouble = |programmer: &Programmer, validated: &Validated| -> Vec<Option<Trouble>> {
        programmer.expected(validated).into_values().map(|expected| expected.trouble).collect()
    };

    assert_eq!(trouble(&programmer, &validated), [Some(Trouble::Unsent(None)), Some(Trouble::Unsent(None))]);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmed().is_empty(), "nothing changed");

    secret(&mut facts, "a", "k", "two");
    let validated = validator.validate(&facts);
    // The token has rotated: the ledger refuses the old one once, and then gets the new one.
    rig.write("token", "two");
    rig.fake.script.lock().unwrap().answers.push_back(Status::unauthenticated("expired"));
    assert!(!programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert_eq!(programmed(), ["a"]);
    assert_eq!(rig.fake.script.lock().unwrap().tokens.last().unwrap(), "Bearer two");

    // What the ledger refuses is not sent over and over.
    facts.objects.retain(|object| object.key.namespace == "a");
    facts.objects.push(policy("b", "q", &[]));
    let validated = validator.validate(&facts);
    rig.fake.script.lock().unwrap().answers.push_back(Status::invalid_argument("policy_set: unknown field"));
    for _ in 0..2 {
        assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    }
    assert!(programmed().is_empty());
    assert_eq!(trouble(&programmer, &validated), [None, Some(Trouble::Refused("policy_set: unknown field".to_owned()))]);

    // A ledger that is away keeps everything as it was; one that is back is given all of it.
    drop(first);
    let away = rig.until(|link| link.connection.is_none()).await;
    assert!(!programmer.program(&away, &build(&facts, &validated), &validated, &rig.metrics).await);
    let _second = rig.stream([synced()]);
    let link = rig.until(|link| link.connection.is_some()).await;
    // One that cannot be stored does not keep the other back.
    rig.fake.script.lock().unwrap().answers.push_back(Status::unavailable("no space left on device"));
    assert!(!programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    assert_eq!(sent.len(), 1);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    sent.extend(programmed());
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
}
