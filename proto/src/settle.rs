//! Settle, Renew, Abandon and probe reports.

use kybernis_core::ids::{BootId, DecisionId, EffectId, Fingerprint};
use kybernis_core::machine::{Abandon, DoubtCause, Evidence, Fence, Finding, NotSentProof, Renew, Settle, SettleOutcome};
use kybernis_core::time::{Millis, Timestamp};

use crate::decide::lease;
use crate::parse::{Invalid, bytes32, name, present};
use crate::reply::status;
use crate::v1;

/// A parsed Settle, and the body to keep for replay.
impl TryFrom<v1::SettleRequest> for (Settle, Option<Vec<u8>>) {
    type Error = Invalid;

    fn try_from(request: v1::SettleRequest) -> Result<Self, Invalid> {
        let (outcome, body) = outcome(present("outcome", request.outcome)?)?;
        let fingerprint = match request.fingerprint.as_slice() {
            [] => None,
            bytes => Some(Fingerprint::from_bytes(bytes32("fingerprint", bytes)?)),
        };
        let settle = Settle {
            boot: name("boot", &request.boot, BootId::new)?,
            effect: name("effect", &request.effect, EffectId::new)?,
            fence: present("fence", Fence::new(request.fence))?,
            outcome,
            fingerprint,
            latency: Millis::new(request.latency_ms),
            bytes_out: request.bytes_out,
            bytes_in: request.bytes_in,
        };
        Ok((settle, body))
    }
}

fn outcome(outcome: v1::settle_request::Outcome) -> Result<(SettleOutcome, Option<Vec<u8>>), Invalid> {
    match outcome {
        v1::settle_request::Outcome::Completed(completed) => {
            let answer: kybernis_core::machine::StoredAnswer = present("completed.answer", completed.answer)?.try_into()?;
            if answer.stored && answer.len != completed.body.len() as u64 {
                return Err(Invalid::new("completed.body", "has another length than answer.len"));
            }
            let body = answer.stored.then_some(completed.body);
            Ok((SettleOutcome::Completed(answer), body))
        }
        v1::settle_request::Outcome::Rejected(rejected) => {
            let status = present("rejected.status", status("rejected.status", rejected.status)?)?;
            Ok((SettleOutcome::Rejected { status, not_executed: rejected.not_executed }, None))
        }
        v1::settle_request::Outcome::NotSent(not_sent) => Ok((SettleOutcome::NotSent(not_sent.proof().try_into()?), None)),
        v1::settle_request::Outcome::InDoubt(doubt) => {
            let status = status("in_doubt.status", doubt.status)?;
            Ok((SettleOutcome::InDoubt { cause: doubt.cause().try_into()?, status }, None))
        }
    }
}

/// The message that carries a Settle and the body to keep.
pub fn settle_request(settle: &Settle, body: Vec<u8>) -> v1::SettleRequest {
    let outcome = match &settle.outcome {
        SettleOutcome::Completed(answer) => v1::settle_request::Outcome::Completed(v1::Completed { answer: Some(answer.into()), body }),
        SettleOutcome::Rejected { status, not_executed } => {
            v1::settle_request::Outcome::Rejected(v1::Rejected { status: (*status).into(), not_executed: *not_executed })
        }
        SettleOutcome::NotSent(proof) => v1::settle_request::Outcome::NotSent(v1::NotSent { proof: v1::NotSentProof::from(*proof).into() }),
        SettleOutcome::InDoubt { cause, status } => v1::settle_request::Outcome::InDoubt(v1::InDoubt {
            cause: v1::DoubtCause::from(*cause).into(),
            status: status.map(u32::from).unwrap_or_default(),
        }),
    };
    v1::SettleRequest {
        boot: settle.boot.to_string(),
        effect: settle.effect.to_string(),
        fence: settle.fence.get(),
        outcome: Some(outcome),
        fingerprint: settle.fingerprint.map(|print| print.as_bytes().to_vec()).unwrap_or_default(),
        latency_ms: settle.latency.get(),
        bytes_out: settle.bytes_out,
        bytes_in: settle.bytes_in,
    }
}

impl TryFrom<v1::Lease> for (EffectId, Fence) {
    type Error = Invalid;

    fn try_from(lease: v1::Lease) -> Result<Self, Invalid> {
        Ok((name("leases.effect", &lease.effect, EffectId::new)?, present("leases.fence", Fence::new(lease.fence))?))
    }
}

impl TryFrom<v1::RenewRequest> for Renew {
    type Error = Invalid;

    fn try_from(request: v1::RenewRequest) -> Result<Self, Invalid> {
        Ok(Self {
            boot: name("boot", &request.boot, BootId::new)?,
            leases: request.leases.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            lease: lease("lease_ms", request.lease_ms)?,
            observed: request.observed.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Renew> for v1::RenewRequest {
    fn from(renew: &Renew) -> Self {
        let lease = |(effect, fence): &(EffectId, Fence)| v1::Lease { effect: effect.to_string(), fence: fence.get() };
        Self {
            boot: renew.boot.to_string(),
            leases: renew.leases.iter().map(lease).collect(),
            lease_ms: renew.lease.get(),
            observed: renew.observed.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::AbandonRequest> for Abandon {
    type Error = Invalid;

    fn try_from(request: v1::AbandonRequest) -> Result<Self, Invalid> {
        Ok(Self { boot: name("boot", &request.boot, BootId::new)?, decision: name("decision", &request.decision, DecisionId::new)? })
    }
}

impl TryFrom<v1::ProbeReport> for Evidence {
    type Error = Invalid;

    fn try_from(report: v1::ProbeReport) -> Result<Self, Invalid> {
        let finding = match report.finding() {
            v1::Finding::Executed => Finding::Executed,
            v1::Finding::NotExecuted => Finding::NotExecuted,
            v1::Finding::Unsure => Finding::Unsure,
            v1::Finding::Unspecified => return Err(Invalid::new("finding", "is EXECUTED, NOT_EXECUTED or UNSURE")),
        };
        Ok(Self {
            boot: name("boot", &report.boot, BootId::new)?,
            effect: name("effect", &report.effect, EffectId::new)?,
            fence: present("fence", Fence::new(report.fence))?,
            finding,
            asked_at: Timestamp::from_epoch_ms(report.asked_at_ms),
        })
    }
}

macro_rules! closed_enum {
    ($core:ident, $field:literal, $($variant:ident)*) => {
        impl From<$core> for v1::$core {
            fn from(value: $core) -> Self {
                match value { $($core::$variant => Self::$variant,)* }
            }
        }

        impl TryFrom<v1::$core> for $core {
            type Error = Invalid;

            fn try_from(value: v1::$core) -> Result<Self, Invalid> {
                match value {
                    $(v1::$core::$variant => Ok(Self::$variant),)*
                    v1::$core::Unspecified => Err(Invalid::new($field, "is not specified")),
                }
            }
        }
    };
}

closed_enum!(NotSentProof, "not_sent.proof", ConnectFailed TlsFailed ZeroBytesWritten RefusedStream GoawayBelow DeadlineBeforeFirstByte Abandoned);
closed_enum!(DoubtCause, "in_doubt.cause", Reset Eof Timeout Status Truncated Outcome RetriesExhausted LeaseLost);
