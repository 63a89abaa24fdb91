//! The table of docs/security.md, held against what was seen.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::attempts::Attempt;

const PAGE: &str = "../../docs/security.md";
const BEGIN: &str = "<!-- attempts: begin -->\n";
const END: &str = "<!-- attempts: end -->\n";

/// Prints the table, and renews the page's where `KYB_UPDATE` is set.
pub(super) fn check(attempts: &[Attempt]) -> Result<()> {
    let table = table(attempts);
    println!("\n{table}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let text = fs::read_to_string(&page).context("there is no docs/security.md")?;
    let (before, rest) = text.split_once(BEGIN).context("docs/security.md has no place for the attempts")?;
    let (stands, after) = rest.split_once(END).context("docs/security.md has no end of the attempts")?;
    if std::env::var_os("KYB_UPDATE").is_some() {
        return fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).context("docs/security.md cannot be written");
    }
    ensure!(stands == table, "docs/security.md has other attempts: run this with KYB_UPDATE=1");
    Ok(())
}

fn table(attempts: &[Attempt]) -> String {
    let rows = attempts.iter().map(|attempt| format!("| {} | succeeds | fails: `{}` |\n", attempt.what, attempt.stopped));
    format!("| attempt | from a pod that is not injected | under Strict |\n|---|---|---|\n{}", rows.collect::<String>())
}
