//! An agent's client, one connection for each call unless a test wants more.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A request to be made through the proxy.
#[derive(Clone, Debug)]
pub struct Call {
    method: &'static str,
    /// A path at the test's far side, or a whole URL.
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Call {
    /// A POST of JSON.
    pub fn post(path: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { method: "POST", path: path.to_owned(), headers, body: body.to_owned() }
    }

    /// A GET.
    pub fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: Vec::new(), body: String::new() }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As a gRPC client labels its calls.
    #[must_use]
    pub fn grpc(mut self) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        self.header("content-type", "application/grpc")
    }

    /// With another method.
    #[must_use]
    pub const fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn request(&self, far: SocketAddr) -> Request<Full<Bytes>> {
        let url = if self.path.starts_with('/') { format!("http://{far}{}", self.path) } else { self.path.clone() };
        let host = url.split('/').nth(2).unwrap_or_default().to_owned();
        let mut request = Request::builder().method(self.method).uri(url).header("host", host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(self.body.clone()))).unwrap_or_else(|error| panic!("a test's request: {error}"))
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, as far as it came.
    pub body: String,
    /// The trailers behind it.
    pub trailers: HeaderMap,
    /// The message was broken off.
    pub broken: bool,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The problem document's code.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// One connection of the agent's to its proxy.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    far: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Connects to the proxy.
    pub async fn open(proxy: SocketAddr, far: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).await.unwrap_or_else(|error| panic!("the proxy does not listen: {error}"));
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap_or_else(|error| panic!("no HTTP: {error}"));
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, far, task }
    }

    /// Makes a call and reads its answer to the end.
    pub async fn call(&mut self, call: &Call) -> Answer {
        let response = self.sender.send_request(call.request(self.far)).await;
        let response = response.unwrap_or_else(|error| panic!("the proxy gave no answer: {error}"));
        let (head, body) = response.into_parts();
        let (body, trailers, broken) = read(body).await;
        Answer { status: head.status.as_u16(), headers: head.headers, body, trailers, broken }
    }

    /// Makes a call and goes away without waiting for its answer, once `sent` is over.
    pub async fn call_and_leave(mut self, call: &Call, sent: impl Future<Output = ()>) {
        let response = self.sender.send_request(call.request(self.far));
        tokio::select! {
            _ = response => {}
            () = sent => {}
        }
        self.task.abort();
    }

    /// Makes a call and hands out the answer before its body.
    pub async fn head_of(&mut self, call: &Call) -> http::Response<hyper::body::Incoming> {
        let response = self.sender.send_request(call.request(self.far)).await;
        response.unwrap_or_else(|error| panic!("the proxy gave no answer: {error}"))
    }
}

async fn read(mut body: hyper::body::Incoming) -> (String, HeaderMap, bool) {
    let (mut bytes, mut trailers, mut broken) = (Vec::new(), HeaderMap::new(), false);
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            Err(_) => broken = true,
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned(), trailers, broken)
}
