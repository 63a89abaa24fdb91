//! One Decide on its way through the writer: what is seen first, what it may have to wait for, and its answer.

use std::collections::BTreeSet;

use kybernis_core::ids::BootId;
use kybernis_core::machine::{Command, Decide, DerivedMode, Effect, Observe, Refuse, Reply};
use kybernis_core::mutation::broken;
use kybernis_core::reason::Code;
use kybernis_proto::DecideAnswer;
use tokio::time::Instant;

use super::EngineError;
use super::batch::Answer;
use super::waiting::{Obstacle, Waiting};
use super::writer::{Decided, Replied, Staged, Writer};

impl Writer {
    pub(super) fn stage_decide(&mut self, mut waiting: Box<Waiting>, staged: &mut Staged) -> Result<(), EngineError> {
        self.stage_observed(&mut waiting, staged)?;
        if waiting.is_deserted() {
            return Ok(());
        }
        let decide = &waiting.parts.decide;
        let in_force = *self.policy.borrow();
        if decide.policy != in_force && !broken("a_stale_policy_decides_nothing") && !self.state.has_decided(&decide.boot, &decide.decision)
        {
            staged.decided.push((waiting, Decided::Answer(DecideAnswer::PolicyStale(in_force))));
            return Ok(());
        }
        if let Some(absence) = self.stage_absent(&waiting.parts.decide, staged)? {
            staged.decided.push((waiting, Decided::Park(absence)));
            return Ok(());
        }
        waiting.parts.decide.patience_over = waiting.patience_over();
        let command = Command::Decide(Box::new(waiting.parts.decide.clone()));
        let (reply, _) = self.take_in(&command, staged)?;
        let decided = match reply {
            Reply::Grant(grant) => Decided::Answer(DecideAnswer::Grant(*grant)),
            Reply::Replay(replay) => Decided::Answer(DecideAnswer::Replay(*replay)),
            Reply::Wait { effect } => Decided::Park(Obstacle::Flight(effect)),
            Reply::Refuse(refuse) => match &refuse.gate {
                Some(gate) if refuse.code == Code::ApprovalRequired && waiting.holds_at(gate) => {
                    Decided::Park(Obstacle::Person(gate.clone()))
                }
                _ => Decided::Answer(DecideAnswer::Refuse(*refuse)),
            },
            Reply::Renewed { .. } | Reply::Settled { .. } | Reply::SpansAcked { .. } | Reply::Done => {
                let refuse = Refuse::new(Code::LedgerUnavailable, "The ledger could not name a new effect.".to_owned());
                Decided::Answer(DecideAnswer::Refuse(refuse))
            }
        };
        staged.decided.push((waiting, decided));
        Ok(())
    }

    /// What the sidecar saw of its callers bears on what the call meets, and holds whatever becomes of the call: it is taken
    /// in first, as a command of its own, which is run again where the append's fate is unknown.
    fn stage_observed(&mut self, waiting: &mut Waiting, staged: &mut Staged) -> Result<(), EngineError> {
        let observed = std::mem::take(&mut waiting.parts.decide.observed);
        if observed.is_empty() {
            return Ok(());
        }
        self.stage_observation(Observe::Seen { boot: waiting.parts.decide.boot.clone(), observed }, staged)
    }

    fn stage_observation(&mut self, observe: Observe, staged: &mut Staged) -> Result<(), EngineError> {
        let command = Command::Observe(observe);
        let (reply, _) = self.take_in(&command, staged)?;
        staged.replies.push(Replied { command, by: None, blobs: Vec::new(), answer: Answer::nobody(), reply });
        Ok(())
    }

    /// Where another run's call meant the same, and its sidecar is out of touch, that one's caller is gone with it: it may be a pod
    /// that was killed, and this its successor. A sidecar that has only just been cut off, as all are when the ledger starts, is
    /// waited for a little.
    fn stage_absent(&mut self, decide: &Decide, staged: &mut Staged) -> Result<Option<Obstacle>, EngineError> {
        let counts =
            |effect: &&Effect| (effect.is_in_flight() || effect.is_unread()) && !effect.caller_gone && effect.spec.run != decide.run;
        let boots: BTreeSet<BootId> = match decide.derived {
            _ if broken("a_dead_pod_is_met") || decide.audit => BTreeSet::new(),
            DerivedMode::Off => BTreeSet::new(),
            DerivedMode::Default | DerivedMode::Replay => {
                self.state.alike(&decide.agent, &decide.meaning).filter(counts).map(|effect| effect.holder.0.clone()).collect()
            }
        };
        for boot in boots {
            let Some(since) = self.presence.away_since(&boot) else { continue };
            let then = since + self.settings.asked_absence;
            if Instant::now() < then {
                return Ok(Some(Obstacle::Absence(boot, then)));
            }
            self.stage_observation(Observe::BootGone { boot }, staged)?;
        }
        Ok(None)
    }
}
