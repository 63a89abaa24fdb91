//! What may happen next: commands whose subjects are picked from what a history has made so far.

use kybernis_core::machine::{DerivedMode, DoubtCause, Finding, GateVerdict, NotSentProof, Seen};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::names;

/// One thing that happens to the ledger.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A sidecar asks for a new call.
    Ask(Call),
    /// A sidecar repeats a Decide, word for word.
    AskAgain(Index),
    /// A sidecar, most often the holder, says what became of a grant.
    Settle { grant: Index, word: Word, by_stranger: bool },
    /// A sidecar keeps its leases, or claims others'.
    Renew { grants: Vec<Index>, boot: u8 },
    /// A sidecar gives up a Decide that it made, or one that has not arrived yet.
    Abandon { ask: Index, before_it_arrives: bool },
    /// A sidecar tells what it saw of its callers.
    Observe { grant: Index, seen: Seen },
    /// A sidecar's life is over.
    BootGone { boot: u8 },
    /// A probe that was asked for `ago_s` seconds before answers.
    Evidence { grant: Index, finding: Finding, ago_s: u64 },
    /// A person decides a gate.
    Vote { gate: Index, person: u8, verdict: GateVerdict, of_another_request: bool },
    /// A sidecar sends spans.
    Spans { boot: u8, run: u8, first: FirstSpan, count: u8 },
    /// Time passes, and the ledger looks at what that alone does.
    Pass { ms: u64 },
    /// The clock jumps, and the ledger has not looked yet.
    Jump { ms: u64 },
    /// The ledger starts anew from its journal.
    Restart,
}

/// Where a batch of spans claims to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FirstSpan {
    Next,
    Repeated,
    Gap,
    EndOfNumbers,
}

/// What a sidecar says of an exchange; `n` varies the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Completed(u8),
    Rejected { status: u16, not_executed: bool },
    NotSent(NotSentProof),
    InDoubt(DoubtCause),
}

/// A side effect that an agent wants.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) boot: u8,
    pub(crate) run: u8,
    pub(crate) keys: Vec<u8>,
    pub(crate) by_tool: bool,
    pub(crate) meaning: u8,
    pub(crate) fingerprint: Option<u8>,
    pub(crate) principal: u8,
    pub(crate) derived: DerivedMode,
    pub(crate) probe: Option<Option<u64>>,
    pub(crate) approval: Option<(u8, u32)>,
    pub(crate) observed: Vec<(Index, Seen)>,
    pub(crate) patience_over: bool,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => call().prop_map(Step::Ask),
        3 => any::<Index>().prop_map(Step::AskAgain),
        12 => (any::<Index>(), word(), prop::bool::weighted(0.1)).prop_map(|(grant, word, by_stranger)| Step::Settle { grant, word, by_stranger }),
        2 => (prop::collection::vec(any::<Index>(), 0..3), 0..names::BOOTS).prop_map(|(grants, boot)| Step::Renew { grants, boot }),
        2 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(ask, before_it_arrives)| Step::Abandon { ask, before_it_arrives }),
        2 => (any::<Index>(), seen()).prop_map(|(grant, seen)| Step::Observe { grant, seen }),
        1 => (0..names::BOOTS).prop_map(|boot| Step::BootGone { boot }),
        5 => (any::<Index>(), finding(), select(vec![0, 1, 20, 40, 100])).prop_map(|(grant, finding, ago_s)| Step::Evidence { grant, finding, ago_s }),
        8 => vote(),
        2 => spans(),
        4 => pause().prop_map(|ms| Step::Pass { ms }),
        3 => pause().prop_map(|ms| Step::Jump { ms }),
        1 => Just(Step::Restart),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let keys = prop_oneof![
        5 => (1..=names::KEYS).prop_map(|key| vec![key]),
        3 => select(vec![vec![1, 2], vec![2, 1], vec![1, 3], vec![2, 3], vec![1, 2, 3]]),
        4 => Just(Vec::new()),
    ];
    let fingerprint = prop_oneof![6 => Just(Some(1)), 2 => Just(Some(2)), 1 => Just(None)];
    let principal = prop_oneof![5 => Just(1_u8), 1 => Just(2)];
    let derived = prop_oneof![6 => Just(DerivedMode::Default), 1 => Just(DerivedMode::Replay), 1 => Just(DerivedMode::Off)];
    let probe = select(vec![None, Some(None), Some(Some(0)), Some(Some(30))]);
    let approval = prop_oneof![4 => Just(None), 2 => Just(Some((1, 1))), 1 => Just(Some((2, 1))), 1 => Just(Some((1, 2)))];
    let observed = prop_oneof![3 => Just(Vec::new()), 1 => (any::<Index>(), seen()).prop_map(|one| vec![one])];
    let who = (prop_oneof![6 => 0..2_u8, 1 => Just(2_u8)], 0..names::RUNS);
    let what = (keys, any::<bool>(), 1..=names::MEANINGS, fingerprint, principal);
    (who, what, derived, probe, approval, observed, any::<bool>()).prop_map(
        |(who, what, derived, probe, approval, observed, patience_over)| {
            let ((boot, run), (keys, by_tool, meaning, fingerprint, principal)) = (who, what);
            Call { boot, run, keys, by_tool, meaning, fingerprint, principal, derived, probe, approval, observed, patience_over }
        },
    )
}

fn word() -> impl Strategy<Value = Word> {
    let proofs = vec![NotSentProof::ConnectFailed, NotSentProof::ZeroBytesWritten, NotSentProof::RefusedStream];
    let causes = vec![DoubtCause::Eof, DoubtCause::Timeout, DoubtCause::Status];
    prop_oneof![
        4 => (1..4_u8).prop_map(Word::Completed),
        2 => any::<bool>().prop_map(|not_executed| Word::Rejected { status: if not_executed { 503 } else { 400 }, not_executed }),
        2 => select(proofs).prop_map(Word::NotSent),
        4 => select(causes).prop_map(Word::InDoubt),
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    select(vec![Seen::Read, Seen::CallerGone])
}

fn finding() -> impl Strategy<Value = Finding> {
    select(vec![Finding::Executed, Finding::NotExecuted, Finding::NotExecuted, Finding::Unsure])
}

fn vote() -> impl Strategy<Value = Step> {
    let words = vec![GateVerdict::Approve, GateVerdict::Approve, GateVerdict::Deny, GateVerdict::Executed, GateVerdict::NotExecuted];
    (any::<Index>(), 0..3_u8, select(words), prop::bool::weighted(0.1)).prop_map(|(gate, person, verdict, of_another_request)| Step::Vote {
        gate,
        person,
        verdict,
        of_another_request,
    })
}

fn spans() -> impl Strategy<Value = Step> {
    let first = prop_oneof![6 => Just(FirstSpan::Next), 2 => Just(FirstSpan::Repeated), 1 => Just(FirstSpan::Gap), 1 => Just(FirstSpan::EndOfNumbers)];
    (0..names::BOOTS, 0..names::RUNS, first, 0..4_u8).prop_map(|(boot, run, first, count)| Step::Spans { boot, run, first, count })
}

/// A little, a lease, a probe's horizon, a gate's life, an answer's retention, a tombstone's time.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..2000_u64,
        4 => select(vec![10_000, 29_999, 30_000, 31_000, 60_000, 61_000]),
        2 => select(vec![601_000, 3_601_000]),
        1 => select(vec![72 * 3_600_000, 30 * 24 * 3_600_000]),
    ]
}
