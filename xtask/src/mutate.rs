//! `cargo xtask mutate`: breaks one rule at a time in a test build, and shows that the rule's own test notices, on its own
//! assertion, while tests of other rules stay green.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::steps::{cargo, root, step};

const TABLE: &str = "e2e/rules/mutations.tsv";
/// Crates with tests that hold rules.
const PACKAGES: [&str; 4] = ["kybernis-core", "kybernis-ledger", "kybernis-sidecar", "kybernis-rules"];
/// Folders in which switches stand.
const SOURCES: [&str; 3] = ["core/src", "ledger/src", "sidecar/src"];
/// A whole suite under one broken rule; a test that waits for what never comes ends here.
const SUITE: Duration = Duration::from_secs(90);
/// Tests that run at a time: they wait more than they work.
const THREADS: &str = "--test-threads=8";

struct Mutation {
    rule: String,
    package: String,
    target: String,
    test: String,
    also: BTreeSet<String>,
    says: String,
}

pub(crate) fn mutate(only: Option<&str>) -> Result<()> {
    let mutations = read()?;
    if let Some(rule) = only.filter(|only| mutations.iter().all(|one| one.rule != *only)) {
        bail!("the table has no rule {rule:?}");
    }
    step("every switch has its row, every row its switch", || no_hole(&mutations))?;
    let programs = step("build", build)?;
    println!("\n{:<44} {:<10} test", "rule broken", "caught");
    let mut missed = Vec::new();
    let chosen: Vec<_> = mutations.iter().filter(|one| only.is_none_or(|only| one.rule == only)).collect();
    for mutation in &chosen {
        let verdict = judge(mutation, &programs)?;
        let word = if verdict.is_none() { "yes" } else { "NO" };
        println!("{:<44} {word:<10} {} {}", mutation.rule, mutation.package, mutation.test);
        if let Some(why) = verdict {
            println!("    {why}");
            missed.push(mutation.rule.clone());
        }
    }
    if missed.is_empty() {
        println!("\n{} rules broken, {} caught", chosen.len(), chosen.len());
        return Ok(());
    }
    bail!("not caught as they should be: {}", missed.join(", "))
}

fn read() -> Result<Vec<Mutation>> {
    let text = fs::read_to_string(root().join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [rule, test, also, says] = fields[..] else { bail!("{TABLE}: not four fields: {line}") };
        let words: Vec<&str> = test.split(' ').collect();
        let [package, target, test] = words[..] else { bail!("{TABLE}: not package, target and test: {test}") };
        Ok(Mutation {
            rule: rule.to_owned(),
            package: package.to_owned(),
            target: target.to_owned(),
            test: test.to_owned(),
            also: also.split_whitespace().map(str::to_owned).collect(),
            says: says.to_owned(),
        })
    })
    .collect()
}

/// Names in `broken("…")` and rows are the same.
fn no_hole(mutations: &[Mutation]) -> Result<()> {
    let mut switches = BTreeSet::new();
    for folder in SOURCES {
        collect(&root().join(folder), &mut switches)?;
    }
    let rows: BTreeSet<String> = mutations.iter().map(|one| one.rule.clone()).collect();
    let without_row: Vec<_> = switches.difference(&rows).collect();
    let without_switch: Vec<_> = rows.difference(&switches).collect();
    if !without_row.is_empty() || !without_switch.is_empty() {
        bail!("switches without a row: {without_row:?}; rows without a switch: {without_switch:?}");
    }
    if let Some(silent) = mutations.iter().find(|one| one.says.is_empty()) {
        bail!("{} does not say which rule it breaks", silent.rule);
    }
    Ok(())
}

fn collect(folder: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path)?;
            let names = text.split("broken(\"").skip(1).filter_map(|rest| rest.split('"').next());
            into.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}

/// The test programs by package and target.
fn build() -> Result<BTreeMap<(String, String), PathBuf>> {
    let mut programs = BTreeMap::new();
    for package in PACKAGES {
        let mut command = cargo(["test", "--no-run", "--features", "mutations", "--message-format", "json", "--package", package]);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("the test build of {package} failed");
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some(program) = text_of(line, "\"executable\":\"") else { continue };
            let kind = text_of(line, "\"kind\":[\"").unwrap_or_default();
            let name = line.split("\"target\":").nth(1).and_then(|rest| text_of(rest, "\"name\":\"")).unwrap_or_default();
            let target = if kind == "lib" { "lib".to_owned() } else { name };
            programs.insert((package.to_owned(), target), PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// The text between `before` and the next quote: cargo's messages are one JSON object a line.
fn text_of(line: &str, before: &str) -> Option<String> {
    line.split(before).nth(1)?.split('"').next().map(str::to_owned)
}

/// `None` where the mutation is caught as it should be, else why not.
fn judge(mutation: &Mutation, programs: &BTreeMap<(String, String), PathBuf>) -> Result<Option<String>> {
    let key = (mutation.package.clone(), mutation.target.clone());
    let program =
        programs.get(&key).with_context(|| format!("{TABLE}: there is no test target {} of {}", mutation.target, mutation.package))?;
    let (failed, text) = run(program, mutation)?;
    if !failed.contains(&mutation.test) {
        return Ok(Some("its own test stayed green".to_owned()));
    }
    let strays: Vec<_> = failed.iter().filter(|name| **name != mutation.test && !mutation.also.contains(*name)).cloned().collect();
    if !strays.is_empty() {
        return Ok(Some(format!("tests of other rules failed too: {}", strays.join(", "))));
    }
    let assertion = format!("thread '{}'", mutation.test);
    let own = text.lines().any(|line| line.contains(&assertion) && line.contains("panicked at"));
    Ok((!own).then(|| "its test failed, but not on an assertion of its own".to_owned()))
}

/// The tests that failed under the mutation, and everything that was printed.
fn run(program: &Path, mutation: &Mutation) -> Result<(BTreeSet<String>, String)> {
    let log = crate::steps::cache().join("mutate.log");
    let file = fs::File::create(&log)?;
    let mut command = Command::new(program);
    command.arg(THREADS).env("KYB_MUTATE", &mutation.rule).env("RUST_BACKTRACE", "0").current_dir(root().join("core"));
    // What takes seconds by its nature is run only where it is the test that counts.
    for slow in ["in_flight_beyond_the_wait_is_409", "without_a_ledger_no_side_effect_leaves", "a_large_body_streams", "properties"] {
        if !mutation.test.contains(slow) {
            command.args(["--skip", slow]);
        }
    }
    let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > SUITE {
            child.kill()?;
            child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(&log)?;
    let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned)).collect();
    Ok((failed, text))
}
