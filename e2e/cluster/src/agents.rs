//! The agents' image: the HTTP clients that people really use, from Debian's packages, and one that Go built.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::home::cache;
use crate::image::{Entry, Image, Layer};
use crate::progress::step;
use crate::{AGENTS_IMAGE, Programs, debian};

/// What an agent is written in, and the clients that it calls with.
const PACKAGES: [&str; 8] =
    ["ca-certificates", "curl", "nodejs", "openjdk-17-jre-headless", "python3", "python3-aiohttp", "python3-httpx", "python3-requests"];

/// The archive of [`AGENTS_IMAGE`]; made when it is not there, which takes a minute and the network once.
///
/// # Errors
/// When a program cannot be built or Debian's packages cannot be fetched.
pub fn agents_image(programs: &Programs) -> Result<PathBuf> {
    let system = debian::system("agents' image: Debian packages", "essential", &PACKAGES)?;
    let mut key = Sha256::new_with_prefix(system.as_os_str().as_encoded_bytes());
    for program in [programs.probe(), programs.internet()] {
        key.update(fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?);
    }
    let image = cache().join(format!("cluster/images/agents-{}.tar", hex::encode(&key.finalize()[..6])));
    if image.exists() {
        return Ok(image);
    }
    step("agents' image", || {
        let probe = Entry::program("/usr/local/bin/probe", &programs.probe())?;
        let clients = Layer::of([probe, Entry::program("/usr/local/bin/internet", &programs.internet())?])?;
        let agents = Image::new(AGENTS_IMAGE, Layer::File(system))
            .layer(clients)
            .arguments(["python3"])
            .variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .variable("LANG", "C.UTF-8");
        debian::whole(&image, |path| agents.write(path))
    })?;
    Ok(image)
}
