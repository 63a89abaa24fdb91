//! Which user ids a namespace knows. COMMAND must see itself as its caller, yet hold no right over the network
//! namespace; so there are two user namespaces, one inside the other: the outer owns the network and maps the caller to
//! root, the inner maps back.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{getegid, geteuid, getpid};
use serde::{Deserialize, Serialize};

use super::MAP_IDS;

/// Bounds what the map's writer reads: the kernel takes a page of map.
const MESSAGE_BYTES: u64 = 16 * 1024;

/// The id maps of one user namespace, as the kernel takes them (user_namespaces(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Maps {
    uids: String,
    gids: String,
    /// An unprivileged map needs `setgroups` to be switched off first.
    deny_setgroups: bool,
    /// What to write where the privilege for the above is missing.
    otherwise: Option<Box<Maps>>,
}

/// Whom COMMAND is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
}

impl Caller {
    /// This process's user, asked before it enters a namespace.
    pub(super) fn current() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    pub(super) const fn is_root(self) -> bool {
        self.uid == 0
    }
}

impl Maps {
    /// The outer namespace's: root keeps every id it has, anyone else becomes root there.
    pub(super) fn inward() -> io::Result<Self> {
        let Caller { uid, gid } = Caller::current();
        let single = Self { uids: format!("0 {uid} 1\n"), gids: format!("0 {gid} 1\n"), deny_setgroups: true, otherwise: None };
        if uid != 0 {
            return Ok(single);
        }
        Ok(Self { otherwise: Some(Box::new(single)), ..Self::every_id()? })
    }

    /// The inner namespace's, seen from the outer one.
    pub(super) fn outward(caller: Caller) -> io::Result<Self> {
        if caller.is_root() {
            return Self::every_id();
        }
        let Caller { uid, gid } = caller;
        Ok(Self { uids: format!("{uid} 0 1\n"), gids: format!("{gid} 0 1\n"), deny_setgroups: true, otherwise: None })
    }

    fn every_id() -> io::Result<Self> {
        Ok(Self {
            uids: identity(&fs::read_to_string("/proc/self/uid_map")?),
            gids: identity(&fs::read_to_string("/proc/self/gid_map")?),
            deny_setgroups: false,
            otherwise: None,
        })
    }

    /// Writes the maps of the process `pid`, which has just entered its namespace.
    pub(super) fn write(&self, pid: u32) -> io::Result<()> {
        let file = |name: &str| format!("/proc/{pid}/{name}");
        if let Err(error) = fs::write(file("uid_map"), &self.uids) {
            return match &self.otherwise {
                Some(otherwise) if error.kind() == io::ErrorKind::PermissionDenied => otherwise.write(pid),
                _ => Err(error),
            };
        }
        if self.deny_setgroups {
            fs::write(file("setgroups"), "deny")?;
        }
        fs::write(file("gid_map"), &self.gids)
    }
}

/// Maps every id that a namespace knows to itself.
fn identity(map: &str) -> String {
    let mut lines = String::new();
    for line in map.lines() {
        if let [first, _, count] = line.split_whitespace().collect::<Vec<_>>()[..] {
            lines.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    lines
}

/// A process that stays in the outer namespace to write the inner one's maps: only from there may more than one id be
/// mapped.
#[derive(Debug)]
pub(super) struct Mapper(Child);

impl Mapper {
    pub(super) fn start() -> io::Result<Self> {
        Command::new("/proc/self/exe").arg(MAP_IDS).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map(Self)
    }

    /// Has `maps` written for this process.
    pub(super) fn map(mut self, maps: &Maps) -> io::Result<()> {
        let order = serde_json::to_vec(&(getpid().as_raw_nonzero(), maps))?;
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(&order)?;
        }
        let status = self.0.wait()?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code > 0 && code < 255 => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other(format!("the writer of the id map ended with {status}"))),
        }
    }
}

/// The hidden subcommand: reads an order, writes the maps, ends with the system's error number.
pub(super) fn run() -> ExitCode {
    let written = || -> io::Result<()> {
        let mut order = Vec::new();
        io::stdin().take(MESSAGE_BYTES).read_to_end(&mut order)?;
        if order.is_empty() {
            return Ok(());
        }
        let (pid, maps): (u32, Maps) = serde_json::from_slice(&order)?;
        maps.write(pid)
    };
    match written() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.raw_os_error().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_keeps_every_range() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
