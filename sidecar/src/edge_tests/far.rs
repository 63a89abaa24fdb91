//! Far sides, whose every byte is scripted.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::tls::client::{ClientTls, Roots};

/// A certification authority of the far side, one for all tests.
pub(super) fn far_ca() -> &'static (rcgen::Certificate, rcgen::Issuer<'static, KeyPair>) {
    use std::sync::OnceLock;
    static CA: OnceLock<(rcgen::Certificate, rcgen::Issuer<'static, KeyPair>)> = OnceLock::new();
    CA.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Of another name than its leaves: a subject that is its own issuer is taken for self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "far CA");
        let certificate = params.self_signed(&key).unwrap();
        (certificate, rcgen::Issuer::new(params, key))
    })
}

pub(super) fn far_tls() -> ClientTls {
    let mut roots = Roots::none();
    roots.add_der(far_ca().0.der().clone()).unwrap();
    ClientTls::new(roots)
}

/// TLS for a far side called localhost and pay.test, speaking `alpn`.
pub(super) fn far_server(alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "pay.test".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &far_ca().1).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], der)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

/// A far side that runs `serve` for each connection, in order of arrival.
pub(super) async fn far_side<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(number, stream));
            number += 1;
        }
    });
    address
}

/// Reads one HTTP/1 head, and as many body bytes as its Content-Length says.
pub(super) async fn read_request<S>(stream: &mut S) -> io::Result<String>
where
    S: tokio::io::AsyncRead + Unpin,
{
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |digits| digits.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(head + &String::from_utf8_lossy(&body))
}

/// A far side that answers every request with `answer` and remembers what it got.
pub(super) async fn answering(answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&got);
    let address = far_side(move |_, mut stream| {
        let log = Arc::clone(&log);
        async move {
            while let Ok(request) = read_request(&mut stream).await {
                log.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, got)
}

/// A far side that says back what it was sent, over TLS, in the version that ALPN chose.
pub(super) async fn echoing(alpn: &'static [&'static [u8]]) -> (SocketAddr, Arc<Mutex<usize>>) {
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let acceptor = tokio_rustls::TlsAcceptor::from(far_server(alpn));
    let address = far_side(move |_, stream| {
        let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let Ok(tls) = acceptor.accept(stream).await else {
                return;
            };
            let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                *counted.lock().unwrap() += 1;
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let text = format!("{:?} {} {} ", head.version, head.method, head.uri.path());
                    let mut echo = text.into_bytes();
                    echo.extend_from_slice(&body);
                    Ok::<_, hyper::Error>(Response::new(Full::new(bytes::Bytes::from(echo))))
                }
            });
            let io = TokioIo::new(tls);
            let _ = if http2 {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
            } else {
                hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
            };
        }
    })
    .await;
    (address, count)
}
