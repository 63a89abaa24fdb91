//! Who runs the ledger of a data folder: the first supervisor that comes, and after it whoever has joined.
//!
//! The owner hands its listening sockets to everybody who joins. When it has gone, the next one starts a ledger on the very
//! same sockets: sidecars and people find it at the address that they know.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Role, StartError};
use crate::handover::{Purpose, Sockets};
use crate::home::{Home, HomeError, Ownership, Standing};
use crate::say::tell;

/// How long an owner without a ledger (one that starts, ends, or only reads) is waited for.
const BUSY: Duration = Duration::from_secs(20);
/// Between looks at a busy owner.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a run wants of its ledger.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Our own executable.
    pub(crate) program: PathBuf,
    /// The folder of manifests, absolute.
    pub(crate) policies: Option<PathBuf>,
    /// Whose manifests are to be in force; `None`: whatever the ledger goes by.
    pub(crate) namespace: Option<String>,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeatError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The child process.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No socket.
    #[error("no socket for the ledger")]
    Socket(#[from] io::Error),
    /// The ledger that runs there goes by other policies.
    #[error(
        "a ledger runs on {data} already (process {pid}), with {theirs}; this run wants {ours}. Use the same, or give this run \
         another --data"
    )]
    Differs {
        /// The data folder.
        data: PathBuf,
        /// Its owner.
        pid: u32,
        /// What it goes by.
        theirs: String,
        /// What we want.
        ours: String,
    },
    /// Somebody holds the folder and says nothing.
    #[error("{data} is held by another kybernis process that runs no ledger for others; wait for it, or give another --data")]
    Busy {
        /// The data folder.
        data: PathBuf,
    },
}

/// A place at the folder's ledger.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where the ledger is.
    pub(crate) standing: Standing,
    /// Whether somebody else runs it.
    pub(crate) joined: bool,
    closing: CancellationToken,
    holding: JoinHandle<()>,
}

