//! The chart's configuration as it is written, with the defaults of what may be left out; [`crate::Config`] is what holds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::resources::{Kind, Resources, Share};

/// The configuration as it is written; [`crate::Config`] is what holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The release's version; stands in the status of what is injected.
    pub version: String,
    /// Images.
    pub images: Images,
    /// The ledger.
    pub ledger: LedgerSettings,
    /// The token by which the ledger knows a pod.
    #[serde(default)]
    pub token: TokenSettings,
    /// The ConfigMap with the ledger's CAs, which the operator keeps in every namespace that is opted in.
    #[serde(default = "trust_config_map")]
    pub trust_config_map: String,
    /// Whether that ConfigMap holds roots, too, that vouch for far sides beside the public ones.
    #[serde(default)]
    pub extra_roots: bool,
    /// The user, and group, of the sidecar; the redirection lets it pass, so nobody else may have it.
    #[serde(default = "proxy_uid")]
    pub proxy_uid: u64,
    /// How connections are caught where a pod does not say.
    #[serde(default = "default_capture")]
    pub default_capture: Capture,
    /// Where API servers are reached inside the cluster: what is captured on its way there passes unread.
    #[serde(default)]
    pub api_server: Option<SocketAddr>,
    /// The sidecar's requests and limits where a pod does not say.
    #[serde(default)]
    pub resources: ResourceSettings,
    /// What the sidecar logs where a pod does not say.
    #[serde(default = "log")]
    pub log: String,
    /// Where our own pods run; never injected.
    pub release_namespace: String,
    /// Where probes and metrics listen: `0.0.0.0`, or `::` where pods have IPv6 addresses.
    #[serde(default = "admin_address")]
    pub admin_address: IpAddr,
}

/// The images of our containers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Images {
    /// Of `kybernis-proxy`.
    pub sidecar: String,
    /// Of `kybernis-capture`.
    pub capture: String,
    /// When they are pulled.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// Where the node has it not.
    #[default]
    IfNotPresent,
    /// The node must have it.
    Never,
}

/// Where the ledger is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerSettings {
    /// `https://HOST:PORT`.
    pub address: String,
    /// The name in its certificate.
    pub server_name: String,
}

/// The token by which the ledger knows a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TokenSettings {
    /// For whom it is.
    pub audience: String,
    /// How long it holds; the kubelet renews it before.
    pub expiration_seconds: u64,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { audience: "ledger.kybernis.io".to_owned(), expiration_seconds: 3600 }
    }
}

/// Requests and limits as they are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourceSettings {
    /// What the scheduler sets aside.
    pub requests: Amounts,
    /// What the kernel holds it to.
    pub limits: Amounts,
}

impl Default for ResourceSettings {
    /// No CPU limit: throttling the proxy throttles the agent.
    fn default() -> Self {
        let amounts = |cpu: Option<&str>, memory: &str| Amounts { cpu: cpu.map(str::to_owned), memory: Some(memory.to_owned()) };
        Self { requests: amounts(Some("50m"), "64Mi"), limits: amounts(None, "256Mi") }
    }
}

impl ResourceSettings {
    /// The amounts; what is wrong is added to the problems, one line each.
    pub(crate) fn read(&self, problems: &mut Vec<String>) -> Resources {
        let mut share = |kind: Kind, request: Option<&String>, limit: Option<&String>| {
            let mut amount = |of: &str, text: &String| {
                let read = kind.read(text);
                read.map_err(|error| problems.push(format!("resources.{of}.{kind}: {text:?} {error}. {}", kind.advice()))).ok()
            };
            let share =
                Share { request: request.and_then(|text| amount("requests", text)), limit: limit.and_then(|text| amount("limits", text)) };
            if !share.fits() {
                problems.push(format!("resources.requests.{kind}: is more than resources.limits.{kind}. Raise the limit"));
            }
            share
        };
        Resources {
            cpu: share(Kind::Cpu, self.requests.cpu.as_ref(), self.limits.cpu.as_ref()),
            memory: share(Kind::Memory, self.requests.memory.as_ref(), self.limits.memory.as_ref()),
        }
    }
}

/// An amount of each resource, as quantities.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Amounts {
    /// In cores.
    pub cpu: Option<String>,
    /// In bytes.
    pub memory: Option<String>,
}

fn trust_config_map() -> String {
    "kybernis-trust".to_owned()
}

/// The same number as the proxy's port, so that it is recognised; no distribution or mesh gives it to anybody.
const fn proxy_uid() -> u64 {
    7400
}

const fn default_capture() -> Capture {
    Capture::Redirect
}

fn log() -> String {
    "info".to_owned()
}

const fn admin_address() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}
