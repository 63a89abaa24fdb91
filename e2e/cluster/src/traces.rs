//! What of a cluster is still on the machine: the proof that ending it leaves nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cgroups;
use crate::home::Home;

/// Everything that a cluster in this folder has or has left on the machine outside the caches, a line each; empty when it is gone.
///
/// Network devices and nameless namespaces need no line of their own: they live as long as a process in them, and no longer.
///
/// # Errors
/// When the machine's processes or control groups cannot be read.
pub fn traces(home: &Home) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let state = home.state("");
    if state.exists() {
        found.push(format!("folder {}", state.display()));
    }
    found.extend(cgroups::present(home)?.iter().map(|group| format!("control group {}", group.display())));
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let process = entry?.path();
        if lives_in(&process, home) {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            found.push(format!("process {} {}", name(&process), String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    Ok(found)
}

/// Whether a process (a folder of `/proc`) is one of the cluster's: each sees the state folder mounted at `/mnt`. One that has ended is not.
pub(crate) fn lives_in(process: &Path, home: &Home) -> bool {
    let state = home.state("").display().to_string();
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    mounts.lines().any(|line| is_ours(line, state.trim_end_matches('/')))
}

/// A line of `mountinfo` (proc(5)): the fourth word is the folder inside the file system, which may itself be mounted anywhere.
fn is_ours(line: &str, state: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words[..], [_, _, _, root, point, ..] if (root.len() > 1 && state.ends_with(root) && point == "/mnt") || point.starts_with(state))
}

fn name(process: &Path) -> String {
    process.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_its_folder() {
        let state = "/home/a/.cache/kybernis/cluster/default/state";
        let bound = "601 570 254:0 /home/a/.cache/kybernis/cluster/default/state /mnt rw,relatime shared:1 - ext4 /dev/vda rw";
        let on_a_disk_of_its_own = "601 570 254:0 /a/.cache/kybernis/cluster/default/state /mnt rw,relatime - ext4 /dev/vdb rw";
        let other = "601 570 254:0 /home/a/.cache/kybernis/cluster/other/state /mnt rw,relatime shared:1 - ext4 /dev/vda rw";
        let root = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw";
        assert!(is_ours(bound, state) && is_ours(on_a_disk_of_its_own, state));
        assert!(!is_ours(other, state) && !is_ours(root, state));
    }
}
