//! Whose a boot is. A message names the boot of its sender, and what a boot was granted, gave up or saw is that boot's alone:
//! so the engine knows it under a name that only its own agent can give it.

use kybernis_core::ids::{AgentId, BootId, NAME_MAX};
use kybernis_proto::v1;
use sha2::{Digest as _, Sha256};
use tonic::Status;

/// Bytes of the agent's digest that lead the name: 128 bits, so that nobody finds another agent with the same.
const OWNER_BYTES: usize = 16;

/// Longest boot that a message may name: with its owner and a dot before it, it is still a name.
pub(super) const BOOT_MAX: usize = NAME_MAX - 2 * OWNER_BYTES - 1;

/// The boot `text` of this agent. The same for ever, so that what a spool delivers after a restart still names it.
pub(super) fn own_boot(agent: &AgentId, text: &str) -> Result<BootId, Status> {
    let invalid = |rule: String| Status::invalid_argument(format!("boot: {rule}"));
    BootId::new(text).map_err(|error| invalid(error.to_string()))?;
    if text.len() > BOOT_MAX {
        return Err(invalid(format!("has {} characters; at most {BOOT_MAX} are allowed", text.len())));
    }
    let owner = Sha256::digest(agent.as_str());
    BootId::new(&format!("{}.{text}", hex::encode(&owner[..OWNER_BYTES]))).map_err(|error| invalid(error.to_string()))
}

/// A message that is parsed elsewhere and names the boot of its sender.
pub(super) trait NamesBoot: Sized {
    fn boot(&mut self) -> &mut String;

    /// The message with its boot made the agent's own.
    fn of(mut self, agent: &AgentId) -> Result<Self, Status> {
        let boot = own_boot(agent, self.boot())?;
        *self.boot() = boot.into();
        Ok(self)
    }
}

macro_rules! names_boot {
    ($($message:ident)*) => {$(
        impl NamesBoot for v1::$message {
            fn boot(&mut self) -> &mut String {
                &mut self.boot
            }
        }
    )*};
}

names_boot! { DecideRequest SettleRequest RenewRequest AbandonRequest ProbeReport }
