//! What an answer's status says about the effect, where no tool knows better.

use crate::mutation::broken;

/// What a status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWord {
    /// It was done.
    Completed,
    /// It was refused; the key is free.
    Rejected,
    /// The same effect goes on at `Location`.
    GoesOn,
    /// It may have been done.
    InDoubt,
}

/// By HTTP status. 1xx is no answer and never gets here. `far_side_key_sent`: the request carried a key of ours that the
/// far side knows, so that its 409 may speak of our own first try.
pub fn by_status(status: u16, far_side_key_sent: bool) -> StatusWord {
    match status {
        200..=299 | 301..=303 => StatusWord::Completed,
        307 | 308 => StatusWord::GoesOn,
        408 => StatusWord::InDoubt,
        409 if far_side_key_sent && !broken("conflict_with_key_is_doubt") => StatusWord::InDoubt,
        400..=499 => StatusWord::Rejected,
        500..=599 if broken("server_error_is_doubt") => StatusWord::Rejected,
        _ => StatusWord::InDoubt,
    }
}

/// By gRPC status code (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub const fn by_grpc_status(code: u32) -> StatusWord {
    match code {
        0 => StatusWord::Completed,
        // INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION,
        // OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED.
        3 | 5..=9 | 11 | 12 | 16 => StatusWord::Rejected,
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, ABORTED, INTERNAL, UNAVAILABLE, DATA_LOSS, and codes that nobody has named.
        _ => StatusWord::InDoubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_says_what_the_contract_says() {
        let check = |statuses: &[u16], expect: StatusWord| {
            for status in statuses {
                assert_eq!(by_status(*status, false), expect, "{status}");
            }
        };
        check(&[200, 201, 202, 204, 206, 299, 301, 302, 303], StatusWord::Completed);
        check(&[307, 308], StatusWord::GoesOn);
        check(&[400, 401, 403, 404, 405, 409, 410, 422, 423, 429, 451, 499], StatusWord::Rejected);
        check(&[300, 304, 305, 306, 309, 399, 408, 500, 501, 502, 503, 504, 599, 600, 999], StatusWord::InDoubt);
        assert_eq!(by_status(409, true), StatusWord::InDoubt);
        assert_eq!(by_status(400, true), StatusWord::Rejected);
    }

    #[test]
    fn every_grpc_status_says_what_the_contract_says() {
        for code in 0..=20 {
            let expect = match code {
                0 => StatusWord::Completed,
                1 | 2 | 4 | 10 | 13 | 14 | 15 | 17.. => StatusWord::InDoubt,
                _ => StatusWord::Rejected,
            };
            assert_eq!(by_grpc_status(code), expect, "{code}");
        }
    }
}
