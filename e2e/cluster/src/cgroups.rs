//! The control groups of a cluster's pods. They belong to the machine and not to any namespace, so they are what a killed cluster
//! leaves behind; each cluster has a group of its own, by which its remains are told from anybody else's.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::home::Home;
use crate::wait;

/// Where every Linux mounts them.
const ROOT: &str = "/sys/fs/cgroup";
/// How long the processes of a killed cluster may take to die.
const DYING: Duration = Duration::from_secs(20);

/// The name of the cluster's group, the same in every hierarchy and for every run in the same folder.
pub(crate) fn name(home: &Home) -> String {
    let digest = Sha256::digest(home.folder().as_os_str().as_encoded_bytes());
    format!("kybernis-{}", hex::encode(&digest[..6]))
}

/// Makes the group in every hierarchy; kubelet wants to find it.
pub(crate) fn make(home: &Home) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name(home));
        fs::create_dir_all(&group).with_context(|| format!("cannot make the control group {}", group.display()))?;
        inherit_cpuset(&hierarchy, &group)?;
    }
    Ok(())
}

/// Whether a group can be made in every hierarchy: tried with one that is removed again.
pub(crate) fn check() -> Result<()> {
    let hierarchies = hierarchies()?;
    anyhow::ensure!(!hierarchies.is_empty(), "none are mounted at {ROOT}");
    for hierarchy in hierarchies {
        let trial = hierarchy.join(format!("kybernis-trial-{}", std::process::id()));
        let made = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial));
        made.with_context(|| format!("none can be made in {}", hierarchy.display()))?;
    }
    Ok(())
}

/// Removes the group and all below it; waits for processes in it that are about to end.
pub(crate) fn remove(home: &Home) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name(home));
        wait::until(&format!("no process is left in {}", group.display()), DYING, || remove_tree(&group))?;
    }
    Ok(())
}

/// Those that are there.
pub(crate) fn present(home: &Home) -> Result<Vec<PathBuf>> {
    Ok(hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(name(home))).filter(|group| group.exists()).collect())
}

/// Version 2 has one hierarchy; version 1 has several, each a folder.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("cannot read {ROOT}"))? {
        let path = entry?.path();
        // Version 1 links `cpu` and `cpuacct` to one place where they are mounted together.
        if path.join("cgroup.procs").exists() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Version 1's cpuset starts empty, and refuses every process until it names processors and memory.
fn inherit_cpuset(hierarchy: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (hierarchy.join(file), group.join(file));
        if from.exists() && to.exists() {
            fs::write(&to, fs::read(&from)?).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

/// Depth first, as the kernel wants it. `None` while a group is busy.
fn remove_tree(group: &Path) -> Result<Option<()>> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(())),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", group.display())),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() && remove_tree(&entry.path())?.is_none() {
            return Ok(None);
        }
    }
    match fs::remove_dir(group) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot remove the control group {}", group.display())),
    }
}
