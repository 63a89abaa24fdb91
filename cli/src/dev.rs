//! `kybernis dev`: ledger and sidecar in the foreground, for programs that are started elsewhere; `kybernis env` tells those
//! where they are.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::SignalKind;

use crate::capture::environment::{Capture, injected};
use crate::home::{Home, write_whole};
use crate::run::{Prepared, WorkloadArgs, exports, tell_joined};
use crate::say::{self, tell};
use crate::signals::Heard;
use crate::supervise::{Capturing, Session};

const FILE: &str = "dev.json";
const LOCK: &str = "dev.lock";

/// The settings of `dev`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  kybernis dev --policies ./policies\n  # in another terminal:\n  eval \"$(kybernis env)\"\n  python agent.py"
)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Where the forward proxy listens
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_PROXY_LISTEN", default_value = "127.0.0.1:7400")]
    proxy_listen: SocketAddr,
}

/// The settings of `env`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  eval \"$(kybernis env)\"")]
pub(crate) struct EnvArgs {
    /// The data folder [default: $XDG_DATA_HOME/kybernis or ~/.local/share/kybernis]
    #[arg(long, value_name = "DIR", env = "KYBERNIS_DATA")]
    data: Option<PathBuf>,
}

/// What a running `dev` leaves for `env`.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    exports: String,
}

/// Serves until Ctrl-C.
pub(crate) async fn dev(args: DevArgs) -> anyhow::Result<ExitCode> {
    let Prepared { settings, warnings } = args.workload.prepare("dev")?;
    warnings.iter().for_each(|warning| tell!("{warning}"));
    let home = settings.home.clone();
    let Some(_lock) = lock(&home)? else {
        anyhow::bail!("a `kybernis dev` runs on {} already; `kybernis env` tells how to use it", home.path().display());
    };
    let mut interrupt = Heard::unless_ignored(SignalKind::interrupt())?;
    let mut terminate = Heard::unless_ignored(SignalKind::terminate())?;
    let (capturing, sockets) =
        Capturing::cooperative(args.proxy_listen).with_context(|| format!("--proxy-listen {}", args.proxy_listen))?;
    let session = Session::start(settings, capturing, sockets).await?;
    tell_joined(&session);
    let exports = session.inject(|about| exports(&injected(about, None)));
    write_whole(&home.path().join(FILE), &serde_json::to_vec(&Running { exports })?, 0o600)?;
    tell!(
        "kybernis: proxy at {}, run {}, data in {}\n\nIn another terminal:\n\n    eval \"$(kybernis env{})\"\n\nand start the agent there. It \
         cannot catch {}; `kybernis run` can.\nCtrl-C ends.",
        args.proxy_listen,
        session.run,
        home.path().display(),
        data_option(&home),
        Capture::ESCAPES,
    );
    tokio::select! {
        () = interrupt.recv() => {}
        () = terminate.recv() => {}
    }
    tell!("kybernis: ending; what is under way is finished first");
    let _ = std::fs::remove_file(home.path().join(FILE));
    tokio::select! {
        () = session.end(async || ()) => {}
        () = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What makes `env` look at the same folder.
fn data_option(home: &Home) -> String {
    if std::env::args().any(|arg| arg.starts_with("--data")) { format!(" --data {}", home.path().display()) } else { String::new() }
}

/// Prints what a running `dev` says.
pub(crate) fn env(args: EnvArgs) -> anyhow::Result<ExitCode> {
    let find = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = Home::open(&Home::locate(args.data, find)?)?;
    let running = std::fs::read(home.path().join(FILE)).ok().filter(|_| lock(&home).is_ok_and(|free| free.is_none()));
    let Some(running) = running else {
        anyhow::bail!("no `kybernis dev` runs on {}: start one in another terminal", home.path().display());
    };
    say::result(&serde_json::from_slice::<Running>(&running)?.exports)?;
    Ok(ExitCode::SUCCESS)
}

/// `None`: somebody has it.
fn lock(home: &Home) -> anyhow::Result<Option<File>> {
    let lock = File::create(home.path().join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
