//! Faults of the connection itself.

use std::io::{self, Read as _};
use std::net::TcpStream;

use kybernis_broker::{Fault, Then};

use crate::peer::{End, ORDER, PATIENCE, Rig, answer, connect, curl, exchange, post};

#[test]
fn a_refused_connection_is_refused_by_the_kernel_until_the_port_opens_again() {
    let rig = Rig::with([Fault::new(Then::RefuseConnection { for_ms: 60_000 })]);
    rig.broker.wait_until(PATIENCE, |now| now.fired.len() == 1).unwrap();
    for port in [rig.broker.https(), rig.broker.http()] {
        assert_eq!(TcpStream::connect(port).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(curl(&rig.broker, "/v1/orders", &["--data", ORDER]).status.code(), Some(7));
    rig.broker.release();
    let out = curl(&rig.broker, "/v1/orders", &["--data", ORDER, "--retry", "20", "--retry-connrefused", "--retry-delay", "1"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(rig.executed(), ["c-1"]);
}

#[test]
fn a_refusal_ends_by_itself_and_connections_that_are_there_live_on() {
    use std::io::Write as _;
    let rig = Rig::start();
    let mut stream = connect(rig.broker.http());
    rig.broker.wait_until(PATIENCE, |_| true).unwrap();
    stream.write_all(post("/v1/orders", ORDER, "").as_bytes()).unwrap();
    answer(&mut stream);
    rig.broker.script([Fault::new(Then::RefuseConnection { for_ms: 100 })]).unwrap();
    rig.broker.wait_until(PATIENCE, |now| now.fired.len() == 1).unwrap();
    stream.write_all(post("/v1/orders", ORDER, "").as_bytes()).unwrap();
    assert!(answer(&mut stream).0.starts_with("HTTP/1.1 201 "));
    let again = curl(&rig.broker, "/healthz", &["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]);
    assert!(again.status.success(), "{again:?}");
}

#[test]
fn a_request_can_be_the_last_one_before_the_ports_close() {
    for http in ["--http1.1", "--http2"] {
        let rig = Rig::with([Fault::new(Then::RefuseConnection { for_ms: 60_000 }).on("GET", "/v1/quotes/AAPL")]);
        assert!(curl(&rig.broker, "/v1/orders", &[http, "--data", ORDER]).status.success(), "{http}: not yet");
        let quote = curl(&rig.broker, "/v1/quotes/AAPL", &[http]);
        assert!(String::from_utf8_lossy(&quote.stdout).contains("190.5"), "{http}: {quote:?}");
        assert_eq!(rig.fired(), 1, "{http}");
        assert_eq!(curl(&rig.broker, "/v1/orders", &[http, "--data", ORDER]).status.code(), Some(7), "{http}");
        assert_eq!(rig.executed().len(), 1, "{http}");
    }
}

#[test]
fn ports_close_and_open_while_processes_are_being_started() {
    let rig = Rig::start();
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        let fired = (1..=50).all(|round| {
            rig.broker.script([Fault::new(Then::RefuseConnection { for_ms: 0 })]).unwrap();
            rig.broker.wait_until(PATIENCE, |now| now.fired.len() == round).is_ok()
        });
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(fired, "only {} times", rig.fired());
    });
    let again = curl(&rig.broker, "/healthz", &["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]);
    assert!(again.status.success(), "{again:?}");
}

#[test]
fn http2_is_offered_only_where_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = kybernis_broker::Settings { http2: false, ..kybernis_broker::Settings::new(folder.path().join("ca.pem")) };
    let broker = kybernis_broker::Broker::start(settings).unwrap();
    assert!(curl(&broker, "/healthz", &["--http2"]).status.success());
    assert_eq!(broker.requests()[0].protocol, kybernis_broker::Protocol::Http1);
}

#[test]
fn a_connection_is_reset_before_a_byte_of_it_is_read() {
    let rig = Rig::with([Fault::new(Then::ResetConnection)]);
    let mut stream = connect(rig.broker.http());
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((rig.fired(), rig.broker.requests().len()), (1, 0));
    assert!(curl(&rig.broker, "/v1/orders", &["--data", ORDER]).status.success());
}

#[test]
fn a_tls_handshake_fails_with_its_alert() {
    let rig = Rig::with([Fault::new(Then::TlsHandshakeFailure)]);
    let (bytes, end) = exchange(rig.broker.http(), &post("/v1/orders", ORDER, "Connection: close\r\n"));
    assert!(bytes.starts_with("HTTP/1.1 201 ") && end == End::Closed, "the port without TLS has no handshake: {bytes}");
    let out = curl(&rig.broker, "/v1/orders", &["--data", ORDER]);
    assert_eq!(out.status.code(), Some(35));
    assert!(String::from_utf8_lossy(&out.stderr).contains("handshake failure"), "{out:?}");
    assert_eq!((rig.fired(), rig.executed().len()), (1, 1));
    assert!(curl(&rig.broker, "/v1/orders", &["--data", ORDER]).status.success());
}

#[test]
fn every_name_of_the_broker_is_on_its_certificate() {
    let rig = Rig::start();
    let port = rig.broker.https().port();
    for host in ["localhost", "broker.localhost", "broker.example.com", "127.0.0.1", "[::1]"] {
        let to = format!("{host}:{port}:127.0.0.1:{port}");
        let url = format!("https://{host}:{port}/healthz");
        let out = std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--connect-to", &to, "--cacert"])
            .arg(rig.broker.ca_pem_path())
            .arg(url)
            .output()
            .unwrap();
        assert!(out.status.success(), "{host}: {out:?}");
    }
}

#[test]
fn a_broker_that_stops_is_gone() {
    let rig = Rig::start();
    let at = rig.broker.http();
    rig.broker.stop();
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}
