//! Sockets on their way to another process: from the supervisor to a role that it starts, again and again on the same
//! sockets; and from one supervisor to the next that shares its data folder.
//!
//! A role finds the stream as its standard input. After the sockets the stream is a lifeline: its end says that the
//! supervisor is gone; one byte the other way says that the role is ready.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most sockets in one message; a sidecar under Redirect has eight.
const SOCKETS_MAX: usize = 16;
/// What a role says once it serves.
pub(crate) const READY: u8 = b'R';

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// The ledger's gRPC listener.
    Grpc = b'g',
    /// The ledger's HTTP listener.
    Http = b'h',
    /// The sidecar's forward proxy.
    Proxy = b'p',
    /// Where redirected connections arrive.
    Redirect = b'r',
    /// Where redirected questions about names arrive.
    DnsUdp = b'u',
    /// The same over TCP.
    DnsTcp = b't',
}

impl Purpose {
    const ALL: [Self; 6] = [Self::Grpc, Self::Http, Self::Proxy, Self::Redirect, Self::DnsUdp, Self::DnsTcp];

    fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| *purpose as u8 == tag)
    }
}

/// Open sockets by purpose.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<(Purpose, OwnedFd)>);

impl Sockets {
    /// Adds one.
    pub(crate) fn add(&mut self, purpose: Purpose, socket: impl Into<OwnedFd>) {
        self.0.push((purpose, socket.into()));
    }

    /// Adds several.
    pub(crate) fn add_all<S: Into<OwnedFd>>(&mut self, purpose: Purpose, sockets: impl IntoIterator<Item = S>) {
        self.0.extend(sockets.into_iter().map(|socket| (purpose, socket.into())));
    }

    /// Takes the listeners for `purpose` out.
    pub(crate) fn listeners(&mut self, purpose: Purpose) -> Vec<TcpListener> {
        self.take(purpose).map(TcpListener::from).collect()
    }

    /// Takes the datagram sockets for `purpose` out.
    pub(crate) fn datagrams(&mut self, purpose: Purpose) -> Vec<UdpSocket> {
        self.take(purpose).map(UdpSocket::from).collect()
    }

    fn take(&mut self, purpose: Purpose) -> impl Iterator<Item = OwnedFd> {
        self.0.extract_if(.., move |(for_what, _)| *for_what == purpose).map(|(_, socket)| socket)
    }

    /// The same sockets once more.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        self.0.iter().map(|(purpose, socket)| Ok((*purpose, socket.try_clone()?))).collect::<io::Result<_>>().map(Self)
    }

    /// Sends them all; they stay open here.
    pub(crate) fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let tags: Vec<u8> = self.0.iter().map(|(purpose, _)| *purpose as u8).collect();
        let fds: Vec<_> = self.0.iter().map(|(_, socket)| socket.as_fd()).collect();
        let count = u8::try_from(tags.len()).ok().filter(|count| usize::from(*count) <= SOCKETS_MAX);
        let count = count.ok_or_else(|| io::Error::other("more sockets than a message holds"))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // A sidecar that only delivers what another left has none.
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("more sockets than a message holds"));
        }
        sendmsg(stream.as_fd(), &[IoSlice::new(&[count]), IoSlice::new(&tags)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives what [`Self::send`] sent.
    pub(crate) fn receive(stream: &UnixStream) -> io::Result<Self> {
        let mut bytes = [0; 1 + SOCKETS_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let tags = match bytes.get(..read.bytes) {
            Some([count, tags @ ..]) if usize::from(*count) == tags.len() && tags.len() == fds.len() => tags,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no sockets came")),
        };
        let purposes = tags.iter().map(|tag| Purpose::from_tag(*tag));
        let purposes: Option<Vec<_>> = purposes.collect();
        let purposes = purposes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a socket for a purpose that is not known"))?;
        Ok(Self(purposes.into_iter().zip(fds).collect()))
    }
}

/// What a supervised role has of its supervisor.
#[derive(Debug)]
pub(crate) struct Lifeline(UnixStream);

impl Lifeline {
    /// Takes the sockets from standard input.
    pub(crate) fn adopt() -> io::Result<(Self, Sockets)> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let sockets = Sockets::receive(&stream)?;
        Ok((Self(stream), sockets))
    }

    /// Waits for the supervisor's end, and meanwhile says that the role serves once it does: a role that never comes to
    /// serve ends with its supervisor, too.
    pub(crate) async fn hold(self, serves: impl Future<Output = ()>) -> io::Result<()> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        self.0.set_nonblocking(true)?;
        let (mut read, mut write) = tokio::net::UnixStream::from_std(self.0)?.into_split();
        let gone = async {
            let mut rest = [0; 16];
            // Whatever way the stream ends, the supervisor is not there any more.
            while matches!(read.read(&mut rest).await, Ok(1..)) {}
        };
        let tell = async {
            serves.await;
            // If that fails, the supervisor's end is about to be read.
            let _ = write.write_all(&[READY]).await;
        };
        tokio::pin!(gone);
        tokio::select! {
            () = &mut gone => return Ok(()),
            () = tell => {}
        }
        gone.await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_under_their_purposes_and_stay_open_with_the_sender() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut sent = Sockets::default();
        sent.add(Purpose::Http, listener);
        sent.add_all(Purpose::DnsUdp, [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()]);
        for _ in 0..2 {
            sent.send(&one).unwrap();
            let mut received = Sockets::receive(&other).unwrap();
            assert_eq!(received.listeners(Purpose::Grpc).len(), 0);
            assert_eq!(received.datagrams(Purpose::DnsUdp).len(), 2);
            assert_eq!(received.listeners(Purpose::Http)[0].local_addr().unwrap(), address);
        }
    }

    #[test]
    fn none_at_all_can_be_sent_and_a_stream_that_ends_is_an_error() {
        let (one, other) = UnixStream::pair().unwrap();
        Sockets::default().send(&one).unwrap();
        assert_eq!(Sockets::receive(&other).unwrap().0.len(), 0);
        drop(one);
        assert!(Sockets::receive(&other).is_err());
    }
}
