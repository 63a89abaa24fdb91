//! The listening sockets: they accept, and they can really be closed, so that the kernel itself refuses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::desk::Desk;
use crate::fault::{Ending, Fault, Then};
use crate::wire::Wire;
use crate::{http1, http2};

/// Connections that the kernel holds for us.
const BACKLOG: i32 = 1024;
/// The alert of RFC 8446, 6.2: fatal (2), handshake_failure (40), in a record of its own.
const HANDSHAKE_FAILURE: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
/// What every HTTP/2 connection begins with (RFC 9113, 3.4); no HTTP/1 method begins so.
const HTTP2_BEGINS: &[u8] = b"PRI";

/// A socket bound to `address`, not listening yet: connections to it are refused.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Both ports.
pub(crate) struct Doors {
    pub(crate) https: TcpListener,
    pub(crate) http: TcpListener,
    pub(crate) tls: TlsAcceptor,
}

/// Opens a bound socket's door. Needs the runtime's context.
pub(crate) fn open(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the runtime ends.
pub(crate) async fn keep(mut doors: Doors, desk: Arc<Desk>) {
    loop {
        if let Some((fault, for_)) = desk.refusal() {
            match refuse(doors, fault, for_, &desk).await {
                Ok(reopened) => doors = reopened,
                Err(error) => {
                    // There is no broker any more, and whoever waits for it should know why.
                    eprintln!("the broker's ports could not be closed and opened again: {error}");
                    return;
                }
            }
            continue;
        }
        tokio::select! {
            accepted = doors.https.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(serve(stream, Some(doors.tls.clone()), Arc::clone(&desk)));
                }
            }
            accepted = doors.http.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(serve(stream, None, Arc::clone(&desk)));
                }
            }
            () = desk.scripted() => {}
        }
    }
}

/// Closes both doors, makes sure that they are closed, and opens them again when it is over.
async fn refuse(doors: Doors, fault: Fault, for_: Duration, desk: &Desk) -> io::Result<Doors> {
    let mut released = desk.releases();
    let (https_at, http_at) = (doors.https.local_addr()?, doors.http.local_addr()?);
    let Doors { https, http, tls } = doors;
    // Closing is not enough: a process that is being started holds every socket of ours until its exec.
    SockRef::from(&https).shutdown(std::net::Shutdown::Both)?;
    SockRef::from(&http).shutdown(std::net::Shutdown::Both)?;
    drop((https, http));
    // Bound but not listening: nobody else gets the ports meanwhile.
    let (https, http) = (bind(https_at)?, bind(http_at)?);
    for address in [https_at, http_at] {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(io::Error::other(format!("{address} is still open"))),
        }
    }
    desk.refused(fault);
    tokio::select! {
        () = tokio::time::sleep(for_) => {}
        _ = released.changed() => {}
    }
    Ok(Doors { https: open(https)?, http: open(http)?, tls })
}

async fn serve(mut stream: TcpStream, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let (number, fault) = desk.connected(tls.is_some());
    match fault {
        Some(Then::ResetConnection) => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        Some(Then::TlsHandshakeFailure) => {
            if refuse_handshake(&mut stream).await.is_ok() {
                Wire::plain(stream).end(Ending::Close).await;
            }
            return;
        }
        _ => {}
    }
    // Small writes are the point of half answers.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        let mut wire = Wire::plain(stream);
        match wire.look(HTTP2_BEGINS.len()).await {
            Ok(first) if first.starts_with(HTTP2_BEGINS) => http2::serve(wire, number, desk).await,
            Ok(_) => http1::serve(wire, number, desk).await,
            Err(_) => {}
        }
        return;
    };
    let Ok(stream) = tls.accept(stream).await else { return };
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let wire = Wire::tls(stream);
    if speaks_http2 {
        http2::serve(wire, number, desk).await;
    } else {
        http1::serve(wire, number, desk).await;
    }
}

/// Reads the ClientHello's record, then refuses it.
async fn refuse_handshake(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut record).await?;
    stream.write_all(&HANDSHAKE_FAILURE).await
}
