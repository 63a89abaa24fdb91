//! The supervisor: keeps ledger and sidecar alive as child processes beside a COMMAND, on sockets that outlive them.

mod kept;
mod place;
mod seat;
mod session;

pub(crate) use self::seat::Wanted;
pub(crate) use self::session::{Capturing, Session, Settings, TOKEN_LIFE, local_person, now_seconds};
