//! The agents' image: the HTTP clients that people really use, from Debian's packages, and one that Go built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::home::cache;
use crate::image::{Entry, Image, Layer};
use crate::progress::{output, step};
use crate::{AGENTS_IMAGE, Programs};

/// Debian's stable release of the day that this was written; a tag, so that the image does not change by itself.
const SUITE: &str = "bookworm";
/// What an agent is written in, and the clients that it calls with.
const PACKAGES: [&str; 8] =
    ["ca-certificates", "curl", "nodejs", "openjdk-17-jre-headless", "python3", "python3-aiohttp", "python3-httpx", "python3-requests"];

/// The archive of [`AGENTS_IMAGE`]; made when it is not there, which takes a minute and the network once.
///
/// # Errors
/// When a program cannot be built or Debian's packages cannot be fetched.
pub fn agents_image(programs: &Programs) -> Result<PathBuf> {
    let probe = fs::read(programs.probe()).context("cannot read the probe")?;
    let mut key = Sha256::new();
    std::iter::once(&SUITE).chain(&PACKAGES).for_each(|part| key.update(part));
    let system = cache().join(format!("cluster/images/debian-{}.tar", hex::encode(&key.clone().finalize()[..6])));
    key.update(&probe);
    let image = cache().join(format!("cluster/images/agents-{}.tar", hex::encode(&key.finalize()[..6])));
    if image.exists() {
        return Ok(image);
    }
    if !system.exists() {
        step("agents' image: Debian packages", || whole(&system, bootstrap))?;
    }
    step("agents' image", || {
        let client = Layer::of([Entry::program("/usr/local/bin/probe", &programs.probe())?])?;
        let agents = Image::new(AGENTS_IMAGE, Layer::File(system.clone()))
            .layer(client)
            .arguments(["python3"])
            .variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .variable("LANG", "C.UTF-8");
        whole(&image, |path| agents.write(path))
    })?;
    Ok(image)
}

/// A root file system with the packages configured, as an image from a registry would have them.
fn bootstrap(target: &Path) -> Result<()> {
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--variant=essential", "--aptopt=APT::Install-Recommends \"false\""]);
    bootstrap.arg(format!("--include={}", PACKAGES.join(","))).args(["--format=tar", "--quiet", SUITE]).arg(target);
    output(&mut bootstrap).map(drop)
}

/// Gives the file its name only when it is whole.
fn whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let unfinished = path.with_added_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write(&unfinished)?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot name {}", path.display()))
}
