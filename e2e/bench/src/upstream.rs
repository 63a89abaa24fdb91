//! The far side: answers at once, from memory.
//!
//! `GET /items/N` gives a kilobyte of JSON, `GET /stream/N` gives N bytes, a POST is read to its end and acknowledged.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::body::Repeated;
use crate::process::{announce, until_orphaned};
use crate::tls;

/// The answer to a read.
const ITEM_BYTES: usize = 1024;

/// Serves in plain text and over TLS until its parent goes.
pub(crate) async fn serve(dir: &Path) -> Result<()> {
    let plain = TcpListener::bind("127.0.0.1:0").await?;
    let secure = TcpListener::bind("127.0.0.1:0").await?;
    // HTTP/1.1 alone, so that both the baseline and the sidecar pool connections of one kind.
    let acceptor = TlsAcceptor::from(tls::server(dir, &[b"http/1.1"])?);
    announce(&[plain.local_addr()?, secure.local_addr()?]);
    let item = item();
    let in_plain_text = async {
        while let Ok((stream, _)) = plain.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(stream, item.clone()));
        }
    };
    let over_tls = async {
        while let Ok((stream, _)) = secure.accept().await {
            tokio::spawn(handshake(acceptor.clone(), stream, item.clone()));
        }
    };
    tokio::select! {
        () = in_plain_text => {}
        () = over_tls => {}
        () = until_orphaned() => {}
    }
    Ok(())
}

fn item() -> Bytes {
    let mut text = r#"{"id":"item-1","name":""#.to_owned();
    text.push_str(&"n".repeat(ITEM_BYTES - text.len() - 2));
    text.push_str("\"}");
    text.into()
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, item: Bytes) {
    let _ = stream.set_nodelay(true);
    if let Ok(stream) = acceptor.accept(stream).await {
        connection(stream, item).await;
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, item: Bytes) {
    let item = Arc::new(item);
    let service = service_fn(move |request| answer(request, Arc::clone(&item)));
    // A client that goes away in mid-answer is no business of the far side's.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, item: Arc<Bytes>) -> Result<Response<Repeated>, Infallible> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, path) if path.starts_with("/items/") => Response::new(Repeated::once(Bytes::clone(&item))),
        (&Method::GET, path) => match path.strip_prefix("/stream/").and_then(|length| length.parse().ok()) {
            Some(length) => Response::new(Repeated::zeros(length)),
            None => status(StatusCode::NOT_FOUND),
        },
        (&Method::POST, _) => {
            let mut body = request.into_body();
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break status(StatusCode::BAD_REQUEST),
                    None => break Response::new(Repeated::once(Bytes::from_static(br#"{"accepted":true}"#))),
                }
            }
        }
        (_, _) => status(StatusCode::METHOD_NOT_ALLOWED),
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn status(status: StatusCode) -> Response<Repeated> {
    let mut response = Response::new(Repeated::nothing());
    *response.status_mut() = status;
    response
}
