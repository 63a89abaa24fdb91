//! What every test of the contract stands on: a ledger and a sidecar as they are, in one process, and a far side that does
//! on a real socket what its script says and counts what it executed.

pub mod caller;
pub mod control;
mod far_side;
mod far_tls;
pub mod rig;

pub use caller::{Answer, Call};
pub use far_side::{FarSide, Received, Then};
pub use far_tls::{FarTls, Stream};
pub use rig::Rig;
