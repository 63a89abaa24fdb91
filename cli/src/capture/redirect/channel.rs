//! What supervisor and helper say to each other: the helper reports each step and hands out its sockets, the supervisor
//! tells it what to become.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Step, Unsupported};

const UNSHARED: u8 = b'U';
const MAPPED: u8 = b'M';
const READY: u8 = b'R';
const REFUSED: u8 = b'X';
const GO: u8 = b'G';

/// Three sockets for each of two address families.
const SOCKETS: usize = 6;
/// Linux takes at most 2 MiB of arguments and environment by default, 6 MiB ever; more than that exec would refuse.
const MESSAGE_BYTES: u32 = 8 * 1024 * 1024;

/// A socket without a file, so that no folder's path can be too long for it; peers prove themselves by their pid.
pub(super) struct Rendezvous(UnixListener);

impl Rendezvous {
    pub(super) fn bind() -> io::Result<(Self, OsString)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kybernis-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok((Self(listener), name.into()))
    }

    /// Waits for the helper to connect, or to end.
    pub(super) fn accept(self, helper: u32) -> io::Result<Channel> {
        let pid = i32::try_from(helper).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let alive = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let mut watched = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&alive, PollFlags::IN)];
            poll(&mut watched, None)?;
            let [connected, ended] = watched.map(|fd| !fd.revents().is_empty());
            if connected {
                let (stream, _) = self.0.accept()?;
                if socket_peercred(&stream)?.pid == pid {
                    return Ok(Channel(stream));
                }
            } else if ended {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the helper ended before it connected"));
            }
        }
    }
}

/// A connected pair's end.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// What the helper becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Go {
    pub(super) command: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
}

// The supervisor's side.
impl Channel {
    pub(super) fn expect_unshared(&mut self) -> Result<(), Unsupported> {
        self.expect(UNSHARED).map(drop)
    }

    pub(super) fn send_mapped(&mut self) -> io::Result<()> {
        self.0.write_all(&[MAPPED])
    }

    pub(super) fn expect_ready(&mut self) -> Result<Vec<OwnedFd>, Unsupported> {
        self.expect(READY)
    }

    pub(super) fn send_go(&mut self, command: &[OsString], env: &[(OsString, OsString)]) -> io::Result<()> {
        let mut body = Vec::new();
        let count = u32::try_from(command.len()).map_err(io::Error::other)?;
        body.extend(count.to_ne_bytes());
        let pairs = env.iter().flat_map(|(name, value)| [name, value]);
        for item in command.iter().chain(pairs) {
            body.extend(item.as_bytes());
            body.push(0);
        }
        self.send_body(GO, &body)
    }

    fn expect(&mut self, expected: u8) -> Result<Vec<OwnedFd>, Unsupported> {
        let failed = |error: io::Error| Unsupported::io(Step::Helper, &error);
        let (kind, sockets) = self.receive_kind().map_err(failed)?;
        if kind == REFUSED {
            let body = self.receive_body().map_err(failed)?;
            return Err(serde_json::from_slice(&body).unwrap_or_else(|error| failed(error.into())));
        }
        if kind != expected {
            return Err(failed(out_of_turn()));
        }
        Ok(sockets)
    }

    /// One byte with the sockets that ride on it.
    fn receive_kind(&mut self) -> io::Result<(u8, Vec<OwnedFd>)> {
        let mut kind = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(&mut kind)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if read.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the helper ended"));
        }
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        Ok((kind[0], sockets))
    }
}

