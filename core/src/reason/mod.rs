//! Every reason for which a call is not simply answered by the far side, in one table: status, title, retryability, gRPC.
//!
//! A new reason is a variant of [`Code`] and one arm of [`Code::row`]; its page is `docs/errors/<code>.md`.

mod problem;

pub use problem::{Problem, Refusal, header_text};

/// Whether a client that asks again by itself could get another answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retryable {
    /// Asking again changes nothing; the status is one that client libraries do not retry.
    Final,
    /// Asking again later may succeed.
    Later,
}

/// The canonical gRPC status codes that refusals use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    /// 3
    InvalidArgument,
    /// 4
    DeadlineExceeded,
    /// 5
    NotFound,
    /// 7
    PermissionDenied,
    /// 8
    ResourceExhausted,
    /// 9
    FailedPrecondition,
    /// 10
    Aborted,
    /// 14
    Unavailable,
    /// 16
    Unauthenticated,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The code as it stands in bodies, spans and metric labels.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// RFC 9457 `title`.
    pub title: &'static str,
    /// Whether asking again can help.
    pub retryable: Retryable,
    /// The verdict that `X-Kyb-Verdict` shows.
    pub verdict: &'static str,
}

macro_rules! codes {
    ($($variant:ident = $code:literal $status:literal $retry:ident $verdict:literal $title:literal;)*) => {
        /// Why a call was refused or not answered by the far side.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// This code's line of the table.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: $code,
                        status: $status,
                        title: $title,
                        retryable: Retryable::$retry,
                        verdict: $verdict,
                    },)*
                }
            }

            /// The code that `text` spells.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    PolicyDenied = "policy_denied" 403 Final "deny" "A policy denies this call";
    PolicyError = "policy_error" 403 Final "deny" "A policy expression failed on this call";
    EgressDenied = "egress_denied" 403 Final "deny" "No policy allows this destination";
    ToolNotRegistered = "tool_not_registered" 403 Final "deny" "No such tool is registered for this call";
    LoopDetected = "loop_detected" 403 Final "deny" "The same call was made too often";
    RunPaused = "run_paused" 403 Final "deny" "The run is paused";
    RunForeign = "run_foreign" 403 Final "deny" "The run belongs to another agent";
    ApprovalRequired = "approval_required" 403 Final "require_approval" "A person must approve this call first";
    ApprovalDenied = "approval_denied" 403 Final "deny" "A person denied this call";
    ApprovalExpired = "approval_expired" 403 Final "require_approval" "The approval was not given or used in time";
    ApprovalMismatch = "approval_mismatch" 403 Final "require_approval" "The approval is for another request";
    GateLimit = "gate_limit" 403 Final "deny" "Too many calls of this agent and tool already wait for approval";
    GateClosed = "gate_closed" 422 Final "deny" "The gate was decided already";
    DecisionUnsigned = "decision_unsigned" 403 Final "deny" "Admission does not vouch for this decision";
    SessionRefused = "session_refused" 403 Final "deny" "A session cannot be opened here";
    BudgetExceeded = "budget_exceeded" 402 Final "deny" "The budget is used up";
    ToolDown = "tool_down" 429 Later "delay" "The tool is down";
    RateLimited = "rate_limited" 429 Later "delay" "The call was held as long as allowed and is still too early";
    EffectInFlight = "effect_in_flight" 409 Later "delay" "The first call is still on its way";
    EffectInDoubt = "effect_in_doubt" 423 Final "deny" "Nobody knows yet whether this effect happened";
    EffectExpired = "effect_expired" 410 Final "deny" "The effect happened; its answer is no longer kept";
    ReplayUnavailable = "replay_unavailable" 410 Final "deny" "The effect happened; its answer cannot be replayed";
    IdempotencyKeyReused = "idempotency_key_reused" 422 Final "deny" "The idempotency key named another request";
    IdempotencyKeyInvalid = "idempotency_key_invalid" 400 Final "deny" "The idempotency key is not valid";
    BadControlHeader = "bad_control_header" 400 Final "deny" "A control header is not valid";
    AmbiguousJson = "ambiguous_json" 400 Final "deny" "The JSON body can be read in two ways";
    SchemaMismatch = "schema_mismatch" 400 Final "deny" "The body does not fit the tool's schema";
    BadRequest = "bad_request" 400 Final "deny" "The request is not valid";
    HeadersTooLarge = "headers_too_large" 431 Final "deny" "The request's head is too large";
    BodyTooLargeForPolicy = "body_too_large_for_policy" 413 Final "deny" "The body is larger than policy may buffer";
    AuthorityMismatch = "authority_mismatch" 421 Final "deny" "The request names two different destinations";
    LoopToSelf = "loop_to_self" 421 Final "deny" "The destination is this proxy itself";
    LedgerUnavailable = "ledger_unavailable" 503 Later "deny" "The ledger cannot be reached";
    SpoolFull = "spool_full" 503 Later "deny" "The sidecar cannot keep more outcomes until the ledger is back";
    UpstreamUnreachable = "upstream_unreachable" 502 Later "allow" "The far side cannot be reached";
    UpstreamTimeout = "upstream_timeout" 504 Later "allow" "The far side did not answer in time";
    PolicyStale = "policy_stale" 503 Later "deny" "The policy changed while the call was judged";
    DecisionAbandoned = "decision_abandoned" 503 Later "deny" "The decision was given up";
    NotFound = "not_found" 404 Final "deny" "There is no such thing";
    Unauthenticated = "unauthenticated" 401 Final "deny" "The token is missing or not valid";
    Forbidden = "forbidden" 403 Final "deny" "The token's role may not do this";
}

impl Code {
    /// The code as it stands in bodies, spans and metric labels.
    pub const fn as_str(self) -> &'static str {
        self.row().code
    }

    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// The gRPC status that carries the same refusal.
    pub const fn grpc(self) -> Grpc {
        match self.row().status {
            400 | 413 | 421 | 431 => Grpc::InvalidArgument,
            401 => Grpc::Unauthenticated,
            402 | 429 => Grpc::ResourceExhausted,
            404 => Grpc::NotFound,
            409 => Grpc::Aborted,
            410 | 422 | 423 => Grpc::FailedPrecondition,
            502 | 503 => Grpc::Unavailable,
            504 => Grpc::DeadlineExceeded,
            _ => Grpc::PermissionDenied,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_refusals_never_use_a_status_that_clients_retry() {
        for code in Code::ALL {
            let row = code.row();
            let invites = matches!(row.status, 408 | 409 | 429) || row.status >= 500;
            assert_eq!(invites, row.retryable == Retryable::Later, "{code}");
        }
    }

    #[test]
    fn every_code_is_spelled_once_and_read_back() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn the_contract_s_statuses_hold() {
        for (code, status) in [
            ("policy_denied", 403),
            ("budget_exceeded", 402),
            ("tool_down", 429),
            ("effect_in_flight", 409),
            ("effect_in_doubt", 423),
            ("effect_expired", 410),
            ("idempotency_key_reused", 422),
            ("ambiguous_json", 400),
            ("body_too_large_for_policy", 413),
            ("authority_mismatch", 421),
            ("ledger_unavailable", 503),
            ("upstream_unreachable", 502),
            ("upstream_timeout", 504),
        ] {
            assert_eq!(Code::parse(code).map(Code::status), Some(status), "{code}");
        }
    }
}
