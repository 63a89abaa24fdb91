//! Budget: may be written, and limits nothing yet.

use crate::reason::{Fault, Reason};

/// What every Budget is told.
pub(crate) fn fault() -> Fault {
    let message = "kind: Budget is not yet supported, so it limits nothing. Remove it, or keep it for the release that enforces it.";
    Fault { reason: Reason::NotYetSupported, message: message.to_owned() }
}
