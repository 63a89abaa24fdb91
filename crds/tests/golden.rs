//! One manifest for each rule, and beside it the exact lines that a person reads. `KYB_BLESS=1` writes the lines anew.

use std::fs;
use std::path::{Path, PathBuf};

use kybernis_crds::{Source, load_sources};

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of inputs is there")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending != "txt"))
        .collect();
    paths.sort();
    paths
}

fn report(path: &Path) -> String {
    let file = path.file_name().expect("a file").to_string_lossy().into_owned();
    let bytes = fs::read(path).expect("a readable file");
    let lines: Vec<String> = match load_sources(&[Source { file, bytes }]) {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(loaded) => loaded.warnings().iter().map(|warning| format!("warning: {warning}")).collect(),
    };
    lines.join("\n") + "\n"
}

#[test]
fn every_rule_says_exactly_this() {
    let inputs = inputs();
    assert!(inputs.len() >= 30, "only {} inputs were found", inputs.len());
    let mut wrong = Vec::new();
    for path in inputs {
        let golden = path.with_extension("txt");
        let found = report(&path);
        if found == "\n" {
            wrong.push(format!("{} breaks no rule", path.display()));
            continue;
        }
        if std::env::var_os("KYB_BLESS").is_some() {
            fs::write(&golden, &found).expect("a writable folder");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- found\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
