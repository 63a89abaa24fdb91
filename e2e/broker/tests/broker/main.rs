//! Each fault as the peer sees it, on raw sockets and through real clients: the bytes that arrive are what the fault says,
//! and the books are too.

mod admin;
mod business;
mod connections;
mod http1;
mod http2;
mod peer;
