//! One role as a child process, started again whenever it ends before it should, on the same sockets.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::handover::{READY, Sockets};
use crate::say::tell;

/// The first wait before a role is started again, doubled each time up to [`PAUSE_MAX`]: a role that cannot stay must not
/// spin, and one that was killed must be back before its callers notice.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest wait: below the 10 s for which a sidecar holds its callers.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A role that stayed this long starts its waits anew.
const STAYED: Duration = Duration::from_secs(30);
/// How long a role may take to end once it is asked: longer than a sidecar's own drain.
const PATIENCE: Duration = Duration::from_secs(40);

/// What it takes to start a role.
#[derive(Debug)]
pub(crate) struct Role {
    /// For messages.
    pub(crate) name: &'static str,
    /// Our own executable.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// What it serves on.
    pub(crate) sockets: Sockets,
    /// Where its pid is written at each start.
    pub(crate) pid_file: PathBuf,
    /// Where it logs, for messages.
    pub(crate) log: PathBuf,
}

/// Why a role did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It could not be started at all.
    #[error("the {role} could not be started")]
    Spawn {
        /// Which.
        role: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended before it was ready; it has said why on stderr.
    #[error("the {role} ended before it was ready ({how}); its log is {log}")]
    Ended {
        /// Which.
        role: &'static str,
        /// Its status.
        how: String,
        /// Its log.
        log: PathBuf,
    },
}

/// A role that is kept alive until [`Kept::stop`].
#[derive(Debug)]
pub(crate) struct Kept {
    closing: CancellationToken,
    keeping: JoinHandle<bool>,
}

impl Kept {
    /// Starts the role and waits until it is ready the first time.
    pub(crate) async fn start(role: Role) -> Result<Self, StartError> {
        let closing = CancellationToken::new();
        let (tell, first) = oneshot::channel();
        let keeping = tokio::spawn(keep(role, closing.clone(), tell));
        match first.await {
            Ok(Ok(())) => Ok(Self { closing, keeping }),
            Ok(Err(error)) => Err(error),
            // The task ends only after it has told.
            Err(_) => Err(StartError::Spawn { role: "role", source: io::ErrorKind::Interrupted.into() }),
        }
    }

    /// Asks the role to end and waits; whether it ended of its own accord, with everything done.
    pub(crate) async fn stop(self) -> bool {
        self.closing.cancel();
        self.keeping.await.unwrap_or(false)
    }
}

async fn keep(role: Role, closing: CancellationToken, tell: oneshot::Sender<Result<(), StartError>>) -> bool {
    let mut tell = Some(tell);
    let mut pause = PAUSE_MIN;
    loop {
        let born = tokio::time::Instant::now();
        let how = match spawn(&role) {
            Err(source) => {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(Err(StartError::Spawn { role: role.name, source }));
                    return false;
                }
                "it cannot be started".to_owned()
            }
            Ok((mut child, lifeline)) => {
                let status = tokio::select! {
                    status = live(&mut child, lifeline, &mut tell) => status,
                    () = closing.cancelled() => return end(&role, child).await,
                };
                if let Some(tell) = tell.take() {
                    let _ = tell.send(Err(StartError::Ended { role: role.name, how: said(status), log: role.log.clone() }));
                    return false;
                }
                said(status)
            }
        };
        if born.elapsed() > STAYED {
            pause = PAUSE_MIN;
        }
        tell!("kybernis: the {} ended ({how}) and is started again; its log is {}", role.name, role.log.display());
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            () = closing.cancelled() => return false,
        }
    }
}

fn spawn(role: &Role) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    role.sockets.send(&ours)?;
    let mut command = Command::new(&role.program);
    command.args(&role.args);
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    // A group of its own: Ctrl-C is for COMMAND.
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn()?;
    if let Some(pid) = child.id() {
        let _ = std::fs::write(&role.pid_file, format!("{pid}\n"));
    }
    Ok((child, ours))
}

/// Tells when the role is ready, and returns when it has ended.
async fn live(
    child: &mut Child,
    lifeline: UnixStream,
    tell: &mut Option<oneshot::Sender<Result<(), StartError>>>,
) -> io::Result<ExitStatus> {
    lifeline.set_nonblocking(true)?;
    let mut lifeline = tokio::net::UnixStream::from_std(lifeline)?;
    let ready = async { lifeline.read_u8().await.is_ok_and(|byte| byte == READY) };
    tokio::select! {
        // A role that is ready and then ends at once was ready.
        biased;
        true = ready => {
            if let Some(tell) = tell.take() {
                let _ = tell.send(Ok(()));
            }
        }
        status = child.wait() => return status,
    }
    let status = child.wait().await;
    // The lifeline is ours until the role has ended.
    drop(lifeline);
    status
}

async fn end(role: &Role, mut child: Child) -> bool {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(Ok(status)) => status.success(),
        Ok(Err(_)) => false,
        Err(_) => {
            tell!("kybernis: the {} does not end and is killed; what it had under way turns in doubt", role.name);
            let _ = child.kill().await;
            false
        }
    }
}

fn said(status: io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => error.to_string(),
        Ok(status) => match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("status {}", status.code().unwrap_or_default()),
        },
    }
}
