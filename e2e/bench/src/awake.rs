//! Processors that do not sleep while something is measured.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

/// The kernel's wish for a latency: Linux, `Documentation/power/pm_qos_interface.rst`. It holds for as long as the file is open.
const WISH: &str = "/dev/cpu_dma_latency";

/// Keeps them awake for as long as it lives. With one client every process waits for another most of the time; how long a sleeping
/// processor takes to wake, and how cold its caches are then, is the machine's, and on a virtual one more than the call itself.
/// The baselines run under the same wish. `cyclictest` of rt-tests does so too.
#[derive(Debug)]
pub(crate) struct Awake(#[expect(dead_code, reason = "held open")] File);

impl Awake {
    pub(crate) fn keep() -> io::Result<Self> {
        let mut wish = OpenOptions::new().write(true).open(WISH)?;
        // Microseconds, as the machine's own 32-bit integer.
        wish.write_all(&0_i32.to_ne_bytes())?;
        Ok(Self(wish))
    }
}
