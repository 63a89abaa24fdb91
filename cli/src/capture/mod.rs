//! How COMMAND's traffic reaches the sidecar on a laptop: a network namespace whose only way out is the sidecar
//! (Redirect), or variables that ask clients politely (Cooperative).

pub(crate) mod environment;
pub(crate) mod redirect;
pub(crate) mod truststore;