impl Seat {
    /// Starts the folder's ledger, or joins the one that runs there.
    pub(crate) async fn take(home: &Home, wanted: &Wanted) -> Result<Self, SeatError> {
        let until = tokio::time::Instant::now() + BUSY;
        loop {
            if let Some(ownership) = home.try_own()? {
                return Self::own(home, wanted, ownership).await;
            }
            if let Some(standing) = home.standing()
                && let Some(seat) = Self::join(home, wanted, standing)?
            {
                return Ok(seat);
            }
            if tokio::time::Instant::now() > until {
                return Err(SeatError::Busy { data: home.path().into() });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn own(home: &Home, wanted: &Wanted, ownership: Ownership) -> Result<Self, SeatError> {
        let (grpc, http) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let standing = Standing {
            pid: std::process::id(),
            grpc: grpc.local_addr()?,
            http: http.local_addr()?,
            policies: wanted.policies.clone(),
            namespace: wanted.namespace.clone().unwrap_or_else(|| kybernis_crds::DEFAULT_NAMESPACE.to_owned()),
            handover: Some(format!("kybernis-ledger-{}", uuid::Uuid::new_v4())),
        };
        let mut sockets = Sockets::default();
        sockets.add(Purpose::Grpc, grpc);
        sockets.add(Purpose::Http, http);
        let running = Running::start(home, wanted.program.clone(), standing.clone(), sockets, ownership).await?;
        let closing = CancellationToken::new();
        let asked = closing.clone();
        let holding = tokio::spawn(async move {
            asked.cancelled().await;
            running.stop().await;
        });
        Ok(Self { standing, joined: false, closing, holding })
    }

    /// `None`: the owner is about to go.
    fn join(home: &Home, wanted: &Wanted, standing: Standing) -> Result<Option<Self>, SeatError> {
        agree(home, wanted, &standing)?;
        let closing = CancellationToken::new();
        let holding = match &standing.handover {
            // A ledger that no supervisor runs: when it goes, nobody follows it.
            None => tokio::spawn(std::future::ready(())),
            Some(name) => match receive(name) {
                Ok(sockets) => {
                    let program = wanted.program.clone();
                    tokio::spawn(follow(home.clone(), program, standing.clone(), sockets, closing.clone()))
                }
                Err(error) => {
                    tracing::debug!(%error, "the owner does not hand over");
                    return Ok(None);
                }
            },
        };
        Ok(Some(Self { standing, joined: true, closing, holding }))
    }

    /// Gives the place up; an owner ends its ledger.
    pub(crate) async fn leave(self) {
        self.closing.cancel();
        let _ = self.holding.await;
    }
}

/// A run that names policies must get those.
fn agree(home: &Home, wanted: &Wanted, standing: &Standing) -> Result<(), SeatError> {
    let policies_agree = wanted.policies.is_none() || wanted.policies == standing.policies;
    if policies_agree && wanted.namespace.as_ref().is_none_or(|namespace| *namespace == standing.namespace) {
        return Ok(());
    }
    let tell = |policies: &Option<PathBuf>, namespace: &str| match policies {
        None => format!("no policies, namespace {namespace}"),
        Some(dir) => format!("the policies in {}, namespace {namespace}", dir.display()),
    };
    Err(SeatError::Differs {
        data: home.path().into(),
        pid: standing.pid,
        theirs: tell(&standing.policies, &standing.namespace),
        ours: tell(&wanted.policies, wanted.namespace.as_deref().unwrap_or(&standing.namespace)),
    })
}

/// Waits for the owner to go, and follows it.
async fn follow(home: Home, program: PathBuf, standing: Standing, sockets: Sockets, closing: CancellationToken) {
    let (tell, owned) = oneshot::channel();
    let waiting = home.clone();
    // A thread, not a task: it waits for as long as the owner lives, and this process must be able to end before.
    std::thread::spawn(move || tell.send(waiting.own()));
    let ownership = tokio::select! {
        owned = owned => owned,
        () = closing.cancelled() => return,
    };
    let Ok(Ok(ownership)) = ownership else {
        tell!("kybernis: the ledger's owner has gone and its place cannot be taken; calls are held and then refused");
        return;
    };
    let standing = Standing { pid: std::process::id(), ..standing };
    match Running::start(&home, program, standing, sockets, ownership).await {
        Err(error) => {
            let error = anyhow::Error::from(error);
            tell!("kybernis: the ledger could not be taken over, and calls are refused: {error:#}");
        }
        Ok(running) => {
            tell!("kybernis: the run that ran the ledger has ended; this one runs it now");
            closing.cancelled().await;
            running.stop().await;
        }
    }
}

/// The owner's side: its ledger, and the socket at which its listeners are to be had.
struct Running {
    ledger: Kept,
    ownership: Ownership,
}

impl Running {
    async fn start(home: &Home, program: PathBuf, standing: Standing, sockets: Sockets, ownership: Ownership) -> Result<Self, SeatError> {
        let log = home.folder("logs")?.join("ledger.log");
        let mut args: Vec<std::ffi::OsString> = vec!["ledger".into(), "--supervised".into(), "--data".into(), home.path().into()];
        args.extend(["--namespace".into(), (&standing.namespace).into(), "--log-file".into(), log.clone().into()]);
        if let Some(dir) = &standing.policies {
            args.extend(["--policies".into(), dir.into()]);
        }
        let role = Role { name: "ledger", program, args, sockets: sockets.duplicate()?, pid_file: home.path().join("ledger.pid"), log };
        let ledger = Kept::start(role).await?;
        if let Some(name) = &standing.handover {
            hand_out(name, sockets)?;
        }
        ownership.announce(&standing)?;
        Ok(Self { ledger, ownership })
    }

    async fn stop(self) {
        self.ledger.stop().await;
        self.ownership.withdraw();
    }
}

/// Serves the sockets to every process of this user that asks, for as long as this process lives.
fn hand_out(name: &str, sockets: Sockets) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    let sockets = Arc::new(sockets);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An abstract socket has no owner; whoever connects has.
            let ours = socket_peercred(&stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
            if ours && let Err(error) = sockets.send(&stream) {
                tracing::debug!(%error, "the listeners could not be handed over");
            }
        }
    });
    Ok(())
}

fn receive(name: &str) -> io::Result<Sockets> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    if socket_peercred(&stream)?.uid != rustix::process::geteuid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other end is another user's"));
    }
    Sockets::receive(&stream)
}
