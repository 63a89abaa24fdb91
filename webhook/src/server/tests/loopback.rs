//! The running server over loopback: TLS, the admin port, the bounds, and the way it stops.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Client, SERVER_NAME, Trust, post};
use super::{cluster, config};
use crate::server::certificates::material::Kept;
use crate::server::certificates::moment::Moment;
use crate::server::certificates::provided::Provided;
use crate::server::certificates::rotation::{Lifetimes, Seen, State, step};
use crate::server::certificates::serving::Serving;
use crate::server::desk::BODY_MAX;
use crate::server::listen::CONNECTIONS_MAX;
use crate::server::namespaces::{Namespaces, namespaces};
use crate::server::status::Status;
use crate::server::{Certificates, DecisionKey, Server, Settings};

/// A server without what fills it.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    admin: SocketAddr,
    pub(super) serving: Serving,
    pub(super) status: Status,
    pub(super) stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Running {
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }

    async fn probe(&self, path: &str) -> String {
        probe(self.admin, path).await
    }
}

/// What the admin port answers.
pub(super) async fn probe(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A namespace that is opted in.
pub(super) fn trading() -> Namespaces {
    let labels = BTreeMap::from([("kybernis.io/inject".to_owned(), "enabled".to_owned())]);
    cluster(HashMap::from([("trading".to_owned(), labels)]), None)
}

pub(super) async fn start(namespaces: Namespaces) -> Running {
    start_lingering(namespaces, Duration::ZERO).await
}

async fn start_lingering(namespaces: Namespaces, linger: Duration) -> Running {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, admin) = (bind(), bind());
    let (address, admin_address) = (listener.local_addr().unwrap(), admin.local_addr().unwrap());
    let certificates = Certificates::Provided { certificate: "".into(), key: "".into() };
    let decision_key = DecisionKey { secret: String::new(), config_map: String::new() };
    let server = Server::new(
        Settings { config: config(), listener, admin, certificates, decision_key, linger },
        namespaces,
        super::decisions::nobody(),
    )
    .unwrap();
    let (serving, status, stop) = (server.serving.clone(), server.status.clone(), CancellationToken::new());
    let ended = tokio::spawn(server.run(stop.clone().cancelled_owned()));
    Running { address, admin: admin_address, serving, status, stop, ended }
}

fn made() -> Kept {
    let next = step(&State::default(), &Seen::default(), Moment::now(), &Lifetimes::default());
    Kept::default().apply(next.state, &next.actions, SERVER_NAME).unwrap()
}

/// As the keeper does.
fn serve(server: &Running) -> Trust {
    let kept = made();
    server.serving.serve(kept.certified().unwrap().unwrap());
    server.status.published();
    Trust::Bundle(kept.bundle())
}

#[tokio::test]
async fn a_pod_is_injected_over_tls() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut client = Client::connect(server.address, trust).await.unwrap();
    for _ in 0..2 {
        let (status, review) = client.inject().await.unwrap();
        assert_eq!((status, &review["response"]["allowed"], &review["response"]["patchType"]), (200, &true.into(), &"JSONPatch".into()));
    }
    let metrics = server.probe("/metrics").await;
    assert!(metrics.contains("kyb_webhook_reviews_total{endpoint=\"inject\",outcome=\"patched\"} 2\n"), "{metrics}");
    assert!(Client::connect(server.address, Trust::Bundle(made().bundle())).await.is_err(), "another authority's leaf is not taken");
    server.end().await;
}

#[tokio::test]
async fn a_change_of_the_certificate_drops_no_connection() {
    let server = start(trading()).await;
    let first = serve(&server);
    let mut old = Client::connect(server.address, first.clone()).await.unwrap();
    let second = serve(&server);
    assert!(Client::connect(server.address, first).await.is_err());
    let mut new = Client::connect(server.address, second).await.unwrap();
    assert_eq!(old.inject().await.unwrap().0, 200);
    assert_eq!(new.inject().await.unwrap().0, 200);
    server.end().await;
}

