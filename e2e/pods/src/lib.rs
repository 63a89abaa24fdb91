//! Kybernis in a real cluster: the chart installed as people install it, a broker in the world outside, and agents in pods. Scenarios
//! stand in `tests`; they need root, or a cluster that KUBECONFIG names: `cargo xtask cluster test`.

mod world;

pub use world::{Agent, World, said, soon};
