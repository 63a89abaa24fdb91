//! One long-lived process in a pod that is spoken to line by line: what it has loaded at its start, it keeps.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use anyhow::{Context as _, Result, bail};

use crate::command::PATIENCE;

/// See the module. It does not outlive its handle.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Talk {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (stdin, out) = (child.stdin.take().context("no standard input")?, child.stdout.take().context("no standard output")?);
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines })
    }

    /// Says a line.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).context("the process is gone")
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn hear(&mut self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("the process printed nothing for {} s", PATIENCE.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the process ended without a word"),
        }
    }

    /// Both.
    ///
    /// # Errors
    /// When the process is gone, or says nothing in time.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.hear()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Ended already, unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
