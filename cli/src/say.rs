//! What people read: results on standard output, everything else on standard error. Neither may end this process, as
//! `println!` and `eprintln!` do: whoever reads may have gone (`| head`, a terminal that was closed), and COMMAND not.

use std::fmt;
use std::io::{self, Write as _};

/// A line on standard error.
macro_rules! tell {
    ($($what:tt)*) => { $crate::say::line(format_args!($($what)*)) };
}
pub(crate) use tell;

/// What [`tell!`] comes to.
pub(crate) fn line(what: fmt::Arguments<'_>) {
    // In one piece: supervisor, ledger, sidecar and COMMAND share the stream.
    let _ = io::stderr().write_all(format!("{what}\n").as_bytes());
}

/// A result on standard output.
///
/// # Errors
/// When it could not be written, unless whoever reads has seen enough.
pub(crate) fn result(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}