#[tokio::test]
async fn probes_say_what_is_missing() {
    let (namespaces, _questions) = namespaces();
    let server = start_lingering(namespaces.clone(), Duration::from_secs(60)).await;
    assert!(server.probe("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(server.probe("/readyz").await.ends_with("there is no certificate yet\n"));
    server.serving.serve(made().certified().unwrap().unwrap());
    server.status.kept(Some("it is away".to_owned()));
    assert!(server.probe("/readyz").await.ends_with("do not have its authority yet: it is away\n"));
    server.status.published();
    assert!(server.probe("/readyz").await.ends_with("the namespaces have not been listed yet\n"));
    namespaces.list(HashMap::new());
    assert!(server.probe("/readyz").await.starts_with("HTTP/1.1 200"));
    server.stop.cancel();
    tokio::task::yield_now().await;
    assert!(server.probe("/readyz").await.ends_with("it is stopping\n"));
    assert!(server.probe("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(server.probe("/").await.starts_with("HTTP/1.1 404"));
    server.ended.abort();
}

#[tokio::test]
async fn a_server_that_stops_ends_its_connections_after_their_answers() {
    let server = start_lingering(trading(), Duration::from_secs(60)).await;
    let trust = serve(&server);
    let mut client = Client::connect(server.address, trust.clone()).await.unwrap();
    assert_eq!(client.inject().await.unwrap().0, 200);
    server.stop.cancel();
    tokio::task::yield_now().await;
    let (status, headers, _) = client.send(post("/nowhere", "")).await.unwrap();
    assert_eq!((status, headers["connection"].to_str().unwrap()), (404, "close"));
    // Who comes while it lingers is served, once.
    let mut late = Client::connect(server.address, trust).await.unwrap();
    assert_eq!(late.inject().await.unwrap().0, 200);
    assert!(late.inject().await.is_err());
    server.ended.abort();
}

#[tokio::test]
async fn bodies_beyond_the_bound_are_refused() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut client = Client::connect(server.address, trust.clone()).await.unwrap();
    let (status, _, body) = client.send(post("/inject", vec![b' '; BODY_MAX])).await.unwrap();
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&body));
    // The head alone tells.
    let mut stream = super::client::raw(server.address, trust).await;
    let head = format!("POST /inject HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413"));
    server.end().await;
    // And where it does not tell, the body itself.
    let request = http::Request::post("/inject").body(http_body_util::Full::new(hyper::body::Bytes::from(vec![b' '; BODY_MAX + 1])));
    assert_eq!(super::desk(trading()).answer(request.unwrap()).await.status(), 413);
}

#[tokio::test]
async fn what_is_no_http_or_no_tls_ends() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"POST /inject HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"));
    let mut stream = super::client::raw(server.address, trust.clone()).await;
    let long = format!("POST /inject HTTP/1.1\r\nlong: {}\r\n\r\n", "a".repeat(100_000));
    drop(stream.write_all(long.as_bytes()).await);
    assert!(self::answer(&mut stream).await.starts_with("HTTP/1.1 431"));
    assert_eq!(Client::connect(server.address, trust).await.unwrap().inject().await.unwrap().0, 200);
    server.end().await;
}

/// Well below the patience for whoever asks nothing.
const PROMPTLY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn whoever_fills_all_places_and_asks_nothing_keeps_nobody_waiting() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut asking = Client::connect(server.address, trust.clone()).await.unwrap();
    assert_eq!(asking.inject().await.unwrap().0, 200);
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX / 2 {
        idle.push(super::client::raw(server.address, trust.clone()).await);
    }
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let answers = async {
        let mut client = Client::connect(server.address, trust.clone()).await?;
        Ok::<_, String>((client.inject().await?.0, asking.inject().await?.0))
    };
    let answers = tokio::time::timeout(PROMPTLY, answers).await.expect("an answer in time");
    assert_eq!(answers, Ok((200, 200)), "and who has asked keeps its connection");
    server.end().await;
}

#[tokio::test]
async fn whoever_has_asked_once_and_idles_keeps_nobody_waiting() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = Client::connect(server.address, trust.clone()).await.unwrap();
        assert_eq!(client.inject().await.unwrap().0, 200);
        idle.push(client);
    }
    let answer = async { Client::connect(server.address, trust).await?.inject().await };
    assert_eq!(tokio::time::timeout(PROMPTLY, answer).await.expect("an answer in time").unwrap().0, 200);
    server.end().await;
}

#[tokio::test]
async fn patience_is_short_until_the_first_request_and_longer_than_an_api_servers_between_two() {
    let server = start(trading()).await;
    let trust = serve(&server);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut idle = super::client::raw(server.address, trust.clone()).await;
    let mut asked = Client::connect(server.address, trust).await.unwrap();
    assert_eq!(asked.inject().await.unwrap().0, 200);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!((answer(&mut silent).await, answer(&mut idle).await), (String::new(), String::new()));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    tokio::time::advance(Duration::from_secs(90)).await;
    tokio::time::resume();
    assert_eq!(asked.inject().await.unwrap().0, 200);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn provided_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let (serving, status, closing) = (Serving::default(), Status::default(), CancellationToken::new());
    let provided = Provided { certificate: certificate.clone(), key: key.clone() };
    let running = tokio::spawn(provided.run(serving.clone(), status.clone(), closing.clone()));
    let until = async |holds: &dyn Fn() -> bool| {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it never holds");
    };
    until(&|| status.problem().is_some()).await;
    assert!(!serving.is_ready());
    let write = || {
        let pair = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()]).unwrap();
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        pair.cert.der().clone()
    };
    for _ in 0..2 {
        let wanted = write();
        until(&|| serving.current().is_some_and(|current| current.cert.first() == Some(&wanted))).await;
    }
    let wanted = serving.current().unwrap().cert.clone();
    std::fs::write(&key, "spoilt").unwrap();
    until(&|| status.problem().is_some()).await;
    assert_eq!(serving.current().unwrap().cert, wanted, "the last one stays in service");
    closing.cancel();
    running.await.unwrap();
}

async fn answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 || answer.len() > 4096 {
            break;
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
