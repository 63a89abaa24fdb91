//! A far side over plain HTTP/1.1 whose every answer is scripted. It executes what it is told to execute, and counts.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Between half of a body, or a body that its close ends, and the close: long enough that the head is on its way to the
/// caller by then.
const BEFORE_CLOSE: Duration = Duration::from_millis(200);

/// What the far side does with one request.
#[derive(Clone, Debug)]
pub enum Then {
    /// Executes and answers.
    Answer(u16, String),
    /// Executes and answers with these further header lines.
    AnswerWith(u16, String, String),
    /// Does not execute, and answers.
    Refuse(u16, String),
    /// Executes and closes without an answer.
    ExecuteAndClose,
    /// Does not execute, and closes.
    Close,
    /// Executes and resets.
    ExecuteAndReset,
    /// Executes, announces a length, sends half of the body and closes.
    Half(String),
    /// Executes, and answers once the gate is opened.
    WhenOpened(u16, String),
    /// Executes, and sends the body chunk by chunk, each when the gate is opened once more; then the end.
    Chunks(Vec<String>),
    /// Executes, and answers after this long.
    After(Duration, u16, String),
    /// Executes, and answers with exactly these bytes, then closes.
    Raw(String),
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// `POST /v1/orders`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Whether it was executed.
    pub executed: bool,
}

impl Received {
    /// The one value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Then>,
    received: Vec<Received>,
}

/// The far side. Without a script it executes everything and answers 200 with a number that counts up.
#[derive(Clone, Debug)]
pub struct FarSide {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<watch::Sender<u64>>,
    arrivals: Arc<watch::Sender<usize>>,
}

impl FarSide {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let far = Self {
            address: listener.local_addr()?,
            state: Arc::default(),
            gate: Arc::new(watch::channel(0).0),
            arrivals: Arc::new(watch::channel(0).0),
        };
        let serving = far.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let far = serving.clone();
                tokio::spawn(async move {
                    // A caller that breaks off is part of the tests.
                    let _ = far.connection(stream).await;
                });
            }
        });
        Ok(far)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next requests meet, in order.
    pub fn script(&self, then: impl IntoIterator<Item = Then>) {
        self.state().script.extend(then);
    }

    /// Every request, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.state().received.clone()
    }

    /// Requests that were executed.
    pub fn executed(&self) -> usize {
        self.state().received.iter().filter(|one| one.executed).count()
    }

    /// Lets what waits for the gate go on by one step.
    pub fn open(&self) {
        self.gate.send_modify(|opened| *opened += 1);
    }

    /// Waits until `count` requests have arrived in all.
    pub async fn arrived(&self, count: usize) {
        let mut arrivals = self.arrivals.subscribe();
        let arrived = tokio::time::timeout(crate::rig::PATIENCE, arrivals.wait_for(|arrived| *arrived >= count)).await;
        assert!(arrived.is_ok(), "request {count} never arrived");
    }

    async fn opened(&self, gate: &mut watch::Receiver<u64>) {
        // The sender lives as long as this value.
        let _ = gate.changed().await;
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut held = Vec::new();
        while let Some((mut received, keep)) = read_request(&mut stream, &mut held).await? {
            let mut gate = self.gate.subscribe();
            let then = {
                let mut state = self.state();
                let count = state.received.len() + 1;
                let then = state.script.pop_front().unwrap_or_else(|| Then::Answer(200, format!("{{\"order\":{count}}}")));
                received.executed = !matches!(then, Then::Refuse(..) | Then::Close);
                state.received.push(received);
                self.arrivals.send_replace(count);
                then
            };
            let over = self.answer(&mut stream, &mut gate, then).await?;
            if over || !keep {
                return stream.shutdown().await;
            }
        }
        Ok(())
    }

    /// Returns whether the connection is over.
    async fn answer(&self, stream: &mut TcpStream, gate: &mut watch::Receiver<u64>, then: Then) -> io::Result<bool> {
        match then {
            Then::Answer(status, body) | Then::Refuse(status, body) => stream.write_all(whole(status, "", &body).as_bytes()).await?,
            Then::AnswerWith(status, lines, body) => stream.write_all(whole(status, &lines, &body).as_bytes()).await?,
            Then::ExecuteAndClose | Then::Close => return Ok(true),
            Then::ExecuteAndReset => {
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Then::Half(body) => {
                let text = whole(200, "", &body);
                stream.write_all(&text.as_bytes()[..text.len() - body.len().div_ceil(2)]).await?;
                tokio::time::sleep(BEFORE_CLOSE).await;
                return Ok(true);
            }
            Then::WhenOpened(status, body) => {
                self.opened(gate).await;
                stream.write_all(whole(status, "", &body).as_bytes()).await?;
            }
            Then::Chunks(chunks) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                for chunk in chunks {
                    self.opened(gate).await;
                    stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await?;
                }
                self.opened(gate).await;
                stream.write_all(b"0\r\n\r\n").await?;
            }
            Then::After(wait, status, body) => {
                tokio::time::sleep(wait).await;
                stream.write_all(whole(status, "", &body).as_bytes()).await?;
            }
            Then::Raw(text) => {
                stream.write_all(text.as_bytes()).await?;
                tokio::time::sleep(BEFORE_CLOSE).await;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn whole(status: u16, lines: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{lines}content-length: {}\r\n\r\n{body}", body.len())
}

/// One request with its body, and whether the connection goes on; `None` at the connection's end.
async fn read_request(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<Option<(Received, bool)>> {
    loop {
        if let Some((received, used)) = parse(held)? {
            held.drain(..used);
            let keep = received.header("connection") != Some("close");
            return Ok(Some((received, keep)));
        }
        let mut more = [0; 16 * 1024];
        match stream.read(&mut more).await? {
            0 => return Ok(None),
            count => held.extend_from_slice(&more[..count]),
        }
    }
}

fn parse(held: &[u8]) -> io::Result<Option<(Received, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(held).map_err(io::Error::other)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(head) => head,
    };
    let line = format!("{} {}", request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let pair = |field: &httparse::Header<'_>| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned());
    let headers: Vec<_> = request.headers.iter().map(pair).collect();
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let rest = &held[head..];
    let (body, used) = match (value("content-length"), value("transfer-encoding")) {
        (Some(length), _) => {
            let length: usize = length.parse().map_err(io::Error::other)?;
            if rest.len() < length {
                return Ok(None);
            }
            (rest[..length].to_vec(), length)
        }
        (None, Some(_)) => match dechunk(rest) {
            Some(done) => done,
            None => return Ok(None),
        },
        (None, None) => (Vec::new(), 0),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some((Received { line, headers, body, executed: false }, head + used)))
}

fn dechunk(mut rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let whole = rest.len();
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        let chunk = rest.get(end + 2..end + 2 + length + 2)?;
        body.extend_from_slice(&chunk[..length]);
        rest = &rest[end + 2 + length + 2..];
        if length == 0 {
            return Some((body, whole - rest.len()));
        }
    }
}
