//! TLS of the agent, terminated with our own leaf, in both HTTP versions, by real clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::far::{echoing, far_ca, far_side};
use super::rig::{Rig, agent_tls, connected, curl};
use crate::arrival::TlsTreatment;

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

#[tokio::test]
async fn curl_is_intercepted_in_http1_and_http2_whatever_the_far_side_speaks() {
    let rig = Rig::start().await;
    let proxy = format!("http://{}", rig.proxy);
    let ca = rig.ca_file();
    for (far_speaks, upstream_version) in [(BOTH, "HTTP/2.0"), (&BOTH[1..], "HTTP/1.1")] {
        let (far, _) = echoing(far_speaks).await;
        for (flag, agent_version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let url = format!("https://pay.test:{}/orders", far.port());
            let (code, text) = curl(&[
                flag,
                "--proxy",
                &proxy,
                "--cacert",
                ca.to_str().unwrap(),
                "--write-out",
                " over %{http_version}",
                "--data",
                "buy",
                &url,
                "--next",
                flag,
                "--silent",
                "--proxy",
                &proxy,
                "--cacert",
                ca.to_str().unwrap(),
                &url,
            ])
            .await;
            assert_eq!(code, 0, "{text}");
            let expect = format!("{upstream_version} POST /orders buy over {agent_version}{upstream_version} GET /orders ");
            assert_eq!(text, expect);
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_our_ca_sends_nothing() {
    let rig = Rig::start().await;
    let (far, count) = echoing(BOTH).await;
    let url = format!("https://pay.test:{}/", far.port());
    let (code, text) = curl(&["--proxy", &format!("http://{}", rig.proxy), &url]).await;
    assert_eq!(code, 60, "{text}");
    assert_eq!(*count.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_far_side_whose_certificate_is_not_trusted_gets_no_request() {
    let rig = Rig::start().await;
    let (far, count) = echoing(BOTH).await;
    // Its certificate names localhost and pay.test alone.
    let url = format!("https://127.0.0.1:{}/", far.port());
    let ca = rig.ca_file();
    let proxy = format!("http://{}", rig.proxy);
    // On HTTP/2 the answer comes before the request's body has been read, and must not lose against the stream's reset.
    for version in ["--http1.1", "--http2"] {
        for _ in 0..5 {
            let (code, text) =
                curl(&[version, "--proxy", &proxy, "--cacert", ca.to_str().unwrap(), "--write-out", " %{http_code}", "--data", "x", &url])
                    .await;
            assert_eq!(code, 0, "{version}: {text}");
            assert!(text.ends_with(" 502"), "{version}: {text}");
            assert!(text.contains("TLS handshake failed"), "{version}: {text}");
        }
    }
    assert_eq!(*count.lock().unwrap(), 0);
}

#[tokio::test]
async fn the_authority_is_the_same_after_a_restart_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let rig = Rig::start().await;
    let folder = &rig.folder.0;
    let again = crate::tls::authority::Authority::load_or_create(folder).unwrap();
    assert_eq!(again.pem(), std::fs::read_to_string(rig.ca_file()).unwrap());
    let key = folder.join("ca.key");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = crate::tls::authority::Authority::load_or_create(folder);
    assert!(exposed.unwrap_err().to_string().contains("must be 600"));
}

#[tokio::test]
async fn connect_sni_and_host_must_name_one_destination() {
    let rig = Rig::start().await;
    let (far, count) = echoing(BOTH).await;
    let port = far.port();
    for (connect, sni, host) in [
        ("pay.test", "other.test", "other.test"),
        ("pay.test", "pay.test", "other.test"),
        ("pay.test", "localhost", "localhost"),
        ("127.0.0.1", "other.test", "other.test"),
        ("127.0.0.1", "unknown.test", "unknown.test"),
    ] {
        let stream = connected(&rig, &format!("{connect}:{port}")).await;
        let mut tls = agent_tls(&rig, stream, sni, &[b"http/1.1"]).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = tls.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{connect} {sni} {host}: {answer}");
    }
    assert_eq!(*count.lock().unwrap(), 0);

    // An address that the name stands for is no disagreement.
    let stream = connected(&rig, &format!("127.0.0.1:{port}")).await;
    let mut tls = agent_tls(&rig, stream, "pay.test", &[b"http/1.1"]).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: pay.test:{port}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tls.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn tls_that_is_passed_on_unread_shows_the_far_sides_own_certificate() {
    let rig = Rig::with(TlsTreatment::PassThrough).await;
    let (far, count) = echoing(BOTH).await;
    let ca = rig.folder.0.join("far.crt");
    std::fs::write(&ca, far_ca().0.pem()).unwrap();
    let url = format!("https://pay.test:{}/", far.port());
    let proxy = format!("http://{}", rig.proxy);
    let (code, text) = curl(&["--proxy", &proxy, "--cacert", ca.to_str().unwrap(), &url]).await;
    assert_eq!((code, text.as_str()), (0, "HTTP/2.0 GET / "));
    assert_eq!(*count.lock().unwrap(), 1);
}

#[tokio::test]
async fn python_reaches_through_the_tunnel_with_its_own_tls() {
    let rig = Rig::start().await;
    let (far, _) = echoing(BOTH).await;
    let script = format!(
        "import http.client, ssl\n\
         context = ssl.create_default_context(cafile='{ca}')\n\
         c = http.client.HTTPSConnection('127.0.0.1', {proxy}, context=context)\n\
         c.set_tunnel('pay.test', {far})\n\
         for _ in range(2):\n\
         \x20   c.request('POST', '/orders', body=b'buy')\n\
         \x20   print(c.getresponse().read().decode(), end=';')\n",
        ca = rig.ca_file().display(),
        proxy = rig.proxy.port(),
        far = far.port(),
    );
    let output = tokio::process::Command::new("python3").args(["-c", &script]).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expect = "HTTP/2.0 POST /orders buy;HTTP/2.0 POST /orders buy;";
    assert_eq!(text, expect, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn http2_without_tls_is_understood_by_prior_knowledge() {
    let rig = Rig::start().await;
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let far = far_side(move |_, stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/grpc");
                counted.fetch_add(1, Ordering::SeqCst);
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                stream.send_data(bytes::Bytes::from_static(b"ok"), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                stream.send_trailers(trailers).unwrap();
            }
        }
    })
    .await;
    let stream = connected(&rig, &format!("localhost:{}", far.port())).await;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://localhost:{}/grpc", far.port());
    let request = http::Request::post(uri).body(()).unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(b"hello"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let data = body.data().await.unwrap().unwrap();
    assert_eq!(data, "ok");
    body.flow_control().release_capacity(2).unwrap();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(served.load(Ordering::SeqCst), 1);
}
