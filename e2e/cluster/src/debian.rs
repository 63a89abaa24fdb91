//! Root file systems from Debian's packages, made once and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::home::cache;
use crate::progress::{output, step};

/// Debian's stable release of the day that this was written; a name, so that the images do not change by themselves.
const SUITE: &str = "bookworm";

/// The archive of a root file system with these packages. `variant` is mmdebstrap's: `essential` configures packages, as an image from
/// a registry would have them; `extract` only unpacks what is named.
pub(crate) fn system(title: &str, variant: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut key = Sha256::new();
    [SUITE, variant].iter().chain(packages).for_each(|part| key.update(part));
    let system = cache().join(format!("cluster/images/debian-{}.tar", hex::encode(&key.finalize()[..6])));
    if !system.exists() {
        step(title, || whole(&system, |path| bootstrap(variant, packages, path)))?;
    }
    Ok(system)
}

fn bootstrap(variant: &str, packages: &[&str], target: &Path) -> Result<()> {
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.arg(format!("--variant={variant}")).arg("--aptopt=APT::Install-Recommends \"false\"");
    bootstrap.arg(format!("--include={}", packages.join(","))).args(["--format=tar", "--quiet", SUITE]).arg(target);
    output(&mut bootstrap).map(drop)
}

/// Gives the file its name only when it is whole.
pub(crate) fn whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let unfinished = path.with_added_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write(&unfinished)?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot name {}", path.display()))
}
