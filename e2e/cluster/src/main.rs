//! `kybernis-cluster`: what `cargo xtask cluster` runs.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use kybernis_cluster::{Cluster, FOLDER, Home, OwnImage, Programs, Session, agents_image, step};

/// A real Kubernetes on this machine, in namespaces of its own.
#[derive(Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster")]
struct Arguments {
    /// Where the cluster lives [default: kybernis/cluster/default in the cache folder]
    #[arg(long, env = FOLDER)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build what is missing, start a cluster, and wait until a pod runs in it
    Up,
    /// Say whether this machine can have a cluster
    #[command(hide = true)]
    Check,
    /// Run a command with a cluster of its own, which is gone afterwards; for `cargo xtask test`
    #[command(hide = true)]
    With {
        /// Kill the command after so many seconds
        #[arg(long, value_name = "SECONDS")]
        within: u64,
        /// Kill the command when standard input ends
        #[arg(long)]
        lifeline: bool,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// End the cluster and remove everything that it had
    Down,
    /// Run kubectl as the cluster's administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm (the newer; `--three` before its arguments: Helm 3) as the cluster's administrator; without a cluster, for what needs none
    #[command(disable_help_flag = true)]
    Helm {
        /// Helm 3 instead of 4
        #[arg(long)]
        three: bool,
        /// What helm is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a program in the cluster's network, with KUBECONFIG set
    Exec {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Make images available to pods
    Load {
        /// Archives: OCI layouts or what `docker save` writes; `agents` is the agents' image and `kybernis` our own, which are built
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Write the images of an installation as archives
    #[command(hide = true)]
    Images {
        /// What goes before their names
        #[arg(long)]
        registry: String,
        /// Their tag
        #[arg(long)]
        tag: String,
        /// Where the programs lie
        #[arg(long)]
        programs: PathBuf,
        /// A folder for the archives
        into: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let home = || arguments.folder.as_ref().map_or_else(Home::usual, |folder| Home::new(folder));
    let existing = Cluster::existing()?;
    let running = || match &existing {
        Some(cluster) => Ok(cluster.clone()),
        None => Cluster::attach(&home()?)?.context("no cluster is up; `cargo xtask cluster up` starts one"),
    };
    match arguments.chore {
        Chore::Up => match existing {
            Some(cluster) => println!("the cluster of {} answers", cluster.kubeconfig().display()),
            None => up(&home()?)?,
        },
        Chore::Check if existing.is_some() => println!("the cluster that KUBECONFIG names answers"),
        Chore::Check => kybernis_cluster::check().map(|()| println!("this machine can have a cluster"))?,
        // It is there, and stays.
        Chore::With { command, .. } if existing.is_some() => become_command(std::process::Command::new(&command[0]).args(&command[1..]))?,
        Chore::With { within, lifeline, command } => {
            let session = Session { command, within: Duration::from_secs(within), lifeline };
            let status = session.run(&home()?)?;
            anyhow::ensure!(status.success(), "the command ended with {status}");
        }
        Chore::Down => match existing {
            Some(_) => println!("the cluster is not ours; it stays"),
            None => step("end the cluster", || Cluster::down(&home()?))?,
        },
        Chore::Kubectl { arguments } => become_command(running()?.kubectl().args(arguments))?,
        Chore::Helm { three, arguments } => {
            let major = if three { 3 } else { 4 };
            let found = if existing.is_some() { existing } else { Cluster::attach(&home()?)? };
            let helm = || Ok::<_, anyhow::Error>(std::process::Command::new(Programs::helm_alone(major)?));
            become_command(found.map_or_else(helm, |cluster| Ok(cluster.helm(major)))?.args(arguments))?;
        }
        Chore::Images { registry, tag, programs, into } => images(&registry, &tag, &programs, &into)?,
        Chore::Exec { command } => become_command(running()?.command(command[0].as_ref()).args(&command[1..]))?,
        Chore::Load { images } => {
            let cluster = running()?;
            for image in images {
                let archives = match image.to_str() {
                    Some("agents") => vec![agents_image(&Programs::build()?)?],
                    Some("kybernis") => OwnImage::KYBERNIS.iter().map(|own| own.archive(&here()?)).collect::<Result<_>>()?,
                    Some(_) | None => vec![image],
                };
                for archive in archives {
                    step(&format!("load {}", archive.display()), || cluster.load(&archive))?;
                }
            }
        }
    }
    Ok(())
}

fn up(home: &Home) -> Result<()> {
    let start = Instant::now();
    let cluster = Cluster::up(home)?;
    println!("up in {:.1} s. `cargo xtask cluster kubectl get nodes -o wide`", start.elapsed().as_secs_f64());
    println!("kubeconfig, in the cluster's network: {}", cluster.kubeconfig().display());
    Ok(())
}

/// Writes the images of an installation, and says how large they are.
fn images(registry: &str, tag: &str, programs: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    for image in OwnImage::KYBERNIS {
        let (reference, archive) = (format!("{registry}/{}:{tag}", image.name()), into.join(format!("{}.tar", image.name())));
        image.write_as(&reference, programs, &archive)?;
        let mib = archive.metadata()?.len() as f64 / f64::from(1 << 20);
        println!("{reference:<40} {mib:>6.1} MiB packed  {}", archive.display());
    }
    Ok(())
}

/// Where this program lies, and those that were built with it.
fn here() -> Result<PathBuf> {
    Ok(env::current_exe()?.parent().context("this program lies nowhere")?.into())
}

/// Its terminal, signals and exit status are then the caller's own.
fn become_command(command: &mut std::process::Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot start {}", command.get_program().display()))
}
