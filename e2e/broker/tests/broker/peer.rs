//! What every test here stands on: a broker, an order, and a peer that takes whatever comes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use kybernis_broker::{Broker, Fault, Settings};
use tempfile::TempDir;

/// Nothing here takes longer, unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const ORDER: &str = r#"{"client_order_id":"c-1","symbol":"AAPL","side":"buy","qty":5,"price":190.5}"#;

/// A broker, and the folder of its certificate.
pub(crate) struct Rig {
    pub(crate) broker: Broker,
    _folder: TempDir,
}

impl Rig {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(Settings::new(folder.path().join("ca.pem"))).unwrap();
        Self { broker, _folder: folder }
    }

    pub(crate) fn with(faults: impl IntoIterator<Item = Fault>) -> Self {
        let rig = Self::start();
        rig.broker.script(faults).unwrap();
        rig
    }

    /// Subjects of what was executed.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.broker.executed().into_iter().map(|executed| executed.subject).collect()
    }

    pub(crate) fn fired(&self) -> usize {
        self.broker.fired().len()
    }
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn post(path: &str, body: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer t\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer t\r\n\r\n")
}

/// Everything up to the end of the connection.
pub(crate) fn rest(stream: &mut TcpStream) -> (String, End) {
    let mut bytes = Vec::new();
    let end = match stream.read_to_end(&mut bytes) {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&bytes)),
    };
    (String::from_utf8(bytes).unwrap(), end)
}

/// One whole answer with a Content-Length: its head and its body.
pub(crate) fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("after {:?}: {error}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut body = vec![0; length(&head)];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

pub(crate) fn length(head: &str) -> usize {
    head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap()
}

/// Sends and takes everything that comes.
pub(crate) fn exchange(to: SocketAddr, request: &str) -> (String, End) {
    let mut stream = connect(to);
    stream.write_all(request.as_bytes()).unwrap();
    rest(&mut stream)
}

/// curl against the port with TLS, trusting the broker's authority.
pub(crate) fn curl(broker: &Broker, path: &str, args: &[&str]) -> Output {
    let url = format!("https://localhost:{}{path}", broker.https().port());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "--cacert"]).arg(broker.ca_pem_path());
    command.args(["--header", "Authorization: Bearer t"]).args(args).arg(url);
    command.output().unwrap()
}
