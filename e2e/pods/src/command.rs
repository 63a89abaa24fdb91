//! Commands and waits, each with a bound: whatever hangs in a cluster ends here, with words for what was waited for.

use std::io::{Read, Write as _};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long one thing in a running cluster may take while the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long one command may take: those that wait for something have bounds of their own, and say more when they end.
const COMMAND: Duration = Duration::from_secs(200);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a command printed.
///
/// # Errors
/// When it fails, with what it said.
pub fn said(command: &mut Command) -> Result<String> {
    fed(command, "")
}

/// The same, for a command that reads.
///
/// # Errors
/// When it fails, with what it said.
pub(crate) fn fed(command: &mut Command, input: &str) -> Result<String> {
    let output = give(command, input)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{out}\n{err}", output.status);
    }
    Ok(out.into_owned())
}

/// What a command printed, and how it ended.
///
/// # Errors
/// When it cannot be started or does not end.
pub(crate) fn heard(command: &mut Command) -> Result<Output> {
    give(command, "")
}

/// What a command printed that reads, and how it ended.
///
/// # Errors
/// When it cannot be started or does not end.
pub fn give(command: &mut Command, input: &str) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that has failed no longer reads; its own words say more than this.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > COMMAND {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} did not end within {} s", COMMAND.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    };
    Ok(Output { status, stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() })
}

/// Read aside, so that neither pipe fills up.
fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What broke off is still worth showing.
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        bytes
    })
}

/// Looks until it is so.
///
/// # Errors
/// When it takes too long, with the last look.
pub fn soon<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let looked = look();
        if let Ok(Some(found)) = looked {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            looked.with_context(|| format!("waited in vain until {what}"))?;
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        thread::sleep(LOOK_EVERY);
    }
}
