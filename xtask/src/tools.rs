//! Installs what the tests need beyond the toolchains, once, and says what it does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::steps::{cache, cargo, run};

/// The spelling checker, as the wheel that PyPI holds.
const TYPOS: &str = "1.52.0";
/// What checks licences and sources.
const CARGO_DENY: &str = "0.20.2";
/// What builds the programs for libFuzzer.
const CARGO_FUZZ: &str = "0.13.2";

/// A program that the tests run and the Debian package that holds it.
const PROGRAMS: [(&str, &str); 4] = [("nft", "nftables"), ("ip", "iproute2"), ("curl", "curl"), ("setpriv", "util-linux")];

/// What the test cluster is built with, beside Go, and runs on. The header is found from the folders of programs.
const CLUSTER_PROGRAMS: [(&str, &str); 8] = [
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("../include/seccomp.h", "libseccomp-dev"),
    ("mmdebstrap", "mmdebstrap"),
];

/// Installs every missing program's package. Needs root only when something is missing.
pub(crate) fn install() -> Result<()> {
    install_packages(&PROGRAMS)
}

/// The same for the test cluster.
pub(crate) fn install_for_cluster() -> Result<()> {
    install_packages(&CLUSTER_PROGRAMS)
}

fn install_packages(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        run(&mut command)
    };
    apt(&["update"]).context("the package lists could not be fetched; install by hand what is missing")?;
    let words: Vec<&str> = ["install", "--yes", "--no-install-recommends"].into_iter().chain(missing).collect();
    apt(&words).context("installing needs root; install by hand what is missing")
}

fn is_installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

/// The spelling checker; installed when it is not there.
pub(crate) fn typos() -> Result<PathBuf> {
    let folder = cache().join(format!("tools/typos-{TYPOS}"));
    let program = folder.join("bin/typos");
    if !program.exists() {
        println!("installing typos {TYPOS}");
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", &format!("typos=={TYPOS}")]))?;
    }
    Ok(program)
}

/// `cargo deny`; built when it is not there, which takes some minutes once.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    built("cargo-deny", CARGO_DENY)
}

/// `cargo fuzz`; built when it is not there. Its programs need the nightly toolchain.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    built("cargo-fuzz", CARGO_FUZZ)
}

fn built(name: &str, version: &str) -> Result<PathBuf> {
    let folder = cache().join(format!("tools/{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !program.exists() {
        println!("building {name} {version}, once");
        let mut command = cargo(["install", name, "--locked", "--version", version]);
        run(command.arg("--root").arg(&folder).env("CARGO_TARGET_DIR", folder.join("build")))?;
        std::fs::remove_dir_all(folder.join("build"))?;
    }
    Ok(program)
}
