//! What one agent may say and see of another's effects.

use super::*;

fn named(agent: &str) -> AgentId {
    AgentId::new(agent).unwrap()
}

fn another() -> AgentId {
    named("another")
}

/// The boot of another agent's sidecar: the edge sees to it that it is.
fn its_boot() -> BootId {
    BootId::new("boot-of-another").unwrap()
}

#[tokio::test]
async fn an_agent_settles_only_its_own_effects() {
    let rig = rig().await;
    let grant = granted(&rig.engine, call(1, "d-1")).await;
    let stranger = AgentId::new("stranger").unwrap();
    let doubt = SettleOutcome::InDoubt { cause: DoubtCause::Reset, status: None };
    let refuse = rig.engine.settle(stranger, settle(&grant, doubt), None).await.unwrap().unwrap_err();
    assert_eq!(refuse.code, Code::NotFound);
    rig.engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
}

/// Fence 1 is this agent's, in doubt, and a person says that it did not happen; then another agent gets fence 2.
async fn handed_over(engine: &Engine) -> (Grant, Grant) {
    let first = granted(engine, call(1, "d-1")).await;
    let doubt = SettleOutcome::InDoubt { cause: DoubtCause::Reset, status: None };
    let gate = engine.settle(agent(), settle(&first, doubt), None).await.unwrap().unwrap().gate.unwrap();
    let digest = {
        let gate = gate.clone();
        engine.read(move |state| state.gate(&gate).unwrap().spec.digest).await.unwrap()
    };
    let person = PersonId::new("local:ada").unwrap();
    let word = DecideGate { gate, digest: Some(digest), person, verdict: GateVerdict::NotExecuted, reason: String::new(), voucher: None };
    engine.decide_gate(word).await.unwrap().unwrap();
    let second = granted(engine, of_another(call(1, "d-2"))).await;
    assert_eq!((&second.effect, second.fence.get()), (&first.effect, 2));
    (first, second)
}

/// The same call by another agent, in a run of its own.
fn of_another(mut parts: DecideParts) -> DecideParts {
    (parts.decide.agent, parts.decide.boot, parts.decide.run) = (another(), its_boot(), RunId::new("run-2").unwrap());
    parts
}

async fn alarms(engine: &Engine) -> usize {
    let events = engine.run_events(RunId::new("run-2").unwrap(), 0, 100).await.unwrap().unwrap();
    events.iter().filter(|(_, event)| matches!(event.fact, kybernis_core::machine::Fact::DuplicateObserved { .. })).count()
}

#[tokio::test]
async fn a_late_proof_is_heard_from_the_agent_that_held_the_grant_and_from_no_other() {
    let Rig { engine, journal, _folder: folder, .. } = rig().await;
    let (first, second) = handed_over(&engine).await;
    drop(engine);
    // Who held what is known after a restart too.
    let rig = rig_on(journal, folder).await;
    for stranger in [another(), named("stranger")] {
        let refuse = rig.engine.settle(stranger, settle(&first, completed()), None).await.unwrap().unwrap_err();
        assert_eq!(refuse.code, Code::NotFound);
    }
    let refuse = rig.engine.settle(agent(), settle(&second, completed()), None).await.unwrap().unwrap_err();
    assert_eq!(refuse.code, Code::NotFound, "the grant of another agent");
    assert_eq!(alarms(&rig.engine).await, 0);

    let late = rig.engine.settle(agent(), settle(&first, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
    assert!(!late.stands);
    assert_eq!(alarms(&rig.engine).await, 1);
    assert_eq!(rig.journal.blob_keys("", 10).await.unwrap(), [] as [String; 0], "an answer that nothing replays is kept");

    let its = Settle { boot: its_boot(), ..settle(&second, completed()) };
    assert!(rig.engine.settle(another(), its, Some(BODY.to_vec())).await.unwrap().unwrap().stands);
}

#[tokio::test]
async fn a_late_probe_is_heard_from_the_agent_that_held_the_grant_and_from_no_other() {
    let rig = rig().await;
    let (first, _) = handed_over(&rig.engine).await;
    let found = |boot: BootId| Evidence {
        boot,
        effect: first.effect.clone(),
        fence: first.fence,
        finding: kybernis_core::machine::Finding::Executed,
        asked_at: Timestamp::from_epoch_ms(1),
    };
    rig.engine.evidence(another(), found(its_boot())).await.unwrap();
    assert_eq!(alarms(&rig.engine).await, 0);
    rig.engine.evidence(agent(), found(boot())).await.unwrap();
    assert_eq!(alarms(&rig.engine).await, 1);
}

#[tokio::test]
async fn an_answer_under_a_tool_s_key_is_replayed_to_every_agent_and_any_other_to_its_own() {
    for (level, sees) in [(KeyLevel::Tool, true), (KeyLevel::Caller, false)] {
        let rig = rig().await;
        let at_level = |decision| {
            let mut parts = call(1, decision);
            parts.decide.level = level;
            parts
        };
        let grant = granted(&rig.engine, at_level("d-1")).await;
        rig.engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
        let DecideAnswer::Replay(replay) = rig.engine.decide(of_another(at_level("d-2"))).await.unwrap() else { panic!("no replay") };
        let body = rig.engine.body(another(), replay.effect, replay.fence).await.unwrap().unwrap();
        assert_eq!(body.map(|chunks| chunks.concat()), sees.then(|| BODY.to_vec()), "{level:?}");
    }
}
