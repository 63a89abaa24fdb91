//! Signals as whoever started us meant them: what they had ignored stays ignored, and what the terminal tells its whole
//! foreground group is told apart from what is sent to this process.

use std::fs::{self, File};
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals of one kind as they come; none ever, if whoever started us had them ignored.
#[derive(Debug)]
pub(crate) struct Heard(Option<Signal>);

impl Heard {
    /// From now on this process goes on when they come. `nohup` has hangups ignored, and a script's `&` Ctrl-C: a handler
    /// would end that, and COMMAND, which inherits the ignoring but no handler, would be executed to die of them.
    pub(crate) fn unless_ignored(kind: SignalKind) -> io::Result<Self> {
        // Without /proc nobody can tell, and a signal that ends us would leave COMMAND behind.
        let ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, kind));
        Ok(Self(if ignored { None } else { Some(signal(kind)?) }))
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// What proc_pid_status(5) says: a mask in hexadecimal, whose lowest bit is signal 1.
fn is_ignored(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let bit = u32::try_from(kind.as_raw_value() - 1).ok().and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or_default();
    mask & bit != 0
}

/// Whether our group is the terminal's foreground group: then its keys have told every process in it what they tell us.
pub(crate) fn in_foreground() -> bool {
    // Standard input may be anything; this is the terminal whose keys send signals. Without one it cannot be opened.
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_mask_is_read_from_its_lowest_bit() {
        let ignored = |mask: &str, kind| is_ignored(&format!("Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t0\n"), kind);
        assert!(ignored("0000000000000001", SignalKind::hangup()));
        assert!(!ignored("0000000000000001", SignalKind::interrupt()));
        assert!(ignored("0000000000001006", SignalKind::interrupt()) && ignored("0000000000001006", SignalKind::quit()));
        assert!(!ignored("0000000000001000", SignalKind::terminate()));
        assert!(!is_ignored("", SignalKind::hangup()) && !ignored("nonsense", SignalKind::hangup()));
    }
}
