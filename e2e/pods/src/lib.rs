//! Kybernis in a real cluster: the chart installed as people install it, a broker in the world outside, and agents in pods. Scenarios
//! stand in `tests/pods`; they need root, or a cluster that KUBECONFIG names: `cargo xtask cluster test`.

mod books;
mod command;
mod release;
mod space;
mod talk;
mod workload;
mod world;

pub use books::Books;
pub use command::{PATIENCE, give, said, soon};
pub use release::Release;
pub use space::{Agent, Space};
pub use talk::Talk;
pub use workload::Workload;
pub use world::{OUTSIDE, SINKS, World, objects, programs, unheard_of};
