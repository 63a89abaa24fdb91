//! An API server of ours: as much of Kubernetes' API as the webhook and the operator speak. What bears on their speed is as it is in a
//! cluster: TLS, pages, watches, metadata alone for whoever asks for no more, versions, generations, and a disk under every write.

mod place;
mod store;

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::stream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use self::place::{Place, Query, Selection};
use self::store::{Failure, Store, Write};
use crate::process::{announce, until_orphaned};
use crate::tls;

/// What a write takes longer than its own time: a sync of etcd's disk, and of the others' where there are three.
pub(crate) const DISK: Duration = Duration::from_millis(4);
/// The largest request, as of Kubernetes' own.
const BODY_MAX: usize = 3 * 1024 * 1024;
/// How long a watch lasts whose client does not say.
const WATCH: Duration = Duration::from_secs(1800);

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until its parent goes.
pub(crate) async fn serve(dir: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let acceptor = TlsAcceptor::from(tls::server(dir, &[b"http/1.1"])?);
    announce(&[listener.local_addr()?]);
    let server = Server::default();
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, acceptor.clone(), server.clone()));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = until_orphaned() => {}
    }
    Ok(())
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, server: Server) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| server.clone().answer(request));
    // A watch's client goes away whenever it likes.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<Store>>);

impl Server {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let is_get = request.method() == Method::GET;
        let answer = if is_get { self.read(&request) } else { self.write(request).await };
        Ok(answer.unwrap_or_else(|failure| told(failure.code(), &failure.status())))
    }

    fn read<B>(&self, request: &Request<B>) -> Result<Response<Answer>, Failure> {
        let place = Place::read(request.uri().path()).ok_or(Failure::NotFound)?;
        let query = Query::read(request.uri().query().unwrap_or_default()).map_err(|_| Failure::BadRequest)?;
        // `application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1`
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let view = if accept.contains("as=PartialObjectMetadata") { View::Metadata } else { View::Whole };
        if query.watch {
            return Ok(self.watch(place, query, view));
        }
        if place.name.is_some() {
            return Ok(told(200, &view.of(&*self.store().get(&place)?)));
        }
        let page = self.store().list(&place, &query.selection, query.limit, query.after.as_deref())?;
        let items: Vec<Value> = page.objects.iter().map(|object| view.of(object)).collect();
        let metadata = json!({"resourceVersion": page.version.to_string(), "continue": page.next.unwrap_or_default()});
        let (api_version, kind) = view.list(&place);
        Ok(told(200, &json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items})))
    }

    async fn write(&self, request: Request<Incoming>) -> Result<Response<Answer>, Failure> {
        let place = Place::read(request.uri().path()).ok_or(Failure::NotFound)?;
        let (head, body) = request.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let write = match head.method {
            Method::POST => Write::Create,
            Method::PUT => Write::Replace,
            Method::PATCH if kind.starts_with("application/apply-patch") => Write::Apply,
            Method::PATCH if kind.starts_with("application/merge-patch") => Write::Merge,
            _ => return Err(Failure::MethodNotAllowed),
        };
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|_| Failure::BadRequest)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).map_err(|_| Failure::BadRequest)?;
        tokio::time::sleep(DISK).await;
        let written = self.store().write(write, &place, &body)?;
        Ok(told(if write == Write::Create { 201 } else { 200 }, &written))
    }

    fn watch(&self, place: Place, query: Query, view: View) -> Response<Answer> {
        let changed = self.store().subscribe(&place.collection);
        let ends = Instant::now() + query.timeout.map_or(WATCH, Duration::from_secs);
        let (since, selection) = (query.since, query.selection);
        let watch = Watch { server: self.clone(), changed, place, selection, view, since, ends, is_over: false };
        let lines = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|lines| (Ok(Frame::data(lines)), watch)) });
        respond(200, StreamBody::new(lines).boxed_unsync())
    }
}

/// One that is open.
struct Watch {
    server: Server,
    changed: watch::Receiver<u64>,
    place: Place,
    selection: Selection,
    view: View,
    /// What it has been told.
    since: u64,
    ends: Instant,
    is_over: bool,
}

impl Watch {
    /// What it is told next, a line for each change.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            self.changed.mark_unchanged();
            let changes = self.server.store().changes(&self.place.collection, self.since);
            let changes = match changes {
                Ok(changes) => changes,
                Err(failure) => {
                    self.is_over = true;
                    return Some(line("ERROR", &failure.status()));
                }
            };
            self.since = changes.last().map_or(self.since, |change| change.version);
            let namespace = self.place.namespace.as_deref();
            let counts = |object: &Value| {
                namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace) && self.selection.takes(object)
            };
            let lines: Vec<Bytes> = changes
                .iter()
                .filter(|change| counts(&change.object))
                .map(|change| line(change.kind, &self.view.of(&change.object)))
                .collect();
            if !lines.is_empty() {
                return Some(lines.concat().into());
            }
            self.is_over = tokio::time::timeout_at(self.ends, self.changed.changed()).await.is_err();
        }
        None
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// How much of an object somebody wants.
#[derive(Clone, Copy, Debug)]
enum View {
    Whole,
    Metadata,
}

impl View {
    fn of(self, object: &Value) -> Value {
        match self {
            Self::Whole => object.clone(),
            Self::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
            }
        }
    }

    fn list(self, place: &Place) -> (&str, &'static str) {
        match self {
            Self::Whole => (place.api_version(), "List"),
            Self::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
        }
    }
}

fn told(code: u16, answer: &Value) -> Response<Answer> {
    respond(code, Full::new(Bytes::from(answer.to_string())).boxed_unsync())
}

fn respond(code: u16, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
