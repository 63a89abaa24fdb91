//! The `nft` program, which loads rules into the kernel.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Ordinary users often lack these in `PATH`, and what `PATH` says is not asked first.
const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why rules were not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    #[error("the nft program is missing: install the package nftables")]
    Missing,
    #[error("nft cannot be run: {0}")]
    Io(#[from] io::Error),
    #[error("nft: {0}")]
    Said(String),
}

/// Loads rules, all of them or none. The caller has all rights over its network namespace.
pub(crate) fn load(rules: &str) -> Result<(), NftError> {
    let program = program().ok_or(NftError::Missing)?;
    let mut child = Command::new(program).args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft may have refused before it read: then its own words are what counts.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Said(said.lines().next().unwrap_or("it failed without a word").to_owned()))
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    SBIN.map(PathBuf::from).into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join("nft")).find(|file| file.is_file())
}
