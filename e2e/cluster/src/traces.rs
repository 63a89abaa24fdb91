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

/// Whether a process (a folder of `/proc`) is one of the cluster's own; those of its pods are told by their control group. One that has
/// ended is none.
pub(crate) fn lives_in(process: &Path, home: &Home) -> bool {
    let (name, value) = mark(home);
    let wanted = format!("{name}={value}");
    fs::read(process.join("environ"))
        .is_ok_and(|variables| variables.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
}

/// The variable that every process of the cluster's own has, since numbers are used again and mounts may be hidden.
pub(crate) fn mark(home: &Home) -> (&'static str, String) {
    ("KYBERNIS_CLUSTER", cgroups::name(home))
}

fn name(process: &Path) -> String {
    process.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_told_by_its_mark() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (home, other) = (Home::new(folder.path()).unwrap(), Home::new(other.path()).unwrap());
        let (name, value) = mark(&home);
        let mut process = Command::new("cat").arg("-u").env(name, value).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The kernel lets the parent go on before the new program's variables are in place; once the program answers, they are.
        process.stdin.as_mut().unwrap().write_all(b"there\n").unwrap();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        let line = format!("process {} cat -u ", process.id());
        assert_eq!(traces(&home).unwrap(), [line]);
        assert_eq!(traces(&other).unwrap(), Vec::<String>::new());
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(traces(&home).unwrap(), Vec::<String>::new());
    }
}
