//! A whole sidecar before a ledger of the test's own: how it ends, and what leads into itself.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use kybernis_core::ksp::{KspEvent, SpanStatus};
use kybernis_core::policy::{DefaultVerdict, Level, Mode, Origin, Policy, Selector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::far::far_side;
use super::rig::exchange;
use crate::control::fake::{Ca, Place};
use crate::serve::{Settings, Sidecar};

/// The sidecar, its proxy and its local API.
async fn start(place: &Place, ca: &Ca) -> (Sidecar, SocketAddr, SocketAddr) {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (proxy, api) = (bind(), bind());
    let addresses = [&proxy, &api].map(|listener| listener.local_addr().unwrap());
    let settings = Settings {
        proxy: vec![proxy],
        redirect: Vec::new(),
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        api: vec![api],
        admin: None,
        data: place.path().join("data"),
        bundle: place.path().join("bundle"),
        roots: Vec::new(),
        kept_names: None,
        api_server: None,
        control: place.settings(&ca.pem),
    };
    let sidecar = Sidecar::start(settings).await.unwrap();
    sidecar.ready().await;
    (sidecar, addresses[0], addresses[1])
}

#[tokio::test]
async fn the_local_api_is_reached_directly_and_not_through_the_proxy() {
    let (ca, place) = (Ca::new(), Place::new());
    let _ledger = place.ledger(&ca);
    let (_sidecar, proxy, api) = start(&place, &ca).await;
    let asked = async |at: SocketAddr, target: &str| {
        let mut agent = TcpStream::connect(at).await.unwrap();
        exchange(&mut agent, &format!("GET {target} HTTP/1.1\r\nHost: {api}\r\n\r\n"), "}").await
    };
    let direct = asked(api, "/infra/runs").await;
    assert!(direct.starts_with("HTTP/1.1 200 "), "{direct}");
    let around = asked(proxy, &format!("http://{api}/infra/runs")).await;
    assert!(around.starts_with("HTTP/1.1 502 "), "{around}");
}

fn audit() -> Policy {
    Policy {
        origin: Origin { level: Level::Namespace, namespace: "n".to_owned(), name: "audit".to_owned() },
        selector: Selector::default(),
        mode: Mode::Audit,
        default: DefaultVerdict::Allow,
        failure_mode: None,
        body_bytes: None,
        derived_keys: None,
        rules: Vec::new(),
        uninspected: Vec::new(),
        delegates: Vec::new(),
    }
}

/// Begins each answer in its own way, and never ends it.
async fn endless(mut stream: TcpStream) {
    let mut asked = [0; 1024];
    let read = stream.read(&mut asked).await.unwrap();
    let begun: &[u8] = match &asked[..read] {
        b"\0\x01\x02" => b"hello",
        asked if asked.starts_with(b"GET /session ") => {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello"
        }
        _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    };
    stream.write_all(begun).await.unwrap();
    let _ = stream.read(&mut asked).await;
}

#[tokio::test]
async fn what_never_ends_is_on_record_with_what_it_has_carried() {
    let (ca, mut place) = (Ca::new(), Place::new());
    // There a call that no ledger decides about goes, too, and its span alone tells of it.
    place.policy.policies.push(audit());
    let ledger = place.ledger(&ca);
    let far = far_side(|_, stream| endless(stream)).await;
    let (sidecar, address, _) = start(&place, &ca).await;
    let mut open = Vec::new();
    let calls = [
        format!("GET http://{far}/stream HTTP/1.1\r\nHost: {far}\r\n\r\n"),
        format!("GET http://{far}/session HTTP/1.1\r\nHost: {far}\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"),
        format!("POST http://{far}/effect HTTP/1.1\r\nHost: {far}\r\nContent-Length: 0\r\n\r\n"),
    ];
    for call in &calls {
        let mut agent = TcpStream::connect(address).await.unwrap();
        let answer = exchange(&mut agent, call, "hello").await;
        assert!(answer.contains("hello"), "{answer}");
        open.push(agent);
    }
    let mut agent = TcpStream::connect(address).await.unwrap();
    exchange(&mut agent, &format!("CONNECT {far} HTTP/1.1\r\nHost: {far}\r\n\r\n"), "\r\n\r\n").await;
    assert_eq!(exchange(&mut agent, "\0\x01\x02", "hello").await, "hello");

    tokio::time::timeout(Duration::from_secs(10), sidecar.stop_within(Duration::ZERO)).await.unwrap();
    let spans = std::mem::take(&mut *ledger.told.spans.lock().unwrap());
    let ended = spans.into_iter().filter_map(|event| match event {
        KspEvent::SpanStart(_) => None,
        KspEvent::SpanEnd(end) => Some((end.status, end.usage.and_then(|usage| usage.bytes_in))),
    });
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|(status, _)| *status == SpanStatus::Error);
    let canceled = (SpanStatus::Canceled, Some(5));
    assert_eq!(ended, [canceled, canceled, canceled, (SpanStatus::Error, Some(5))]);
    // Nothing of it passes for whole.
    for mut agent in open {
        assert!(!exchange(&mut agent, "", "0\r\n\r\n").await.contains("0\r\n\r\n"));
    }
}
