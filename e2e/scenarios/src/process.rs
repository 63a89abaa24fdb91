//! A child process whose lines are waited for, with an end to all patience.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// See the module. It does not outlive its handle.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Process {
    /// Starts `command`; nothing of it may take longer than `patience`.
    pub(crate) fn start(command: &mut Command, patience: Duration) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the client")?;
        let out = child.stdout.take().context("no standard output")?;
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, deadline: Instant::now() + patience })
    }

    /// The next line of its standard output that is JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Ok(value) = serde_json::from_str(&line) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("it printed nothing in time"),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended without a word"),
            }
        }
    }

    /// Lets it end, and waits for that.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.stdin = None;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                // Its standard output is closed: it ends, or has ended.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("it did not end in time"),
            }
        }
        self.child.wait().context("cannot wait for it")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
