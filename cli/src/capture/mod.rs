//! How traffic reaches the sidecar. On a laptop: a network namespace whose only way out is the sidecar (Redirect), or variables that
//! ask clients politely (Cooperative). In a pod: rules in the pod's own network namespace.

pub(crate) mod environment;
pub(crate) mod nft;
pub(crate) mod pod;
pub(crate) mod redirect;
