//! `cargo xtask fuzz`: feeds the targets of `fuzz/` from libFuzzer, each for a while, and says what came of it. What it finds
//! grows in the cache; `--minimise` brings back into `fuzz/corpus` what reaches new code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::steps::{cache, root, run, step};
use crate::tools;

pub(crate) const USAGE: &str = "cargo xtask fuzz [TARGET…] [--seconds N] [--jobs N]
cargo xtask fuzz [TARGET…] --minimise

  --seconds N   how long each target runs; 600 unless said otherwise
  --jobs N      how many targets run at a time; 1 unless said otherwise
  --minimise    run nothing: add to fuzz/corpus what the runs found that reaches code which nothing there reaches
";

const SECONDS: u64 = 600;

/// Given to every program. An input that takes seconds is a fault: a parser's bound does not hold. Inputs larger than this
/// seldom reach other code, and would make the committed corpus large.
const LIBFUZZER: [&str; 4] = ["-timeout=10", "-rss_limit_mb=3072", "-max_len=8192", "-print_final_stats=1"];

/// Beside coverage: how the release profile is changed for a build of many programs that nobody ships.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only"),
];

struct Order {
    targets: Vec<String>,
    seconds: u64,
    jobs: usize,
    minimise: bool,
}

pub(crate) fn fuzz(args: impl Iterator<Item = String>) -> Result<()> {
    let Some(order) = parse(args)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let fuzzer = step("cargo-fuzz", tools::cargo_fuzz)?;
    step("build", || build(&fuzzer))?;
    if order.minimise {
        return order.targets.iter().try_for_each(|target| step(target, || minimise(target)));
    }
    let rows = campaign(&order)?;
    println!("\n{:<12} {:>7} {:>12} {:>8} {:>7}", "target", "seconds", "executions", "exec/s", "crashes");
    for row in &rows {
        let rate = row.executions / row.seconds.max(1);
        println!("{:<12} {:>7} {:>12} {rate:>8} {:>7}", row.target, row.seconds, row.executions, row.crashes.len());
    }
    report(&rows)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Order>> {
    let known = targets()?;
    let mut order = Order { targets: Vec::new(), seconds: SECONDS, jobs: 1, minimise: false };
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).with_context(|| format!("{arg} takes a number\n\n{USAGE}"));
        match arg.as_str() {
            "--seconds" => order.seconds = number()?,
            "--jobs" => order.jobs = usize::try_from(number()?)?.max(1),
            "--minimise" => order.minimise = true,
            "--help" | "-h" => return Ok(None),
            target if known.iter().any(|name| name == target) => order.targets.push(arg),
            other => bail!("there is no target {other}; there are {}\n\n{USAGE}", known.join(", ")),
        }
    }
    if order.targets.is_empty() {
        order.targets = known;
    }
    Ok(Some(order))
}

/// Every target has one file.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn target_dir() -> PathBuf {
    cache().join("fuzz-target")
}

fn build(fuzzer: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "build", "--fuzz-dir", "fuzz", "--features", "libfuzzer"]);
    // Our code is safe Rust, and panics and overflows show without a sanitizer: without one there are twice as many inputs.
    command.args(["--sanitizer", "none", "--target-dir"]).arg(target_dir());
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").current_dir(root()).envs(PROFILE);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = fuzzer.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
    run(command.env("PATH", std::env::join_paths(folders)?))
}

fn program(target: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(target_dir())?.filter_map(std::result::Result::ok);
    let built = entries.map(|entry| entry.path().join("release").join(target)).find(|path| path.is_file());
    built.with_context(|| format!("{target} was not built under {}", target_dir().display()))
}

fn committed(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

fn grown(target: &str) -> PathBuf {
    cache().join("fuzz-corpus").join(target)
}

fn artifacts(target: &str) -> PathBuf {
    root().join("fuzz/artifacts").join(target)
}

struct Row {
    target: String,
    seconds: u64,
    executions: u64,
    crashes: Vec<PathBuf>,
    log: PathBuf,
    sound: bool,
}

struct Running {
    target: String,
    child: Child,
    began: Instant,
    log: PathBuf,
}

/// Runs `jobs` targets at a time.
fn campaign(order: &Order) -> Result<Vec<Row>> {
    let mut waiting = order.targets.iter().rev().cloned().collect::<Vec<_>>();
    let (mut running, mut rows) = (Vec::new(), Vec::new());
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < order.jobs
            && let Some(target) = waiting.pop()
        {
            println!("{target}: {} s", order.seconds);
            running.push(start(target, order.seconds)?);
        }
        let mut still = Vec::new();
        for mut one in running {
            match one.child.try_wait()? {
                Some(status) => rows.push(finish(one, status.success())?),
                None => still.push(one),
            }
        }
        running = still;
        std::thread::sleep(Duration::from_millis(200));
    }
    rows.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(rows)
}

fn start(target: String, seconds: u64) -> Result<Running> {
    let (grown, artifacts) = (grown(&target), artifacts(&target));
    for folder in [&grown, &artifacts] {
        fs::create_dir_all(folder)?;
    }
    let log = grown.with_extension("log");
    let mut command = Command::new(program(&target)?);
    command.arg(&grown).arg(committed(&target)).args(LIBFUZZER).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let child = command.stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
    Ok(Running { target, child, began: Instant::now(), log })
}

fn finish(running: Running, sound: bool) -> Result<Row> {
    let Running { target, began, log, .. } = running;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let figure = |name: &str| said.lines().rev().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let crashes = said.lines().filter_map(|line| line.split_once("Test unit written to ").map(|(_, path)| PathBuf::from(path))).collect();
    let executions = figure("stat::number_of_executed_units:").unwrap_or_default();
    Ok(Row { target, seconds: began.elapsed().as_secs(), executions, crashes, log, sound })
}

fn report(rows: &[Row]) -> Result<()> {
    let broken: Vec<&Row> = rows.iter().filter(|row| !row.sound).collect();
    for row in &broken {
        println!("\n{}: {}", row.target, row.log.display());
        for crash in &row.crashes {
            println!("  {} {}", program(&row.target)?.display(), crash.display());
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} of {} targets broke a rule; the lines above replay it", broken.len(), rows.len());
}

/// Inputs with names of their own were written by hand and stay; those named by libFuzzer are chosen anew, each for an edge
/// that no other reaches.
fn minimise(target: &str) -> Result<()> {
    let (committed, grown) = (committed(target), grown(target));
    fs::create_dir_all(&grown)?;
    for entry in fs::read_dir(&committed)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            fs::rename(&path, grown.join(name))?;
        }
    }
    let mut command = Command::new(program(target)?);
    run(command
        .args(LIBFUZZER)
        .args(["-merge=1", "-use_counters=0"])
        .arg(&committed)
        .arg(&grown)
        .stdout(Stdio::null())
        .stderr(Stdio::null()))?;
    let (files, bytes) =
        fs::read_dir(&committed)?.filter_map(|entry| entry.ok()?.metadata().ok()).fold((0, 0), |(n, sum), m| (n + 1, sum + m.len()));
    println!("{files} inputs, {bytes} bytes");
    Ok(())
}