// The helper's side.
impl Channel {
    /// Connects to the supervisor, which is our parent.
    pub(super) fn connect(name: &OsStr) -> io::Result<Self> {
        let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
        if Some(socket_peercred(&stream)?.pid) != rustix::process::getppid() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other end is not the supervisor"));
        }
        Ok(Self(stream))
    }

    pub(super) fn send_unshared(&mut self) -> io::Result<()> {
        self.0.write_all(&[UNSHARED])
    }

    pub(super) fn expect_mapped(&mut self) -> io::Result<()> {
        self.expect_byte(MAPPED)
    }

    pub(super) fn send_ready(&mut self, sockets: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<_> = sockets.iter().map(OwnedFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("more sockets than a message holds"));
        }
        sendmsg(self.0.as_fd(), &[IoSlice::new(&[READY])], &mut control, SendFlags::empty())?;
        Ok(())
    }

    pub(super) fn send_refused(&mut self, why: &Unsupported) -> io::Result<()> {
        self.send_body(REFUSED, &serde_json::to_vec(why)?)
    }

    pub(super) fn expect_go(&mut self) -> io::Result<Go> {
        self.expect_byte(GO)?;
        parse_go(&self.receive_body()?).ok_or_else(out_of_turn)
    }

    fn expect_byte(&mut self, expected: u8) -> io::Result<()> {
        let mut kind = [0];
        self.0.read_exact(&mut kind)?;
        if kind[0] == expected { Ok(()) } else { Err(out_of_turn()) }
    }
}

// Both sides.
impl Channel {
    fn send_body(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= MESSAGE_BYTES);
        let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
        self.0.write_all(&[kind])?;
        self.0.write_all(&length.to_ne_bytes())?;
        self.0.write_all(body)
    }

    fn receive_body(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = u32::from_ne_bytes(length);
        if length > MESSAGE_BYTES {
            return Err(out_of_turn());
        }
        let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.0.read_exact(&mut body)?;
        Ok(body)
    }
}

fn out_of_turn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "supervisor and helper do not understand each other")
}

fn parse_go(body: &[u8]) -> Option<Go> {
    let (count, rest) = body.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_ne_bytes(*count)).ok()?;
    let rest = if rest.is_empty() { None } else { Some(rest.strip_suffix(&[0])?) };
    let mut items: Vec<OsString> =
        rest.into_iter().flat_map(|rest| rest.split(|byte| *byte == 0)).map(|item| OsString::from_vec(item.to_vec())).collect();
    if count > items.len() {
        return None;
    }
    let mut pairs = items.split_off(count).into_iter();
    let mut env = Vec::new();
    while let Some(name) = pairs.next() {
        env.push((name, pairs.next()?));
    }
    Some(Go { command: items, env })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel(one), Channel(other))
    }

    #[test]
    fn command_and_environment_arrive_byte_for_byte() {
        let (mut supervisor, mut helper) = pair();
        let command = vec![OsString::from("echo"), OsString::new(), OsString::from_vec(vec![0xff, b' '])];
        let env = vec![(OsString::from("A"), OsString::from("b=c")), (OsString::from("EMPTY"), OsString::new())];
        supervisor.send_go(&command, &env).unwrap();
        assert_eq!(helper.expect_go().unwrap(), Go { command, env });
    }

    #[test]
    fn a_refusal_arrives_as_it_was_said() {
        let (mut supervisor, mut helper) = pair();
        helper.send_refused(&Unsupported::NftMissing).unwrap();
        assert_eq!(supervisor.expect_ready().unwrap_err(), Unsupported::NftMissing);
    }

    #[test]
    fn sockets_ride_on_ready() {
        let (mut supervisor, mut helper) = pair();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        helper.send_ready(&[listener.into()]).unwrap();
        let fd = supervisor.expect_ready().unwrap().pop().unwrap();
        assert_eq!(std::net::TcpListener::from(fd).local_addr().unwrap(), address);
    }

    #[test]
    fn a_helper_that_ends_is_noticed() {
        let (mut supervisor, helper) = pair();
        drop(helper);
        let said = supervisor.expect_unshared().unwrap_err().to_string();
        assert!(said.contains("the helper ended"), "{said}");
    }

    #[test]
    fn an_odd_environment_is_refused() {
        for body in [&b""[..], b"\x01\0\0\0", b"\0\0\0\0A\0", b"\0\0\0\0A\0B"] {
            assert_eq!(parse_go(body), None, "{body:?}");
        }
    }
}
