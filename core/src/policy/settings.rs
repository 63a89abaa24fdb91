//! What the policies that select an agent say beside their rules, merged: the namespace can only tighten, and loosens only what
//! the cluster has delegated.

use super::host::{Host, HostPattern};
use super::model::{Delegate, DerivedKeys, DerivedMode, FailureMode, Level, Mode, Origin, Policy};
use crate::time::Millis;

/// Body bytes buffered for expressions where no policy says more.
pub const DEFAULT_BODY_BYTES: u64 = 256 * 1024;
/// How long after completion a derived key acts where no policy says more.
pub const DEFAULT_DERIVED_WINDOW: Millis = Millis::from_secs(600);

/// The merged settings of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens while the ledger is away.
    pub failure_mode: FailureMode,
    /// Body bytes buffered for expressions: the most that any policy asks for.
    pub body_bytes: u64,
    /// How far derived keys act.
    pub derived_keys: DerivedKeys,
    /// Every policy that selects the agent, and there is one, is in Audit mode: nothing is refused, changed or replayed, and the
    /// spans say what would have been.
    pub audit: bool,
    uninspected: Vec<HostPattern>,
}

impl Settings {
    pub(super) fn of<'a>(policies: impl Iterator<Item = &'a Policy> + Clone) -> Self {
        let at = |level| policies.clone().filter(move |policy| policy.origin.level == level);
        let delegated = |what| at(Level::Cluster).any(|policy| policy.delegates.contains(&what));
        let words = |level| at(level).filter_map(|policy| policy.failure_mode);
        let may_say_open = delegated(Delegate::FailureModeOpen);
        let open = words(Level::Cluster).chain(words(Level::Namespace).filter(|_| may_say_open));
        let closed = words(Level::Cluster).chain(words(Level::Namespace)).any(|word| word == FailureMode::Closed);
        let is_open = !closed && open.clone().any(|word| word == FailureMode::Open);
        let may_tunnel = delegated(Delegate::Uninspected);
        let own = at(Level::Namespace).filter(|_| may_tunnel);
        let mut modes = policies.clone().map(|policy| policy.mode).peekable();
        Self {
            audit: modes.peek().is_some() && modes.all(|mode| mode == Mode::Audit),
            failure_mode: if is_open { FailureMode::Open } else { FailureMode::Closed },
            body_bytes: policies.clone().filter_map(|policy| policy.body_bytes).max().unwrap_or(DEFAULT_BODY_BYTES),
            derived_keys: derived(policies.clone().filter_map(|policy| policy.derived_keys)),
            uninspected: at(Level::Cluster).chain(own).flat_map(|policy| policy.uninspected.iter().cloned()).collect(),
        }
    }

    /// Whether a tunnel to this host passes unread.
    pub fn is_uninspected(&self, host: &Host, port: u16) -> bool {
        self.uninspected.iter().any(|pattern| pattern.matches(host, port))
    }

    pub(super) fn is_uninspected_at_some_port(&self, host: &Host) -> bool {
        self.uninspected.iter().any(|pattern| pattern.matches_at_some_port(host))
    }
}

/// What a namespace's policies say in vain, for no policy of the cluster delegates it, whatever an agent's labels: by which
/// Policy, and what would have to be delegated.
pub fn undelegated(policies: &[Policy]) -> Vec<(&Origin, Delegate)> {
    let delegated = |what: &Delegate| {
        policies.iter().filter(|policy| policy.origin.level == Level::Cluster).any(|policy| policy.delegates.contains(what))
    };
    let own = policies.iter().filter(|policy| policy.origin.level == Level::Namespace);
    let said = own.flat_map(|policy| {
        let open = (policy.failure_mode == Some(FailureMode::Open)).then_some(Delegate::FailureModeOpen);
        let unread = (!policy.uninspected.is_empty()).then_some(Delegate::Uninspected);
        open.into_iter().chain(unread).map(|what| (&policy.origin, what))
    });
    said.filter(|(_, what)| !delegated(what)).collect()
}

/// The mode that meets most repeats, and the longest window.
fn derived(words: impl Iterator<Item = DerivedKeys>) -> DerivedKeys {
    let reach = |mode| match mode {
        DerivedMode::Off => 0,
        DerivedMode::Default => 1,
        DerivedMode::Replay => 2,
    };
    words
        .reduce(|a, b| DerivedKeys { mode: if reach(a.mode) >= reach(b.mode) { a.mode } else { b.mode }, window: a.window.max(b.window) })
        .unwrap_or(DerivedKeys { mode: DerivedMode::Default, window: DEFAULT_DERIVED_WINDOW })
}
