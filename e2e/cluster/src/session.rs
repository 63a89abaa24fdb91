//! A cluster for one command: there before it starts, and gone without a trace when it has ended, failed, hung or been abandoned.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::home::FOLDER;
use crate::{Cluster, Home, traces, wait};

/// How long another run in the same folder is waited for.
const TURN: Duration = Duration::from_secs(30 * 60);
/// How long a killed command may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// What is to run, and until when.
#[derive(Clone, Debug)]
pub struct Session {
    /// The program and its arguments. It finds the cluster by [`FOLDER`].
    pub command: Vec<OsString>,
    /// It is killed after this long.
    pub within: Duration,
    /// It is killed when our standard input ends: whoever started us may be killed, and the cluster must not outlive them.
    pub lifeline: bool,
}

/// Ends the cluster, whatever became of what ran in it.
struct Ending<'h>(&'h Home);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // The next run removes what this could not; `run` looks at what is left.
        let _ = down(self.0);
    }
}

impl Session {
    /// Starts a cluster in `home`, runs the command, ends the cluster and all that were started in folders below. What an earlier run
    /// left there is removed first.
    ///
    /// # Errors
    /// When the cluster does not start or leaves something, or the command was killed for its time.
    pub fn run(&self, home: &Home) -> Result<ExitStatus> {
        let _turn = home.session(TURN)?;
        down(home).context("an earlier run's cluster cannot be removed")?;
        let ending = Ending(home);
        let abandoned = self.abandoned();
        Cluster::up_for_now(home)?;
        let ended = self.command(home, &abandoned);
        drop(ending);
        let mut left = traces(home)?;
        for other in home.below()? {
            left.extend(traces(&other)?);
        }
        ensure!(left.is_empty(), "the cluster is down and has left:\n{}", left.join("\n"));
        ended
    }

    fn command(&self, home: &Home, abandoned: &AtomicBool) -> Result<ExitStatus> {
        let (program, arguments) = self.command.split_first().context("a cluster for which command?")?;
        let mut command = Command::new(program);
        // A group of its own: all of it is killed, where that must be.
        command.args(arguments).env(FOLDER, home.folder()).stdin(Stdio::null()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let why = match (abandoned.load(Ordering::Relaxed), start.elapsed() > self.within) {
                (false, false) => None,
                (true, _) => Some("whoever started it is gone".to_owned()),
                (_, true) => Some(format!("it did not end within {} s", self.within.as_secs())),
            };
            if let Some(why) = why {
                kill(&mut child)?;
                bail!("the command was killed: {why}");
            }
            thread::sleep(wait::PACE);
        }
    }

    /// Turns true when our standard input ends.
    fn abandoned(&self) -> Arc<AtomicBool> {
        let abandoned = Arc::new(AtomicBool::new(false));
        if self.lifeline {
            let ended = Arc::clone(&abandoned);
            thread::spawn(move || {
                let mut nothing = [0; 64];
                while std::io::stdin().read(&mut nothing).is_ok_and(|count| count > 0) {}
                ended.store(true, Ordering::Relaxed);
            });
        }
        abandoned
    }
}

/// Ends the cluster and those that the command has started in folders below.
fn down(home: &Home) -> Result<()> {
    Cluster::down(home)?;
    home.below()?.iter().try_for_each(Cluster::down)
}

fn kill(child: &mut Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    // Gone since is as good as killed.
    let _ = kill_process_group(group, Signal::KILL);
    wait::until("the killed command is gone", DYING, || Ok(child.try_wait()?)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(script: &str, within: Duration) -> Session {
        Session { command: ["/bin/sh", "-c", script].map(OsString::from).to_vec(), within, lifeline: false }
    }

    fn run(script: &str, within: Duration, abandoned: bool) -> Result<ExitStatus> {
        let folder = tempfile::tempdir().unwrap();
        session(script, within).command(&Home::new(folder.path()).unwrap(), &AtomicBool::new(abandoned))
    }

    #[test]
    fn a_command_finds_its_cluster_and_its_status_is_handed_on() {
        let minute = Duration::from_secs(60);
        assert!(run(&format!("test -d \"${FOLDER}\""), minute, false).unwrap().success());
        assert_eq!(run("exit 7", minute, false).unwrap().code(), Some(7));
    }

    #[test]
    fn a_command_that_hangs_or_is_abandoned_is_killed_with_its_children() {
        for (within, abandoned, expect) in [(Duration::ZERO, false, "within 0 s"), (Duration::from_secs(60), true, "is gone")] {
            let folder = tempfile::tempdir().unwrap();
            // The lock is free again only when no process has the file open.
            let script = format!("exec 9>{0}/held; flock 9; sleep 600 & wait", folder.path().display());
            let error = run(&script, within, abandoned).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            let free = Command::new("flock").args(["--timeout", "10"]).arg(folder.path().join("held")).arg("true").status().unwrap();
            assert!(free.success(), "a child lives on");
        }
    }
}
