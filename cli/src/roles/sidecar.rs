//! `kybernis sidecar`: the egress proxy as a process.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use clap::Args;
use kybernis_sidecar::control;
use kybernis_sidecar::serve::{Settings, Sidecar};

use super::{LogArgs, Problems, asked_to_end};
use crate::handover::{Lifeline, Purpose, Sockets};

/// The settings of a sidecar.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis token --data /var/lib/kybernis --agent trader > token\n  kybernis sidecar --data ./sidecar \
                        --bundle ./bundle --ledger https://127.0.0.1:7443 --ledger-ca /var/lib/kybernis/ledger-ca.pem --token-file token")]
pub(crate) struct SidecarArgs {
    /// A folder of the sidecar's own: its CA's key and its spool
    #[arg(long, value_name = "DIR", env = "KYBERNIS_SIDECAR_DATA")]
    data: Option<PathBuf>,
    /// A folder that the agent reads; the roots that its clients must trust are put there
    #[arg(long, value_name = "DIR", env = "KYBERNIS_BUNDLE")]
    bundle: Option<PathBuf>,
    /// A PEM file of roots that vouch for far sides beside the public ones; may be repeated
    #[arg(long = "root", value_name = "PEM_FILE", env = "KYBERNIS_ROOTS", value_delimiter = ',')]
    roots: Vec<PathBuf>,
    /// A folder of its own in which it keeps /etc/hosts and /etc/resolv.conf as it first finds them: in a pod the agent may change them
    #[arg(long, value_name = "FOLDER", env = "KYBERNIS_KEPT_NAMES")]
    kept_names: Option<PathBuf>,
    /// Where the cluster's API server is: TLS that is redirected on its way there passes unread, as its clients trust nobody else
    #[arg(long, value_name = "IP:PORT", env = "KYBERNIS_API_SERVER")]
    api_server: Option<SocketAddr>,
    /// The ledger: https://HOST:PORT
    #[arg(long, value_name = "URL", env = "KYBERNIS_LEDGER")]
    ledger: Option<String>,
    /// PEM of the CA that signed the ledger's certificate
    #[arg(long, value_name = "PEM_FILE", env = "KYBERNIS_LEDGER_CA")]
    ledger_ca: Option<PathBuf>,
    /// The name in the ledger's certificate
    #[arg(long, value_name = "NAME", env = "KYBERNIS_LEDGER_NAME", default_value = kybernis_ledger::Ledger::SERVER_NAME)]
    ledger_name: String,
    /// A file with the token that says which workload this is
    #[arg(long, value_name = "FILE", env = "KYBERNIS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// How connections are caught, for the record: cooperative, redirect, strict
    #[arg(long, value_name = "MODE", env = "KYBERNIS_CAPTURE", default_value = "cooperative")]
    capture: String,
    /// Where the forward proxy listens; several with commas between them
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_PROXY_LISTEN", default_value = "127.0.0.1:7400", value_delimiter = ',')]
    proxy_listen: Vec<String>,
    /// Where redirected connections arrive; several with commas between them
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_REDIRECT_LISTEN", value_delimiter = ',')]
    redirect_listen: Vec<String>,
    /// Where redirected questions about names arrive, over UDP and TCP; several with commas between them
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_DNS_LISTEN", value_delimiter = ',')]
    dns_listen: Vec<String>,
    /// Where programs in the pod reach the ledger's /infra, as an agent; several with commas between them
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_API_LISTEN", value_delimiter = ',')]
    api_listen: Vec<String>,
    /// Where probes and metrics are asked for
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_ADMIN_LISTEN")]
    admin_listen: Option<String>,
    /// Threads that carry calls: one carries tens of thousands a second
    #[arg(long, value_name = "COUNT", env = "KYBERNIS_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
    #[command(flatten)]
    log: LogArgs,
    /// The listeners arrive on standard input, whose end ends this process
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Runs until asked to end.
pub(crate) async fn run(args: SidecarArgs) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let filter = problems.keep("--log", args.log.filter());
    let needed = |problems: &mut Problems, setting: &str, given: &Option<PathBuf>| {
        if given.is_none() {
            problems.add(format!("{setting} is missing"));
        }
        given.clone()
    };
    let data = needed(&mut problems, "--data", &args.data);
    let bundle = needed(&mut problems, "--bundle", &args.bundle);
    let ca = needed(&mut problems, "--ledger-ca", &args.ledger_ca);
    let token = needed(&mut problems, "--token-file", &args.token_file);
    if args.ledger.is_none() {
        problems.add("--ledger is missing");
    }
    let (lifeline, mut sockets) = if args.supervised {
        let (lifeline, sockets) = Lifeline::adopt()?;
        (Some(lifeline), sockets)
    } else {
        (None, listeners(&args, &mut problems))
    };
    // Of the pod alone: a supervisor, whose agent has the ledger itself within reach, hands none over.
    let api = to_be_had(&args.api_listen).filter_map(|address| problems.listen("--api-listen", address)).collect();
    let admin = args.admin_listen.as_ref().and_then(|address| problems.listen("--admin-listen", address));
    let complete = || Some((filter?, data?, bundle?, args.ledger.clone()?, ca?, token?));
    let (filter, data, bundle, address, ca, token) = problems.settle(complete())?;
    args.log.start(filter)?;

