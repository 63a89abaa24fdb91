//! Real Kubernetes on one machine, for scenarios and for daily work: every component is the published one, one node runs pods on
//! containerd and runc, and all of it lives in namespaces of its own, so that it ends with one process and leaves nothing behind.
//!
//! [`Cluster`] is the handle: `up`, `attach`, `kubectl`, `load`, `down`. What the components are told lies in `node/` beside this
//! crate, as the files that they read.

mod agents;
mod cgroups;
mod cluster;
mod debian;
mod home;
mod image;
mod machine;
mod node;
mod own;
mod parts;
mod pki;
mod policies;
mod programs;
mod progress;
mod session;
mod start;
mod traces;
mod wait;

pub use agents::agents_image;
pub use cluster::{Cluster, EXISTING};
pub use home::{FOLDER, Home, cache};
pub use image::{Entry, Image, Layer};
pub use machine::check;
pub use own::OwnImage;
pub use parts::Part;
pub use policies::Enforced;
pub use programs::Programs;
pub use progress::step;
pub use session::Session;
pub use traces::traces;

/// The image of every pod's sandbox.
pub const PAUSE_IMAGE: &str = "kybernis.test/pause:e2e";
/// A server and a client in one static program: the smallest pod that shows something.
pub const PROBE_IMAGE: &str = "kybernis.test/probe:e2e";
/// The agents' image: the HTTP clients that people really use.
pub const AGENTS_IMAGE: &str = "kybernis.test/agents:e2e";
