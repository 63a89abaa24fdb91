//! How this process ends: as COMMAND did, to the signal.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus};

use nix::sys::signal::{Signal, raise};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The hidden subcommand that ends by a signal.
const END_BY: &str = "__end-by";
/// What `kybernis` itself ends with when it fails before COMMAND ran, as other wrappers of commands do.
pub(crate) const FAILED: u8 = 125;
/// What shells add to a signal's number.
const SIGNALLED: i32 = 128;

/// Ends as COMMAND did. A shell tells a COMMAND that died of Ctrl-C from one that ended by itself, and so does a service
/// manager; handlers that we have set only go away when another program is executed, so that is what happens.
pub(crate) fn as_command_did(status: ExitStatus) -> ExitCode {
    let Some(signal) = status.signal() else {
        return ExitCode::from(u8::try_from(status.code().unwrap_or_default()).unwrap_or(FAILED));
    };
    if let Ok(program) = std::env::current_exe() {
        let error: std::io::Error = Command::new(program).arg(END_BY).arg(signal.to_string()).exec();
        tracing::debug!(%error, "ending by the signal itself failed");
    }
    by_number(signal)
}

fn by_number(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(SIGNALLED + signal).unwrap_or(FAILED))
}

/// Runs this process as the hidden helper if its arguments say so.
pub(crate) fn run_helper() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != OsStr::new(END_BY) {
        return None;
    }
    let number = args.next().and_then(|text| text.to_str()?.parse::<i32>().ok()).unwrap_or_default();
    match end_by(number) {
        Ok(never) => match never {},
        // Ignored by whoever started us, as nohup does: then the number has to say it.
        Err(()) => Some(by_number(number)),
    }
}

fn end_by(number: i32) -> Result<Infallible, ()> {
    // COMMAND has left its own core file, if any; ours would only overwrite it.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let signal = Signal::try_from(number).map_err(drop)?;
    // The second time for those that the runtime has a handler for, which is gone after the first: SIGSEGV and SIGBUS.
    raise(signal).and_then(|()| raise(signal)).map_err(drop)?;
    Err(())
}
