//! The permit: a value that only a decision can make and that the upstream client consumes by move. No permit, no byte.

use std::time::Duration;

use tokio::sync::watch;

use crate::boot_clock::BootInstant;

/// How long before the end of a lease the last request byte may still be handed to the kernel (semantics: "never past
/// lease end − 2 s"): room for what lies between our check and the wire.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// Witness that the ledger granted an effect. Only the stack's decision layer constructs it.
#[derive(Debug)]
pub struct Granted(());

impl Granted {
    /// To be called where a `Decide` was answered with a grant, and nowhere else.
    pub(crate) const fn by_ledger() -> Self {
        Self(())
    }

    /// To be called where every policy that selects the agent only audits, and nowhere else.
    pub(crate) const fn by_audit() -> Self {
        Self(())
    }
}

/// Witness that policy allowed a read or a session. Only the stack's decision layer constructs it.
#[derive(Debug)]
pub struct Allowed(());

impl Allowed {
    /// To be called where a policy snapshot, or the ledger, allowed a call that is not deduplicated, and nowhere else.
    pub(crate) const fn by_policy() -> Self {
        Self(())
    }
}

/// The terms on which a granted effect may be written.
#[derive(Clone, Debug)]
pub struct EffectTerms {
    /// Past this instant the first request byte is not written.
    pub send_by: BootInstant,
    /// End of the current lease, raised by each renewal; later bytes stop [`LEASE_MARGIN`] before it.
    pub lease_end: watch::Receiver<BootInstant>,
    /// The tool declares that sending twice does no harm: an HTTP/1 connection that has idled may carry it.
    pub idempotent: bool,
    /// Never use a pooled connection, whatever its age.
    pub fresh_connection: bool,
}

impl EffectTerms {
    /// Nothing but the connection's age is governed.
    pub(crate) fn audited() -> Self {
        let never = BootInstant::from_nanos(u64::MAX);
        Self { send_by: never, lease_end: watch::channel(never).1, idempotent: false, fresh_connection: false }
    }

    /// The last instant at which any byte of the request may be written, as the lease stands now.
    pub fn last_byte_by(&self) -> BootInstant {
        self.lease_end.borrow().before(LEASE_MARGIN)
    }
}

/// Leave to send one request, or to open one tunnel. Not `Clone`: each is used once.
#[derive(Debug)]
pub struct Permit(PermitKind);

#[derive(Debug)]
pub(crate) enum PermitKind {
    Read,
    Effect(EffectTerms),
    Session,
}

impl Permit {
    /// A read that the policy snapshot allowed.
    pub fn read(_: Allowed) -> Self {
        Self(PermitKind::Read)
    }

    /// One dispatch of a granted effect, on `terms`.
    pub fn effect(_: Granted, terms: EffectTerms) -> Self {
        Self(PermitKind::Effect(terms))
    }

    /// An upgrade, an extended CONNECT, a streaming call or an opaque tunnel: decided, not deduplicated.
    pub fn session(_: Allowed) -> Self {
        Self(PermitKind::Session)
    }

    /// Whether this permit opens a session, which is what a tunnel and an upgrade need.
    pub const fn is_session(&self) -> bool {
        matches!(self.0, PermitKind::Session)
    }

    pub(crate) fn into_kind(self) -> PermitKind {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_moves_the_last_byte_and_the_margin_stays() {
        let (renew, lease_end) = watch::channel(BootInstant::from_nanos(30_000_000_000));
        let terms = EffectTerms { send_by: BootInstant::from_nanos(10_000_000_000), lease_end, idempotent: false, fresh_connection: false };
        assert_eq!(terms.last_byte_by(), BootInstant::from_nanos(28_000_000_000));
        renew.send_replace(BootInstant::from_nanos(40_000_000_000));
        assert_eq!(terms.last_byte_by(), BootInstant::from_nanos(38_000_000_000));
        assert!(Permit::session(Allowed::by_policy()).is_session());
        assert!(!Permit::effect(Granted::by_ledger(), terms).is_session());
    }
}
