//! People's words on gates: what a signed one leaves behind, and who hears of it.

use super::*;
use crate::word::{Signer, Word};

/// The command that a signed word becomes; the signature alone tells words apart here.
fn signed(gate: &GateId, person: &str, verdict: GateVerdict) -> Command {
    let (namespace, gate_uid) = ("trading".to_owned(), "6a4b".to_owned());
    let (digest, person) = (RequestDigest::from_bytes([1; 32]), PersonId::new(person).unwrap());
    let word = Word {
        namespace: namespace.clone(),
        gate: gate.clone(),
        gate_uid: gate_uid.clone(),
        class: "desk-heads".to_owned(),
        digest,
        verdict,
        reason: String::new(),
        person: person.clone(),
    };
    let signature = Signer::from_seed(&[1; 32]).unwrap().sign(&word);
    let voucher = Some(Box::new(Voucher { namespace, gate_uid, signature }));
    Command::DecideGate(Box::new(DecideGate { gate: gate.clone(), digest: None, person, verdict, reason: String::new(), voucher }))
}

#[test]
fn a_signed_word_is_heard_once_and_a_later_one_of_the_same_person_stands() {
    let mut ledger = Ledger::default();
    let grant = ledger.grant(&order("d1"));
    let Reply::Settled { gate: Some(gate), .. } = ledger.settle("a", &grant, doubt()) else { panic!("no gate") };
    // As where a rule asks two people to settle a doubt: one may change their mind before the other speaks.
    let mut spec = ledger.state.gate(&gate).unwrap().spec.clone();
    spec.required = 2;
    ledger.state.fold(&Event { ts: ledger.state.last_ts(), fact: Fact::GateOpened { gate: Box::new(spec) } });
    for verdict in [GateVerdict::Executed, GateVerdict::NotExecuted] {
        assert_eq!(ledger.ask(&signed(&gate, "ada", verdict)).events.len(), 1);
    }
    let replayed = ledger.ask(&signed(&gate, "ada", GateVerdict::Executed));
    assert_eq!((replayed.events.len(), matches!(replayed.reply, Reply::Done)), (0, true), "a word that was taken back comes again");
    ledger.ask(&signed(&gate, "bob", GateVerdict::Executed));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::Pending);
    ledger.ask(&signed(&gate, "bob", GateVerdict::NotExecuted));
    assert_eq!(ledger.state.gate(&gate).unwrap().phase, GatePhase::NotExecuted);
}

#[test]
fn the_journal_keeps_what_a_word_was_believed_by_and_reads_words_of_before() {
    let fact = Fact::GateVoted {
        gate: GateId::new("gate-1").unwrap(),
        person: PersonId::new("ada").unwrap(),
        verdict: GateVerdict::Approve,
        reason: "ok".to_owned(),
        voucher: None,
    };
    // As segments were written before words were signed; a run's chain is computed over these bytes.
    let before = r#"{"type":"gate_voted","gate":"gate-1","person":"ada","verdict":"Approve","reason":"ok"}"#;
    assert_eq!(serde_json::to_string(&fact).unwrap(), before);
    assert_eq!(serde_json::from_str::<Fact>(before).unwrap(), fact);
    let Command::DecideGate(word) = signed(&GateId::new("gate-1").unwrap(), "ada", GateVerdict::Approve) else { panic!("no word") };
    let Fact::GateVoted { gate, person, verdict, reason, .. } = fact else { panic!("no vote") };
    let signed = Fact::GateVoted { gate, person, verdict, reason, voucher: word.voucher };
    let text = serde_json::to_string(&signed).unwrap();
    assert!(text.contains(r#""voucher":{"namespace":"trading","gate_uid":"6a4b","signature":"ed25519:"#), "{text}");
    assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), signed);
}

#[test]
fn every_change_of_a_gate_is_noted_until_somebody_takes_note_and_bears_on_nothing() {
    let mut ledger = Ledger::default();
    let gated = |decision| Decide { approval: Some(approval(1, 1)), ..order(decision) };
    let gate = ledger.refusal(&gated("d1")).gate.unwrap();
    let mut unread = ledger.clone();
    let touched = |ledger: &mut Ledger| ledger.state.take_touched_gates().into_iter().collect::<Vec<_>>();
    assert_eq!(touched(&mut ledger), std::slice::from_ref(&gate), "opened");
    assert_eq!(touched(&mut ledger), []);
    let mut steps = 0;
    let mut both = |ledger: &mut Ledger, step: &dyn Fn(&mut Ledger) -> String| {
        steps += 1;
        assert_eq!(step(ledger), step(&mut unread), "step {steps}");
        touched(ledger)
    };
    let vote = |ledger: &mut Ledger| format!("{:?}", ledger.vote(&gate, "ada", GateVerdict::Approve));
    assert_eq!(both(&mut ledger, &vote), std::slice::from_ref(&gate), "approved");
    let ask = |ledger: &mut Ledger| format!("{:?}", ledger.decide(&gated("d2")));
    assert_eq!(both(&mut ledger, &ask), std::slice::from_ref(&gate), "consumed");
    let free = |ledger: &mut Ledger| {
        let grant = ledger.grant(&gated("d2"));
        format!("{:?}", ledger.settle("a", &grant, SettleOutcome::NotSent(NotSentProof::ConnectFailed)))
    };
    assert_eq!(both(&mut ledger, &free), std::slice::from_ref(&gate), "given back");
    let expire = |ledger: &mut Ledger| format!("{:?}", ledger.pass(Millis::from_secs(3600)));
    assert_eq!(both(&mut ledger, &expire), std::slice::from_ref(&gate), "expired");
    assert_eq!(both(&mut ledger, &expire), [], "nothing");
}
