//! Whether this machine lets us run a cluster: asked before anything is built or started, so that the answer is a sentence and not
//! the end of some component's log.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cgroups;
use crate::cluster::EXISTING;

/// What the namespaces' first steps do, tried in namespaces of their own that end with it: mounts, /proc, a bridge; and the kernel's
/// log, which kubelet does not start without.
const TRIAL: &str = "mount -t tmpfs trial /mnt && mount -t proc proc /proc && ip link add trial type bridge && : </dev/kmsg";

/// Says why no cluster can run here, if none can.
///
/// # Errors
/// Without root, or where the machine does not let root make namespaces, mounts, network devices or control groups.
pub fn check() -> Result<()> {
    let otherwise = format!("or {EXISTING}=existing and KUBECONFIG for a cluster that is there already");
    if !rustix::process::geteuid().is_root() {
        bail!("the test cluster needs root, {otherwise}");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-c", TRIAL]).stdin(Stdio::null());
    let tried = unshare.output().context("cannot start unshare (package util-linux)")?;
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        bail!(
            "the test cluster needs mounts, network devices and the kernel's log in namespaces of its own, {otherwise}; this machine says: {}",
            said.trim()
        );
    }
    cgroups::check().with_context(|| format!("the test cluster needs control groups of its own, {otherwise}"))
}
