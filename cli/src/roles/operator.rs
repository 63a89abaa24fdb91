//! `kybernis operator`: watches what people write, and brings it to the ledger.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use kybernis_operator::LedgerSettings;

use super::{LogArgs, Problems, asked_to_end};

/// The settings of an operator.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Runs in a cluster, or with KUBECONFIG beside one.\n\nExample:\n  kybernis operator --namespace kybernis-system \
                        --ledger https://kybernis-ledger.kybernis-system.svc:7443 --ledger-ca ca.pem --token-file token")]
pub(crate) struct OperatorArgs {
    /// The release's namespace: its objects hold for the whole cluster
    #[arg(long, value_name = "NAMESPACE", env = "KYBERNIS_RELEASE_NAMESPACE", default_value = kybernis_crds::SYSTEM_NAMESPACE)]
    namespace: String,
    /// This replica's name in the lease: the pod's
    #[arg(long, value_name = "NAME", env = "KYBERNIS_POD_NAME", default_value = "kybernis-operator")]
    identity: String,
    /// The ledger: https://HOST:PORT
    #[arg(long, value_name = "URL", env = "KYBERNIS_LEDGER")]
    ledger: String,
    /// PEM of the CA that signed the ledger's certificate
    #[arg(long, value_name = "PEM_FILE", env = "KYBERNIS_LEDGER_CA")]
    ledger_ca: PathBuf,
    /// The name in the ledger's certificate
    #[arg(long, value_name = "NAME", env = "KYBERNIS_LEDGER_NAME", default_value = kybernis_ledger::Ledger::SERVER_NAME)]
    ledger_name: String,
    /// A file with the operator's token for the ledger
    #[arg(long, value_name = "FILE", env = "KYBERNIS_TOKEN_FILE")]
    token_file: PathBuf,
    /// PEM of roots that vouch for far sides beside the public ones; handed to every namespace beside the ledger's CA
    #[arg(long, value_name = "PEM_FILE", env = "KYBERNIS_EXTRA_ROOTS")]
    extra_roots: Option<PathBuf>,
    /// Where probes and metrics are asked for
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_ADMIN_LISTEN", default_value = "127.0.0.1:7490")]
    admin_listen: SocketAddr,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until asked to end.
pub(crate) async fn run(args: OperatorArgs) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let filter = problems.keep("--log", args.log.filter());
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()));
    let roots = problems.keep("--extra-roots", args.extra_roots.as_ref().map(read).transpose());
    let (filter, extra_roots) = problems.settle((|| Some((filter?, roots?)))())?;
    args.log.start(filter)?;
    let client = super::api_server().await?;
    let ledger = LedgerSettings { address: args.ledger, server_name: args.ledger_name, ca: args.ledger_ca, token: args.token_file };
    let (namespace, identity, admin) = (args.namespace, args.identity, args.admin_listen);
    let settings = kybernis_operator::Settings { client, namespace, identity, ledger, extra_roots, admin };
    kybernis_operator::run(settings, super::until_asked(asked_to_end(None, std::future::ready(())))).await?;
    Ok(())
}
