//! Who held the grants before an effect's last one. A tool's own key is the whole tenant's, so a key that one agent's grant left
//! free may go to another agent, and core's record names the last of them only. Rebuilt by the fold; never stored.

use std::collections::HashMap;

use kybernis_core::ids::{AgentId, EffectId};
use kybernis_core::machine::{Effect, Fact, Fence, State};

/// For each effect that changed hands, in order: the last fence of an agent, and the agent.
#[derive(Debug, Default)]
pub(super) struct Grantees {
    before: HashMap<EffectId, Vec<(Fence, AgentId)>>,
}

impl Grantees {
    /// Takes a fact in, ahead of its fold into `state`.
    pub(super) fn note(&mut self, state: &State, fact: &Fact) {
        if let Fact::EffectGranted { spec, .. } = fact
            && let Some(known) = state.effect(&spec.effect)
            && known.spec.agent != spec.agent
        {
            self.before.entry(spec.effect.clone()).or_default().push((known.fence, known.spec.agent.clone()));
        } else if let Fact::EffectForgotten { effect } = fact {
            self.before.remove(effect);
        }
    }

    /// The agent that holds, or held, the grant of this fence.
    pub(super) fn of<'e>(&'e self, effect: &'e Effect, fence: Fence) -> &'e AgentId {
        let mut before = self.before.get(&effect.spec.effect).into_iter().flatten();
        before.find(|(last, _)| fence <= *last).map_or(&effect.spec.agent, |(_, agent)| agent)
    }
}
