//! The roles as processes of their own: ledger, sidecar, operator, webhook. On the laptop a supervisor starts the first two, exactly as
//! systemd may, or a person with two terminals.

pub(crate) mod ledger;
mod logs;
pub(crate) mod operator;
mod policies;
pub(crate) mod sidecar;
pub(crate) mod webhook;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use self::logs::LogArgs;
use crate::handover::Lifeline;
use crate::signals::Heard;

/// Everything that is wrong with a configuration, told at once.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Keeps the value, or notes what is wrong with the setting.
    pub(crate) fn keep<T, E: fmt::Display>(&mut self, setting: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.0.push(format!("{setting}: {error:#}"))).ok()
    }

    /// Notes a problem that is no value's.
    pub(crate) fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// The configuration, if nothing is wrong.
    pub(crate) fn settle<T>(self, settings: Option<T>) -> anyhow::Result<T> {
        match settings {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => Err(anyhow::anyhow!("the settings do not hold:\n  {}", self.0.join("\n  "))),
        }
    }

    /// Binds a listener.
    pub(crate) fn listen(&mut self, setting: &str, address: &str) -> Option<TcpListener> {
        self.bind(setting, address, TcpListener::bind)
    }

    /// Binds a socket for datagrams.
    fn receive(&mut self, setting: &str, address: &str) -> Option<UdpSocket> {
        self.bind(setting, address, UdpSocket::bind)
    }

    fn bind<T>(&mut self, setting: &str, address: &str, bind: impl FnOnce(SocketAddr) -> io::Result<T>) -> Option<T> {
        let address: SocketAddr = self.keep(setting, address.parse().map_err(|_| format!("{address:?} is not ADDRESS:PORT")))?;
        self.keep(setting, bind(address).map_err(|error| format!("{address}: {error}")))
    }
}

/// `KEY=VALUE`, each key once.
pub(crate) fn labels(given: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for label in given {
        let (key, value) = label.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or(format!("{label:?} is not KEY=VALUE"))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    Ok(labels)
}

/// Returns when this process is asked to end: by a signal, or by its supervisor's end.
/// Who started it is told as soon as the role `serves`.
async fn asked_to_end(lifeline: Option<Lifeline>, serves: impl Future<Output = ()>) -> anyhow::Result<()> {
    // Its supervisor's word, whatever was ignored when that was started.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = Heard::unless_ignored(SignalKind::interrupt())?;
    let supervisor_gone = async {
        match lifeline {
            Some(lifeline) => lifeline.hold(serves).await,
            None => {
                serves.await;
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to end"),
        () = interrupt.recv() => tracing::info!("interrupted"),
        gone = supervisor_gone => {
            gone?;
            tracing::info!("the supervisor is gone");
        }
    }
    Ok(())
}

/// Longer than the API server lets a watch last: an answer that stops in between is a connection that is gone.
const API_SERVER_SILENCE: Duration = Duration::from_secs(300);

/// The API server, as this pod's ServiceAccount, or as KUBECONFIG says.
async fn api_server() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer().await.context("no way to the API server")?;
    config.read_timeout = Some(API_SERVER_SILENCE);
    kube::Client::try_from(config).context("no way to the API server")
}

/// For who cannot fail by being asked: signals that cannot be had count as asked.
async fn until_asked(asked: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = asked.await {
        tracing::error!(%error, "signals cannot be heard");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs_and_each_key_stands_once() {
        let check = |given: &[&str]| labels(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["app=trader", "x=", "y=a=b"]).unwrap()["y"], "a=b");
        assert!(check(&["app"]).unwrap_err().contains("KEY=VALUE"));
        assert!(check(&["=v"]).is_err());
        assert!(check(&["a=1", "a=2"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut problems = Problems::default();
        problems.listen("--grpc-listen", "nowhere");
        problems.listen("--http-listen", "127.0.0.1:99999");
        problems.add("--token-file is missing");
        let told = problems.settle(Some(())).unwrap_err().to_string();
        for part in ["--grpc-listen: \"nowhere\"", "--http-listen: \"127.0.0.1:99999\"", "--token-file is missing"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
