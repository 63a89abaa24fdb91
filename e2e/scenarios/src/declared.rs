//! What a cell must come to, said before it runs: how often the far side executes, what the client is told, and what the
//! ledger says. One function for a client on its own, one for the same client under Kybernis.

use crate::case::{Case, Seen, Speaks};
use crate::client::Client;
use crate::manifests::Manifests;

/// What the client ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer with this status.
    Status(u16),
    /// 423: nobody knows yet; or 410, once the probe has found that it was executed.
    Doubt,
    /// An error of the client's own, and no answer.
    Broken,
}

/// What the ledger says in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Executed, by the far side's own answer.
    Completed,
    /// Executed, as the probe found.
    CompletedByProbe,
    /// Refused by the far side; the key is free.
    Rejected,
    /// A person is asked.
    InDoubt,
}

/// What a client on its own comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bare {
    /// How often the far side executes the order.
    pub executions: usize,
    /// What the client is told.
    pub answer: Answer,
}

/// What the same client comes to under Kybernis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Governed {
    /// How often the far side executes the order.
    pub executions: usize,
    /// What the client is told.
    pub answer: Answer,
    /// What the ledger says.
    pub state: State,
}

const PLACED: Answer = Answer::Status(201);

/// A client on its own; `None` where it does not speak what the fault needs.
pub fn bare(case: &Case, client: Client) -> Option<Bare> {
    let habits = client.habits();
    if case.speaks == Speaks::Http2 && !habits.http2 {
        return None;
    }
    let first = usize::from(case.executes);
    let again = Bare { executions: first + 1, answer: PLACED };
    let stays = |answer| Bare { executions: first, answer };
    Some(match case.seen {
        // Here lies the harm: what was executed is asked for again.
        Seen::NoAnswer | Seen::Silence | Seen::Late | Seen::NotSent => again,
        Seen::HalfAnswer if habits.retries_broken_bodies => again,
        Seen::HalfAnswer => stays(Answer::Broken),
        Seen::GoawayThenAnswer if habits.heeds_goaway => stays(PLACED),
        Seen::GoawayThenAnswer => again,
        Seen::Status(302) => stays(Answer::Status(if habits.follows { 200 } else { 302 })),
        Seen::Status(307) if habits.follows => again,
        Seen::Status(status) if client.retries(status) => again,
        Seen::Status(status) => stays(Answer::Status(status)),
    })
}

/// The same client under Kybernis, whatever captured it.
pub fn governed(case: &Case, manifests: Manifests, client: Client) -> Governed {
    let habits = client.habits();
    let placed = Governed { executions: 1, answer: PLACED, state: State::Completed };
    let executions = usize::from(case.executes);
    // Only a far side that can tell a repeat from a new order is asked again.
    let repeatable = manifests == Manifests::FarSideKey;
    let doubt = |answer| Governed {
        executions,
        answer,
        // "Not there" is no proof while the order may still be on its way; "there" is.
        state: if manifests == Manifests::Probe && case.executes { State::CompletedByProbe } else { State::InDoubt },
    };
    match case.seen {
        // What is proven not to have happened is simply done again; what only comes late is replayed.
        Seen::NotSent | Seen::Late | Seen::GoawayThenAnswer => placed,
        Seen::NoAnswer | Seen::Silence if repeatable => placed,
        Seen::NoAnswer | Seen::Silence => doubt(Answer::Doubt),
        // Never a retry after the first byte of an answer has gone to the client.
        Seen::HalfAnswer if habits.retries_broken_bodies => doubt(Answer::Doubt),
        Seen::HalfAnswer => doubt(Answer::Broken),
        Seen::Status(302) => {
            Governed { executions, answer: Answer::Status(if habits.follows { 200 } else { 302 }), state: State::Completed }
        }
        // The same effect goes on at Location.
        Seen::Status(307) => placed,
        // The far side promises, in the two sets that say so, that 503 means that nothing was done.
        Seen::Status(503) if matches!(manifests, Manifests::Probe | Manifests::FarSideKey) => placed,
        Seen::Status(500..) if repeatable => placed,
        Seen::Status(500..) => doubt(Answer::Doubt),
        // With a far-side key a conflict may be with our own earlier try.
        Seen::Status(409) if repeatable => doubt(Answer::Doubt),
        Seen::Status(429) if repeatable => placed,
        Seen::Status(status) if client.retries(status) => placed,
        Seen::Status(status) => Governed { executions, answer: Answer::Status(status), state: State::Rejected },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::CASES;

    fn cells() -> impl Iterator<Item = (&'static Case, Manifests, Client)> {
        CASES.iter().flat_map(|case| Manifests::ALL.into_iter().flat_map(move |set| Client::ALL.map(move |client| (case, set, client))))
    }

    #[test]
    fn governed_nothing_is_ever_executed_twice() {
        for (case, manifests, client) in cells() {
            assert!(governed(case, manifests, client).executions <= 1, "{} {client:?} {manifests:?}", case.name);
        }
    }

    #[test]
    fn bare_every_client_buys_twice_wherever_an_executed_order_goes_unanswered() {
        for (case, _, client) in cells().filter(|(case, _, _)| case.executes && matches!(case.seen, Seen::NoAnswer | Seen::Late)) {
            assert!(bare(case, client).is_none_or(|bare| bare.executions == 2), "{} {client:?}", case.name);
        }
    }

    #[test]
    fn a_doubt_is_never_told_as_a_success_nor_a_success_without_an_execution() {
        for (case, manifests, client) in cells() {
            let declared = governed(case, manifests, client);
            let told = matches!(declared.answer, Answer::Status(status) if status < 400);
            assert_eq!(told, declared.state == State::Completed, "{} {client:?} {manifests:?}", case.name);
            assert!(!told || declared.executions == 1, "{} {client:?} {manifests:?}", case.name);
        }
    }

    #[test]
    fn where_the_fault_permits_success_there_is_one() {
        for (case, manifests, client) in cells() {
            let proven = matches!(case.seen, Seen::NotSent | Seen::Late | Seen::GoawayThenAnswer | Seen::Status(302 | 307));
            let repeatable = manifests == Manifests::FarSideKey && !matches!(case.seen, Seen::HalfAnswer | Seen::Status(400 | 401 | 409));
            if proven || repeatable {
                let declared = governed(case, manifests, client);
                assert_eq!((declared.executions, declared.state), (1, State::Completed), "{} {client:?} {manifests:?}", case.name);
            }
        }
    }
}
