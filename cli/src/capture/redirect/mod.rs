//! Redirect: COMMAND gets a user and network namespace of its own whose only way out is the sidecar's listeners. The
//! supervisor keeps those listeners, so that the sidecar stays outside and can be restarted.
//!
//! The helper process makes the namespaces, hands out the listeners and, when told, becomes COMMAND: pid, terminal,
//! signals and exit status are COMMAND's, for nothing stands between.

mod channel;
mod enter;
mod identity;
mod netlink;
mod rules;
mod unsupported;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};

use self::channel::{Channel, Rendezvous};
use self::identity::Maps;
pub(crate) use self::unsupported::{Step, Unsupported};

/// Where the listeners live in the namespace. Of the block for benchmarks (RFC 2544), so that it hides no host, and not
/// loopback, so that clients which ask whether IPv4 is configured (`AI_ADDRCONFIG`) see that it is.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same in IPv6: a unique local address (RFC 4193).
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x7962, 0, 0, 0, 0, 0, 1);
/// Names are asked for on port 53, whatever the server's address.
const DNS_PORT: u16 = 53;
/// The hidden subcommand that makes the namespaces and becomes COMMAND.
const ENTER: &str = "__enter";
/// The hidden subcommand that writes the helper's second id map, from the namespace that owns it.
const MAP_IDS: &str = "__map-ids";

/// Runs this process as one of the hidden helpers if its arguments say so. `main` calls it first, before any thread is
/// started: a process of several threads cannot enter a user namespace.
pub(crate) fn run_helper() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let name = args.next()?;
    if name == OsStr::new(ENTER) {
        Some(enter::run(args))
    } else if name == OsStr::new(MAP_IDS) {
        Some(identity::run())
    } else {
        None
    }
}

/// What it takes to make a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    /// A program that calls [`run_helper`] first: our own executable.
    pub(crate) helper: PathBuf,
    /// A folder that the caller may write and that outlives COMMAND; `resolv.conf` is put there.
    pub(crate) folder: PathBuf,
}

/// A namespace that stands ready, with the process that will become COMMAND waiting in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Redirected TCP arrives here: IPv4, and IPv6 where the kernel has it. Accepts from outside the namespace.
    pub(crate) listeners: Vec<TcpListener>,
    /// Names are asked for here over UDP.
    pub(crate) dns_udp: Vec<UdpSocket>,
    /// Names are asked for here over TCP.
    pub(crate) dns_tcp: Vec<TcpListener>,
    channel: Channel,
    child: Waiting,
}

/// The helper, ended with its owner unless it has become COMMAND.
#[derive(Debug)]
struct Waiting(Option<Child>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Redirect {
    /// Makes the namespaces. The helper inherits this process's working folder, terminal and standard streams.
    ///
    /// # Errors
    /// When this machine does not allow it; the message says why and what to do.
    pub(crate) fn prepare(&self) -> Result<Namespace, Unsupported> {
        let resolv_conf = self.folder.join("resolv.conf");
        std::fs::write(&resolv_conf, enter::resolv_conf()).map_err(|e| Unsupported::io(Step::Helper, &e))?;
        let (rendezvous, name) = Rendezvous::bind().map_err(|e| Unsupported::io(Step::Helper, &e))?;
        let child = Command::new(&self.helper).arg(ENTER).arg(&name).arg(&resolv_conf).spawn();
        let mut child = Waiting(Some(child.map_err(|e| Unsupported::io(Step::Helper, &e))?));
        let helper = child.0.as_ref().map_or(0, Child::id);
        let mut channel = rendezvous.accept(helper).map_err(|e| Unsupported::io(Step::Helper, &e))?;
        channel.expect_unshared()?;
        let maps = Maps::inward().map_err(|e| Unsupported::io(Step::IdMap, &e))?;
        maps.write(helper).map_err(|e| Unsupported::io(Step::IdMap, &e))?;
        channel.send_mapped().map_err(|e| Unsupported::io(Step::Helper, &e))?;
        let sockets = channel.expect_ready()?;
        let sockets = Sockets::sort(sockets).map_err(|e| Unsupported::io(Step::Listeners, &e))?;
        Ok(Namespace {
            listeners: sockets.listeners,
            dns_udp: sockets.dns_udp,
            dns_tcp: sockets.dns_tcp,
            channel,
            child: Waiting(child.0.take()),
        })
    }
}

impl Namespace {
    /// Lets the waiting process become `command`, with exactly the environment `env`. The child's pid is COMMAND's; if
    /// COMMAND cannot be executed the child says so on stderr and ends with 127 (not found) or 126, as shells do.
    /// Take the sockets out first: those still held here are closed.
    ///
    /// # Errors
    /// When the waiting process has gone.
    pub(crate) fn spawn(mut self, command: &[OsString], env: &[(OsString, OsString)]) -> io::Result<Child> {
        self.channel.send_go(command, env)?;
        self.child.0.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The helper's sockets by use.
#[derive(Debug, Default)]
struct Sockets {
    listeners: Vec<TcpListener>,
    dns_udp: Vec<UdpSocket>,
    dns_tcp: Vec<TcpListener>,
}

impl Sockets {
    fn open(ipv6: bool) -> io::Result<Self> {
        let mut sockets = Self::default();
        let families = [Some(SocketAddr::from((GATEWAY_V4, 0))), ipv6.then(|| SocketAddr::from((GATEWAY_V6, 0)))];
        for address in families.into_iter().flatten() {
            sockets.listeners.push(TcpListener::bind(address)?);
            let dns = SocketAddr::new(address.ip(), DNS_PORT);
            sockets.dns_udp.push(UdpSocket::bind(dns)?);
            sockets.dns_tcp.push(TcpListener::bind(dns)?);
        }
        Ok(sockets)
    }

    /// The ports that IPv4 and IPv6 are redirected to.
    fn ports(&self) -> io::Result<(u16, Option<u16>)> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        let [v4, v6 @ ..] = self.listeners.as_slice() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok((port(v4)?, v6.first().map(port).transpose()?))
    }

    /// Each socket says by its type and port what it is for, so no order has to be agreed on.
    fn sort(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut sockets = Self::default();
        for fd in fds {
            let socket = socket2::Socket::from(fd);
            let dns = socket.local_addr()?.as_socket().is_some_and(|address| address.port() == DNS_PORT);
            match (socket.r#type()? == socket2::Type::STREAM, dns) {
                (true, true) => sockets.dns_tcp.push(socket.into()),
                (true, false) => sockets.listeners.push(socket.into()),
                (false, _) => sockets.dns_udp.push(socket.into()),
            }
        }
        if sockets.listeners.is_empty() || sockets.dns_udp.is_empty() || sockets.dns_tcp.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the helper handed out too few sockets"));
        }
        Ok(sockets)
    }

    fn into_fds(self) -> Vec<OwnedFd> {
        let Self { listeners, dns_udp, dns_tcp } = self;
        listeners.into_iter().chain(dns_tcp).map(OwnedFd::from).chain(dns_udp.into_iter().map(OwnedFd::from)).collect()
    }
}
