//! What the kernel says about a TCP socket's send queue. Asked of the socket itself, so it works across network
//! namespaces, where `/proc/net/tcp` would show another world.

use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};

sockopt_impl!(
    /// The head of the kernel's `struct tcp_info` (linux/tcp.h), as words: any bit pattern is a value of it.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u32; TCP_INFO_WORDS]
);

/// Up to and including `tcpi_data_segs_out`: the layout is an interface of the kernel and only ever grows (4.6).
const TCP_INFO_WORDS: usize = 40;
/// `tcpi_unacked`: segments sent and not acknowledged.
const UNACKED: usize = 6;
/// `tcpi_notsent_bytes`: bytes queued and not sent.
const NOT_SENT: usize = 36;
/// `TCP_CLOSE` of net/tcp_states.h.
const STATE_CLOSE: u8 = 7;

/// How far what was written has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendQueue {
    /// The peer's kernel has acknowledged every byte.
    Empty,
    /// Some bytes are not acknowledged.
    Pending,
    /// The connection is no more: reset, or closed on both sides.
    Closed,
}

/// The state of `socket`'s send queue.
pub(crate) fn send_queue(socket: &impl AsFd) -> nix::Result<SendQueue> {
    let words = getsockopt(&socket.as_fd(), TcpInfo)?;
    let state = words[0].to_ne_bytes()[0];
    Ok(if state == STATE_CLOSE {
        SendQueue::Closed
    } else if words[UNACKED] == 0 && words[NOT_SENT] == 0 {
        SendQueue::Empty
    } else {
        SendQueue::Pending
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_peer_that_does_not_read_leaves_bytes_pending_and_one_that_does_empties_the_queue() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut writer = TcpStream::connect(listener.local_addr()?)?;
        let (mut reader, _) = listener.accept()?;
        assert_eq!(send_queue(&writer)?, SendQueue::Empty);

        writer.set_nonblocking(true)?;
        let mut sent = 0;
        while let Ok(len) = writer.write(&[7; 65536]) {
            sent += len;
        }
        assert_eq!(send_queue(&writer)?, SendQueue::Pending);

        let mut rest = vec![0; sent];
        reader.read_exact(&mut rest)?;
        while send_queue(&writer)? == SendQueue::Pending {
            std::thread::yield_now();
        }
        assert_eq!(send_queue(&writer)?, SendQueue::Empty);

        // Closing with unread input resets.
        writer.write_all(b"unread")?;
        reader.peek(&mut [0; 6])?;
        drop(reader);
        while send_queue(&writer)? != SendQueue::Closed {
            std::thread::yield_now();
        }
        Ok(())
    }
}
