//! `kybernis ledger`: the ledger as a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kybernis_ledger::journal::SqliteJournal;
use kybernis_ledger::{Callers, Ledger, Settings};
use tokio::sync::watch;

use super::policies::{self, Folder};
use super::{LogArgs, Problems, asked_to_end};
use crate::handover::{Lifeline, Purpose};
use crate::home::{Home, Ownership, Standing};

/// How long a predecessor may take to close the journal: longer than its own drain.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// Between looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The settings of a ledger.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis ledger --data /var/lib/kybernis --policies ./policies --grpc-listen 127.0.0.1:7443 \
                        --http-listen 127.0.0.1:7480")]
pub(crate) struct LedgerArgs {
    /// The data folder: journal, keys, certificate
    #[arg(long, value_name = "DIR", env = "KYBERNIS_DATA")]
    data: Option<PathBuf>,
    /// A folder of manifests; without one there is no policy
    #[arg(long, value_name = "DIR", env = "KYBERNIS_POLICIES")]
    policies: Option<PathBuf>,
    /// Whose manifests are in force
    #[arg(long, value_name = "NAMESPACE", env = "KYBERNIS_NAMESPACE", default_value = kybernis_crds::DEFAULT_NAMESPACE)]
    namespace: String,
    /// Where sidecars connect: gRPC over TLS
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_GRPC_LISTEN", default_value = "127.0.0.1:7443")]
    grpc_listen: String,
    /// Where people and programs connect: HTTP, for loopback
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_HTTP_LISTEN", default_value = "127.0.0.1:7480")]
    http_listen: String,
    #[command(flatten)]
    log: LogArgs,
    /// The listeners arrive on standard input, whose end ends this process
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Runs until asked to end.
pub(crate) async fn run(args: LedgerArgs) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let filter = problems.keep("--log", args.log.filter());
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = Home::locate(args.data.clone(), env).and_then(|path| Home::open(&path));
    let home = problems.keep("--data", home.map_err(anyhow::Error::from));
    let (lifeline, mut sockets) = if args.supervised {
        let (lifeline, sockets) = Lifeline::adopt()?;
        (Some(lifeline), sockets)
    } else {
        let mut sockets = crate::handover::Sockets::default();
        sockets.add_all(Purpose::Grpc, problems.listen("--grpc-listen", &args.grpc_listen));
        sockets.add_all(Purpose::Http, problems.listen("--http-listen", &args.http_listen));
        (None, sockets)
    };
    let grpc = sockets.listeners(Purpose::Grpc).pop();
    let http = sockets.listeners(Purpose::Http).pop();
    if args.supervised && (grpc.is_none() || http.is_none()) {
        problems.add("the supervisor handed over too few listeners");
    }
    let (filter, home, grpc, http) = problems.settle((|| Some((filter?, home?, grpc?, http?)))())?;
    args.log.start(filter)?;

    let standing = Standing {
        pid: std::process::id(),
        grpc: grpc.local_addr()?,
        http: http.local_addr()?,
        policies: args.policies.as_deref().map(std::fs::canonicalize).transpose()?,
        namespace: args.namespace.clone(),
        handover: None,
    };
    let owned = if args.supervised { None } else { Some(own(&home, &standing)?) };
    let (in_force, folder) = match &standing.policies {
        None => (policies::none()?, None),
        Some(dir) => {
            let folder = Folder::new(dir.clone(), args.namespace.clone(), home.path());
            let (in_force, look) = folder.first(args.supervised)?;
            (in_force, Some((folder, look)))
        }
    };
    if args.supervised {
        predecessor_closes(home.path()).await;
    }
    let (tell, policy) = watch::channel(in_force);
    let engine = kybernis_ledger::engine::Settings::default();
    let mut ledger =
        Ledger::start(Settings { data: home.path().to_path_buf(), grpc, http, callers: Callers::Local { policy }, engine }).await?;
    tracing::info!(grpc = %standing.grpc, http = %standing.http, data = %home.path().display(), "the ledger serves");
    let watching = async {
        match folder {
            Some((folder, look)) => folder.follow(look, &tell).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = ledger.failed() => ended.map_err(anyhow::Error::from).and(Err(anyhow::anyhow!("a part of the ledger has stopped"))),
        asked = asked_to_end(lifeline, std::future::ready(())) => asked,
        () = watching => Ok(()),
    };
    ledger.stop().await?;
    if let Some(owned) = owned {
        owned.withdraw();
    }
    ended
}

/// A supervisor that was killed leaves a ledger that sees it and ends; its successor must not fail for those moments.
async fn predecessor_closes(data: &Path) {
    let closed = async {
        while SqliteJournal::in_use(data) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(PREDECESSOR, closed).await.is_err() {
        tracing::error!("another ledger does not close the journal");
    }
}

fn own(home: &Home, standing: &Standing) -> anyhow::Result<Ownership> {
    let Some(owned) = home.try_own()? else {
        let by = home.standing().map_or("another process".to_owned(), |standing| format!("process {}", standing.pid));
        anyhow::bail!("{} is in use by {by}: end that, or give another --data", home.path().display());
    };
    owned.announce(standing)?;
    Ok(owned)
}
