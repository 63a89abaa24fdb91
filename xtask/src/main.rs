//! The project's chores: `cargo xtask test`, `tidy`, `demo`, `bench`. Wires subcommands to their modules and nothing else.

mod bench;
mod cluster;
mod demo;
mod fuzz;
mod images;
mod manifest;
mod mutate;
mod steps;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "cargo xtask COMMAND

  bench    measure speed and memory against baselines of the same run [reads|tls|effects|memory]
  cluster  a real Kubernetes on this machine: up | down | kubectl ARGS | helm ARGS | exec COMMAND | load IMAGE.tar|agents|kybernis... | test | matrix [CELLS]
  codegen  write the files that follow from the types: docs/schemas, the chart's CRDs
  demo     build, then tell the story in under a minute: what the far side executed, with and without Kybernis;
           --cluster tells it in the test cluster, and leaves that running
  fuzz     feed every parser of outside bytes from a fuzzer [TARGET] [--seconds N] [--jobs N] [--minimise]
  images   build the images of an installation as archives, and say how large they are [FOLDER]
  manifest print the chart as one plain manifest for kubectl apply [--values FILE] [--set KEY=VALUE]
  mutate   break one rule at a time in a test build, and show that the rule's own test notices [RULE]
  test     install what the tests need, run everything, print one line of totals [--no-cluster: without the scenarios in pods]
  tidy     format, spelling, crate purity, licences, generated files, lints
";

/// The tests that compare the generated files write them when they are told to.
fn codegen() -> anyhow::Result<()> {
    steps::run(tidy::generated_files().env("KYB_UPDATE", "1"))
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        Some("bench") => bench::bench(args.next().as_deref()),
        Some("cluster") => cluster::cluster(args.collect()),
        Some("codegen") => codegen(),
        Some("demo") => demo::demo(&args.collect::<Vec<_>>()),
        Some("fuzz") => fuzz::fuzz(args),
        Some("images") => images::images(args.next()),
        Some("manifest") => manifest::manifest(args),
        Some("mutate") => mutate::mutate(args.next().as_deref()),
        Some("test") => test::test(args),
        Some("tidy") => tidy::tidy(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(anyhow::anyhow!("there is no `cargo xtask {other}`\n\n{USAGE}")),
        None => Err(anyhow::anyhow!("which chore?\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
