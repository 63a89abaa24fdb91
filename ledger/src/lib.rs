//! The control plane: the journal, the engine that drives the rules over it, and the calls of sidecars and people.

pub mod journal;
pub mod vault;
