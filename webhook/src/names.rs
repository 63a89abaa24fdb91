//! What Kybernis calls its things in somebody else's pod. All volumes and containers begin with `kybernis-`, so that no name
//! of theirs is taken by accident.

/// The prefix of every annotation and label of ours.
pub(crate) const DOMAIN: &str = "kybernis.io/";

/// The annotation on pods and the label on namespaces by which people opt in.
pub const INJECT: &str = "kybernis.io/inject";
/// The annotation that chooses how connections are caught.
pub(crate) const CAPTURE: &str = "kybernis.io/capture";
/// The label on what was injected.
pub const INJECTED: &str = "kybernis.io/injected";
/// The annotation that says what was injected.
pub const STATUS: &str = "kybernis.io/status";
/// The label by which a cluster admin maps a namespace to another tenant.
pub(crate) const TENANT: &str = "kybernis.io/tenant";

/// The init container that sets up the redirection.
pub const CAPTURE_CONTAINER: &str = "kybernis-capture";
/// The sidecar.
pub const PROXY_CONTAINER: &str = "kybernis-proxy";

/// The roots that clients must trust: the sidecar writes, the others read.
pub const BUNDLE_VOLUME: &str = "kybernis-bundle";
/// The key of the pod's own CA.
pub const STATE_VOLUME: &str = "kybernis-state";
/// What the ledger has not taken yet.
pub const SPOOL_VOLUME: &str = "kybernis-spool";
/// The token by which the ledger knows the pod.
pub const TOKEN_VOLUME: &str = "kybernis-token";
/// The CAs of the ledger.
pub const TRUST_VOLUME: &str = "kybernis-trust";
/// Nothing: it keeps the API server from mounting its own token into our containers.
pub const NO_TOKEN_VOLUME: &str = "kybernis-no-api-token";

/// Every volume of ours.
pub(crate) const VOLUMES: [&str; 6] = [BUNDLE_VOLUME, STATE_VOLUME, SPOOL_VOLUME, TOKEN_VOLUME, TRUST_VOLUME, NO_TOKEN_VOLUME];
/// Every container of ours.
pub(crate) const CONTAINERS: [&str; 2] = [CAPTURE_CONTAINER, PROXY_CONTAINER];

/// Where every container finds the roots.
pub const BUNDLE_FOLDER: &str = "/var/run/kybernis";
/// PEM of every root, in [`BUNDLE_FOLDER`]; the sidecar gives it this name.
pub const BUNDLE_FILE: &str = "ca-bundle.pem";
/// The same for Java, as a Java KeyStore, which every JDK reads.
pub const TRUST_STORE_FILE: &str = "truststore.jks";
/// The key in the trust ConfigMap under which the operator keeps the ledger's CAs, and the file that it becomes.
pub const TRUST_FILE: &str = "ca.pem";
/// The same for roots that vouch for far sides beside the public ones.
pub const ROOTS_FILE: &str = "roots.pem";