    let control = control::Settings { address, server_name: args.ledger_name, ca, token, capture: args.capture };
    let settings = Settings {
        proxy: sockets.listeners(Purpose::Proxy),
        redirect: sockets.listeners(Purpose::Redirect),
        dns_udp: sockets.datagrams(Purpose::DnsUdp),
        dns_tcp: sockets.listeners(Purpose::DnsTcp),
        api,
        admin,
        data,
        bundle,
        roots: args.roots,
        kept_names: args.kept_names,
        api_server: args.api_server,
        control,
    };
    let sidecar = Sidecar::start(settings).await?;
    let serves = async {
        sidecar.ready().await;
        tracing::info!("the sidecar is ready");
    };
    let ended = asked_to_end(lifeline, serves).await;
    sidecar.stop().await;
    ended
}

fn listeners(args: &SidecarArgs, problems: &mut Problems) -> Sockets {
    let mut sockets = Sockets::default();
    let of_tcp = [
        (Purpose::Proxy, "--proxy-listen", &args.proxy_listen),
        (Purpose::Redirect, "--redirect-listen", &args.redirect_listen),
        (Purpose::DnsTcp, "--dns-listen", &args.dns_listen),
    ];
    for (purpose, setting, addresses) in of_tcp {
        sockets.add_all(purpose, to_be_had(addresses).filter_map(|address| problems.listen(setting, address)));
    }
    sockets.add_all(Purpose::DnsUdp, to_be_had(&args.dns_listen).filter_map(|address| problems.receive("--dns-listen", address)));
    sockets
}

/// Of several addresses those of a family that the pod has: without IPv6 there is no `::1`, and nothing of that kind to catch.
fn to_be_had(addresses: &[String]) -> impl Iterator<Item = &String> {
    let is_there = |address: &SocketAddr| UdpSocket::bind((address.ip(), 0)).is_ok();
    let alone = addresses.len() == 1;
    addresses.iter().filter(move |address| alone || address.parse().map_or(true, |address| is_there(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_those_are_left_out_that_the_machine_does_not_have_and_one_alone_is_tried() {
        let check = |given: &[&str], expect: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(to_be_had(&given).collect::<Vec<_>>(), expect);
        };
        // 192.0.2.1 is nobody's (RFC 5737).
        check(&["127.0.0.1:7401", "192.0.2.1:7401"], &["127.0.0.1:7401"]);
        check(&["192.0.2.1:7401"], &["192.0.2.1:7401"]);
        check(&["127.0.0.1:7401", "nowhere"], &["127.0.0.1:7401", "nowhere"]);
    }
}
