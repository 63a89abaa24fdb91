//! Images of our own programs: static, so that an image is a program and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::debian;
use crate::home::cache;
use crate::image::{Entry, Image, Layer};
use crate::progress::{output, step};

/// What the image that redirects connections has beside its program, from Debian.
const NFT: [&str; 2] = ["libc6", "nftables"];

/// Where an image keeps what its sidecars trust beside the public roots.
const ROOTS: &str = "/etc/kybernis/roots.pem";

/// Where the programs of tests have their images.
const TESTS: &str = "kybernis.test";
/// And under which tag.
const TAG: &str = "e2e";

/// An image of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnImage {
    /// Every role of Kybernis: the ledger's, the operator's and the webhook's.
    Kybernis,
    /// The proxy of injected pods.
    Sidecar,
    /// The init container that redirects a pod's connections to it; the one that needs more than our program.
    Capture,
    /// The far side that fails on purpose.
    Broker,
}

impl OwnImage {
    /// What an installation of Kybernis needs.
    pub const KYBERNIS: [Self; 3] = [Self::Kybernis, Self::Sidecar, Self::Capture];

    /// The name in its registry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kybernis => "kybernis",
            Self::Sidecar => "sidecar",
            Self::Capture => "capture",
            Self::Broker => "kybernis-broker",
        }
    }

    /// What pods of tests call it.
    #[must_use]
    pub fn reference(self) -> String {
        format!("{TESTS}/{}:{TAG}", self.name())
    }

    /// The program, where it was built.
    const fn program(self) -> &'static str {
        match self {
            Self::Kybernis => "kybernis",
            Self::Sidecar | Self::Capture => "kybernis-sidecar",
            Self::Broker => "kybernis-broker",
        }
    }

    /// The program, in the image.
    const fn command(self) -> &'static str {
        match self {
            Self::Kybernis | Self::Sidecar | Self::Capture => "kybernis",
            Self::Broker => "kybernis-broker",
        }
    }

    /// The archive of [`OwnImage::reference`], made of the programs in this folder where it is not there.
    ///
    /// # Errors
    /// When Debian's packages cannot be fetched, a program cannot be read, or it is not static.
    pub fn archive(self, programs: &Path) -> Result<PathBuf> {
        let system = self.system()?;
        step(&format!("image of {}", self.name()), || {
            let stripped = self.stripped(programs)?;
            let bytes = std::fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
            let system_name = system.as_deref().unwrap_or(Path::new("")).as_os_str();
            let key = Sha256::new_with_prefix(system_name.as_encoded_bytes()).chain_update(bytes).finalize();
            let archive = cache().join(format!("cluster/images/{}-{}.tar", self.name(), hex::encode(&key[..6])));
            if !archive.exists() {
                let image = self.image(&self.reference(), &stripped, system)?;
                debian::whole(&archive, |path| image.write(path))?;
            }
            Ok(archive)
        })
    }

    /// The same image, written to `archive`, whose sidecars also trust these roots (PEM): a test's far side is vouched for by no public
    /// authority, and its pods are to be injected as most are, with no roots of the cluster's own.
    ///
    /// # Errors
    /// As for [`OwnImage::archive`], or when the archive cannot be written.
    pub fn write_trusting(self, programs: &Path, roots: &str, archive: &Path) -> Result<()> {
        let system = self.system()?;
        step(&format!("image of {}, with the far side's roots", self.name()), || {
            let roots = Layer::of([Entry::file(ROOTS, roots)])?;
            let image = self.image(&self.reference(), &self.stripped(programs)?, system)?;
            image.layer(roots).variable("KYBERNIS_ROOTS", ROOTS).write(archive)
        })
    }

    /// The image under another name, packed and written to `archive`; for who publishes it.
    ///
    /// # Errors
    /// As for [`OwnImage::write_trusting`].
    pub fn write_as(self, reference: &str, programs: &Path, archive: &Path) -> Result<()> {
        self.image(reference, &self.stripped(programs)?, self.system()?)?.packed().write(archive)
    }

    fn system(self) -> Result<Option<PathBuf>> {
        let nft = || debian::system("an image with nft: Debian packages", "extract", &NFT);
        (self == Self::Capture).then(nft).transpose()
    }

    /// The program without its debugging symbols.
    fn stripped(self, programs: &Path) -> Result<PathBuf> {
        let program = programs.join(self.program());
        let parts = output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(&program))?;
        ensure!(
            !parts.contains("INTERP"),
            "{} is not static, and its image would hold nothing that it could start with",
            program.display()
        );
        let stripped = cache().join("cluster/images").join(self.program());
        debian::whole(&stripped, |path| output(Command::new("strip").arg("-o").arg(path).arg(&program)).map(drop))?;
        Ok(stripped)
    }

    fn image(self, reference: &str, stripped: &Path, system: Option<PathBuf>) -> Result<Image> {
        let program = Layer::of([Entry::program(&format!("/usr/local/bin/{}", self.command()), stripped)?])?;
        let image = match system {
            Some(system) => Image::new(reference, Layer::File(system)).layer(program),
            None => Image::new(reference, program),
        };
        Ok(image.arguments([self.command()]).variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
    }
}
