//! The edge end to end, on real sockets: a handler that lets everything pass, raw servers behind it, real clients
//! before it.

mod bodies;
mod deadlines;
mod deliveries;
mod far;
mod intercepted;
mod proofs;
mod proxied;
mod redirected;
mod rig;
mod silent;
mod smuggling;
mod whole;
