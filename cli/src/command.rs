//! COMMAND: started in the supervisor's own process group, so that the terminal and its signals are COMMAND's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::signal::unix::SignalKind;

use crate::capture::redirect::Namespace;
use crate::say::tell;
use crate::signals::{Heard, in_foreground};

/// What shells end with when a command is not found.
const NOT_FOUND: i32 = 127;
/// Nobody presses Ctrl-C twice within this.
const SAME_KEYSTROKE: Duration = Duration::from_millis(300);
/// What shells end with when a command cannot be executed.
const NOT_EXECUTABLE: i32 = 126;

/// Starts COMMAND with exactly this environment: in the namespace, or as a child like any other.
pub(crate) fn spawn(
    command: &[OsString],
    env: BTreeMap<OsString, OsString>,
    namespace: Option<Namespace>,
) -> io::Result<Result<Child, ExitStatus>> {
    if let Some(namespace) = namespace {
        let env: Vec<_> = env.into_iter().collect();
        return namespace.spawn(command, &env).map(Ok);
    }
    let Some((program, args)) = command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let spawned = Command::new(program).args(args).env_clear().envs(env).spawn();
    Ok(spawned.map_err(|error| {
        tell!("kybernis: {}: {error}", program.display());
        let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
        ExitStatus::from_raw(code << 8)
    }))
}

/// The signals that are COMMAND's to answer. Taken before COMMAND starts: from then on they must not end us.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Heard,
    quit: Heard,
    hangup: Heard,
    terminate: Heard,
    user1: Heard,
    user2: Heard,
}

impl Signals {
    /// From now on this process goes on when they come.
    pub(crate) fn take() -> io::Result<Self> {
        Ok(Self {
            interrupt: Heard::unless_ignored(SignalKind::interrupt())?,
            quit: Heard::unless_ignored(SignalKind::quit())?,
            hangup: Heard::unless_ignored(SignalKind::hangup())?,
            terminate: Heard::unless_ignored(SignalKind::terminate())?,
            user1: Heard::unless_ignored(SignalKind::user_defined1())?,
            user2: Heard::unless_ignored(SignalKind::user_defined2())?,
        })
    }

    /// Waits for COMMAND. What the terminal's keys send reaches it without us, and we only stay; what is sent to us alone
    /// is passed on.
    pub(crate) async fn wait(&mut self, mut child: Child) -> io::Result<ExitStatus> {
        let handle = handle(&child)?;
        let (tell, mut ended) = tokio::sync::oneshot::channel();
        // A thread, not a task of the runtime: it waits as long as COMMAND lives.
        std::thread::spawn(move || tell.send(child.wait()));
        let pass = |signal| {
            // COMMAND may have ended meanwhile: the handle knows, and no other process is hit.
            let _ = pidfd_send_signal(&handle, signal);
        };
        loop {
            tokio::select! {
                status = &mut ended => return status.map_err(io::Error::other)?,
                // In the foreground they are keystrokes, and COMMAND has them already: twice would be once too often. Anywhere
                // else no key sends them, but a service manager, a container's runtime or a person's `kill` does.
                () = self.interrupt.recv() => if !in_foreground() { pass(Signal::INT) },
                () = self.quit.recv() => if !in_foreground() { pass(Signal::QUIT) },
                () = self.hangup.recv() => pass(Signal::HUP),
                () = self.terminate.recv() => pass(Signal::TERM),
                () = self.user1.recv() => pass(Signal::USR1),
                () = self.user2.recv() => pass(Signal::USR2),
            }
        }
    }

    /// Returns when somebody at the terminal does not want to wait any more. The Ctrl-C that ended COMMAND came to us
    /// too, perhaps only just now: it is not meant.
    pub(crate) async fn interrupted(&mut self) {
        tokio::time::sleep(SAME_KEYSTROKE).await;
        tokio::select! {
            biased;
            () = self.interrupt.recv() => {}
            () = std::future::ready(()) => {}
        }
        self.interrupt.recv().await;
    }
}

fn handle(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
