//! Images of our own programs, as the tests have built them anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::debian;
use crate::home::cache;
use crate::image::{Entry, Image, Layer};
use crate::progress::{output, step};

/// What the programs are linked against, and what the init container of Kybernis runs.
const PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "nftables", "ca-certificates"];

/// Where an image keeps what its sidecars trust beside the public roots.
const ROOTS: &str = "/etc/kybernis/roots.pem";

/// The archive of `kybernis.test/NAME:e2e` around `program`, whose name is NAME, without its debugging symbols; made when it is not
/// there.
///
/// # Errors
/// When Debian's packages cannot be fetched, or the program cannot be read.
pub fn own_image(program: &Path) -> Result<PathBuf> {
    let (name, system) = (name(program)?, system()?);
    step(&format!("image of {name}"), || {
        let stripped = stripped(program, name)?;
        let bytes = std::fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
        let key = Sha256::new_with_prefix(system.as_os_str().as_encoded_bytes()).chain_update(bytes).finalize();
        let archive = cache().join(format!("cluster/images/{name}-{}.tar", hex::encode(&key[..6])));
        if !archive.exists() {
            let image = image(name, &stripped, system)?;
            debian::whole(&archive, |path| image.write(path))?;
        }
        Ok(archive)
    })
}

/// The same image, written to `archive`, whose sidecars also trust these roots (PEM): a test's far side is vouched for by no public
/// authority, and roots of the cluster's own are not in the chart yet.
///
/// # Errors
/// As for [`own_image`], or when the archive cannot be written.
pub fn own_image_trusting(program: &Path, roots: &str, archive: &Path) -> Result<()> {
    let (name, system) = (name(program)?, system()?);
    step(&format!("image of {name}, with the far side's roots"), || {
        let roots = Layer::of([Entry::file(ROOTS, roots)])?;
        image(name, &stripped(program, name)?, system)?.layer(roots).variable("KYBERNIS_ROOTS", ROOTS).write(archive)
    })
}

fn name(program: &Path) -> Result<&str> {
    program.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", program.display()))
}

fn system() -> Result<PathBuf> {
    debian::system("images of our own: Debian packages", "extract", &PACKAGES)
}

fn stripped(program: &Path, name: &str) -> Result<PathBuf> {
    let stripped = cache().join("cluster/images").join(name);
    debian::whole(&stripped, |path| output(Command::new("strip").arg("-o").arg(path).arg(program)).map(drop))?;
    Ok(stripped)
}

fn image(name: &str, stripped: &Path, system: PathBuf) -> Result<Image> {
    let layer = Layer::of([Entry::program(&format!("/usr/local/bin/{name}"), stripped)?])?;
    let image = Image::new(&format!("kybernis.test/{name}:e2e"), Layer::File(system)).layer(layer);
    Ok(image.arguments([name]).variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
}
