//! Installs what the tests need beyond the toolchains, once, and says what it does.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::steps::run;

/// A program that the tests run and the Debian package that holds it.
const PROGRAMS: [(&str, &str); 4] = [("nft", "nftables"), ("ip", "iproute2"), ("curl", "curl"), ("setpriv", "util-linux")];

/// Installs every missing program's package. Needs root only when something is missing.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
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
