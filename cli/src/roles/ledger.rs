//! `kybernis ledger`: the ledger as a process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kybernis_ledger::auth::{self, Kubernetes, KubernetesSettings, PublishError};
use kybernis_ledger::journal::SqliteJournal;
use kybernis_ledger::{Callers, Cluster, Ledger, Settings};
use tokio::sync::watch;

use super::policies::{self, Folder};
use super::{LogArgs, Problems, asked_to_end};
use crate::handover::{Lifeline, Purpose};
use crate::home::{Home, Ownership, Standing};

/// How long a predecessor may take to close the journal: longer than its own drain.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// Between tries to publish the CA.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);
/// Between looks at whether it is still known: a release that is upgraded may make API servers forget.
const MEND_EVERY: Duration = Duration::from_secs(60);
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
    cluster: ClusterArgs,
    #[command(flatten)]
    log: LogArgs,
    /// The listeners arrive on standard input, whose end ends this process
    #[arg(long, hide = true)]
    supervised: bool,
}

/// The settings of a ledger that serves a cluster.
#[derive(Clone, Debug, Args)]
struct ClusterArgs {
    /// Serve a cluster: Kubernetes vouches for callers, each namespace is a tenant, and the operator brings policies
    #[arg(long, env = "KYBERNIS_KUBERNETES", requires_all = ["operator", "sidecar_images"])]
    kubernetes: bool,
    /// The operator's ServiceAccount
    #[arg(long, value_name = "NAMESPACE/NAME", env = "KYBERNIS_OPERATOR")]
    operator: Option<String>,
    /// The sidecar's image; several with commas between them while a release is upgraded
    #[arg(long = "sidecar-image", value_name = "IMAGE", env = "KYBERNIS_SIDECAR_IMAGES", value_delimiter = ',')]
    sidecar_images: Vec<String>,
    /// The sidecar's container in a pod
    #[arg(long, value_name = "NAME", env = "KYBERNIS_SIDECAR_CONTAINER", default_value = kybernis_webhook::names::PROXY_CONTAINER)]
    sidecar_container: String,
    /// Where probes and scrapers connect: HTTP
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_ADMIN_LISTEN", requires = "kubernetes")]
    admin_listen: Option<String>,
    /// Where the API server connects, with what people ask it to read: HTTPS
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_API_LISTEN", requires = "kubernetes")]
    api_listen: Option<String>,
    /// The audience of tokens for this ledger
    #[arg(long, value_name = "NAME", env = "KYBERNIS_AUDIENCE", default_value = "ledger.kybernis.io")]
    audience: String,
}

impl ClusterArgs {
    /// The operator's namespace and name; `None` without --kubernetes.
    fn operator(&self) -> Result<Option<(String, String)>, String> {
        let Some(text) = self.operator.as_deref().filter(|_| self.kubernetes) else { return Ok(None) };
        let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
        let (namespace, name) = parts.ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME"))?;
        Ok(Some((namespace.to_owned(), name.to_owned())))
    }
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
    let operator = problems.keep("--operator", args.cluster.operator());
    let admin = args.cluster.admin_listen.as_ref().and_then(|address| problems.listen("--admin-listen", address));
    let api = args.cluster.api_listen.as_ref().and_then(|address| problems.listen("--api-listen", address));
    if args.cluster.kubernetes && args.policies.is_some() {
        problems.add("--policies is for a ledger without --kubernetes: in a cluster the operator brings policies");
    }
    let (filter, home, grpc, http, operator) = problems.settle((|| Some((filter?, home?, grpc?, http?, operator?)))())?;
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
    let ended = match operator {
        Some(operator) => serve_cluster(&args.cluster, operator, &home, Listeners { grpc, http, admin, api }, lifeline).await,
        None => serve_machine(&args, &standing, &home, grpc, http, lifeline).await,
    };
    if let Some(owned) = owned {
        owned.withdraw();
    }
    ended
}

/// Serves this machine until asked to end.
async fn serve_machine(
    args: &LedgerArgs,
    standing: &Standing,
    home: &Home,
    grpc: TcpListener,
    http: TcpListener,
    lifeline: Option<Lifeline>,
) -> anyhow::Result<()> {
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
    let callers = Callers::Local { policy };
    let ledger = Ledger::start(Settings { data: home.path().to_path_buf(), grpc, http, callers, engine }).await?;
    tracing::info!(grpc = %standing.grpc, http = %standing.http, data = %home.path().display(), "the ledger serves");
    let watching = async {
        match folder {
            Some((folder, look)) => folder.follow(look, &tell).await,
            None => std::future::pending().await,
        }
    };
    until_asked(ledger, lifeline, watching).await
}

/// Keeps a ledger and what works beside it until it is asked to end, and stops it cleanly.
async fn until_asked(mut ledger: Ledger, lifeline: Option<Lifeline>, beside: impl Future<Output = ()>) -> anyhow::Result<()> {
    let ended = tokio::select! {
        ended = ledger.failed() => ended.map_err(anyhow::Error::from).and(Err(anyhow::anyhow!("a part of the ledger has stopped"))),
        asked = asked_to_end(lifeline, std::future::ready(())) => asked,
        () = beside => Ok(()),
    };
    ledger.stop().await?;
    ended
}

/// Where a ledger that serves a cluster is reached.
struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    admin: Option<TcpListener>,
    api: Option<TcpListener>,
}

/// Serves a cluster until asked to end.
async fn serve_cluster(
    cluster: &ClusterArgs,
    operator: (String, String),
    home: &Home,
    listeners: Listeners,
    lifeline: Option<Lifeline>,
) -> anyhow::Result<()> {
    let Listeners { grpc, http, admin, api } = listeners;
    let client = super::api_server().await?;
    let (audience, container, images) = (cluster.audience.clone(), cluster.sidecar_container.clone(), cluster.sidecar_images.clone());
    let namespace = operator.0.clone();
    let kubernetes = Kubernetes::new(client.clone(), KubernetesSettings { audience, container, images, operator });
    let engine = kybernis_ledger::engine::Settings::default();
    let is_read_through = api.is_some();
    let callers = Callers::Cluster(Cluster { kubernetes: Arc::new(kubernetes), admin, api });
    let ledger = Ledger::start(Settings { data: home.path().to_path_buf(), grpc, http, callers, engine }).await?;
    let ca = Ledger::ca_file(home.path());
    let publishing = async {
        let to_sidecars = stays_known("sidecars do not know this ledger", async || auth::publish_ca(&client, &namespace, &ca).await);
        let to_api_servers = stays_known("API servers do not know this ledger", async || auth::publish_api_ca(&client, &ca).await);
        tokio::join!(to_sidecars, async {
            if is_read_through {
                to_api_servers.await;
            }
        });
    };
    tracing::info!(data = %home.path().display(), "the ledger serves the cluster");
    until_asked(ledger, lifeline, publishing).await
}

/// Publishes this ledger's CA, now and whenever somebody takes it away; returns never. An API server that is away takes nothing from
/// those who know this ledger already.
async fn stays_known(otherwise: &str, publish: impl AsyncFn() -> Result<(), PublishError>) {
    loop {
        let pause = match publish().await {
            Ok(()) => MEND_EVERY,
            Err(error) => {
                tracing::warn!(otherwise, error = format!("{:#}", anyhow::Error::from(error)), "the CA cannot be published; tried again");
                PUBLISH_EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
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
