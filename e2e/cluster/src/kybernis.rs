//! The image of Kybernis itself, from the program that the tests have built anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::home::cache;
use crate::image::{Entry, Image, Layer};
use crate::progress::{output, step};
use crate::{KYBERNIS_IMAGE, debian};

/// What the program is linked against, and what its init container runs.
const PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "nftables", "ca-certificates"];

/// The archive of [`KYBERNIS_IMAGE`] around `program`, without its debugging symbols; made when it is not there.
///
/// # Errors
/// When Debian's packages cannot be fetched, or the program cannot be read.
pub fn kybernis_image(program: &Path) -> Result<PathBuf> {
    let system = debian::system("image of Kybernis: Debian packages", "extract", &PACKAGES)?;
    let stripped = cache().join("cluster/images/kybernis");
    step("image of Kybernis", || {
        debian::whole(&stripped, |path| output(Command::new("strip").arg("-o").arg(path).arg(program)).map(drop))?;
        let entry = Entry::program("/usr/local/bin/kybernis", &stripped)?;
        let bytes = std::fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
        let key = Sha256::new_with_prefix(system.as_os_str().as_encoded_bytes()).chain_update(bytes).finalize();
        let archive = cache().join(format!("cluster/images/kybernis-{}.tar", hex::encode(&key[..6])));
        if !archive.exists() {
            let image = Image::new(KYBERNIS_IMAGE, Layer::File(system.clone())).layer(Layer::of([entry])?);
            let image = image.arguments(["kybernis"]).variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            debian::whole(&archive, |path| image.write(path))?;
        }
        Ok(archive)
    })
}
