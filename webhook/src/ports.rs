//! The ports that a pod's sidecar holds. They lie together in a range that no common server uses, and are the same in every
//! pod, so that capture rules, environment and scrapers can name them.

/// The forward proxy, on loopback: what `HTTP_PROXY` names.
pub const PROXY: u16 = 7400;
/// Where the kernel sends connections that know no proxy, on loopback.
pub const REDIRECT: u16 = 7401;
/// The HTTP API for SDKs in the pod, on loopback; it gives role `agent` to whoever calls.
pub const LOCAL_API: u16 = 7410;
/// The resolver that questions to port 53 are sent to, on loopback; ends in 53 to be recognised.
pub const DNS: u16 = 7453;
/// Probes and metrics, on the pod's address: the kubelet and Prometheus come from outside.
pub const ADMIN: u16 = 7490;

/// Every port above, with what it is for.
pub(crate) const ALL: [(u16, &str); 5] = [
    (PROXY, "the proxy"),
    (REDIRECT, "redirected connections"),
    (LOCAL_API, "the local API"),
    (DNS, "names"),
    (ADMIN, "probes and metrics"),
];
