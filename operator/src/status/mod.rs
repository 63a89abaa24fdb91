//! The last phase: what people read in `kubectl get`. Worked out here without a client, written in [`write`].

pub(crate) mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kybernis_core::policy::Selector;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::apply::{Expected, GRACE, Trouble};
use crate::kinds::policy;
use crate::ledger::{Fleet, Sidecar};
use crate::object::Object;
use crate::reason::{Fault, Reason};
use crate::validate::{Plan, Validated};

const ACCEPTED: &str = "Accepted";
const PROGRAMMED: &str = "Programmed";
const READY: &str = "Ready";
/// Those that are ours.
const TYPES: [&str; 3] = [ACCEPTED, PROGRAMMED, READY];
/// How long sidecars have to come back to a ledger that is back: none of them there says nothing before. They retry within seconds.
const RETURN: Duration = Duration::from_secs(15);
/// Longest message: what a terminal shows; the API takes up to 32768.
pub(crate) const MESSAGE_MAX: usize = 2048;
/// Longest error of a sidecar in a message.
const ERROR_MAX: usize = 256;

/// The status of any of the kinds; the counts are a Policy's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agents: Option<u32>,
}

impl Status {
    /// As the API server has it, less conditions of others.
    pub(crate) fn of(object: &Object) -> Self {
        let found = object.status().cloned().map(serde_json::from_value::<Self>);
        let mut status = found.and_then(Result::ok).unwrap_or_default();
        status.conditions.retain(|condition| TYPES.contains(&condition.type_.as_str()));
        status
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    holds: bool,
    reason: Reason,
    message: String,
}

impl Word {
    fn new(holds: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self { holds, reason, message: shortened(message.into(), MESSAGE_MAX) }
    }
}

/// The time: one clock for people, one for waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) steady: Instant,
}

/// What people are told beside the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) warning: bool,
    pub(crate) reason: Reason,
    pub(crate) note: String,
}

/// An object's status as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) status: Status,
    pub(crate) happened: Vec<Happened>,
    /// When to look again, because sidecars may still be about to take a set.
    pub(crate) again: Option<Instant>,
}

/// Everything that statuses are about.
pub(crate) struct View<'a> {
    pub(crate) validated: &'a Validated,
    pub(crate) expected: &'a BTreeMap<String, Expected>,
    pub(crate) fleet: Option<&'a Fleet>,
    /// Since when the ledger has been there.
    pub(crate) connected_since: Option<Instant>,
    pub(crate) now: Now,
}

/// Those whom an object selects.
#[derive(Debug, Default)]
struct Count<'a> {
    all: usize,
    current: usize,
    agents: BTreeSet<&'a str>,
    /// The first sidecar's own word on why it lags.
    error: Option<String>,
    /// The first tenant's trouble.
    trouble: Option<String>,
    /// When the last of those who lag has had its time.
    lag_excused_until: Option<Instant>,
    /// Somebody lags who has had it.
    late: bool,
}

impl View<'_> {
    /// The status of one object that had `before`.
    pub(crate) fn tell(&self, object: &Object, fault: Option<&Fault>, before: &Status) -> Told {
        let accepted = match fault {
            None => Word::new(true, Reason::Accepted, "it is valid, and what it refers to is there"),
            Some(fault) => Word::new(false, fault.reason, fault.message.clone()),
        };
        let (programmed, agents, again) = match fault {
            Some(_) => (Some(Word::new(false, Reason::NotAccepted, "it is not accepted. See the condition Accepted")), None, None),
            None => self.programmed(object, before),
        };
        let generation = object.generation;
        let mut conditions = vec![self.condition(ACCEPTED, &accepted, before, generation)];
        match &programmed {
            Some(word) => {
                conditions.push(self.condition(PROGRAMMED, word, before, generation));
                let ready = if word.holds { Word::new(true, Reason::Ready, "it is in force") } else { word.clone() };
                conditions.push(self.condition(READY, &ready, before, generation));
            }
            None => conditions.extend([PROGRAMMED, READY].into_iter().filter_map(|kind| before.condition(kind)).cloned()),
        }
        let rules = policy::rules(object);
        let agents = rules.and(agents.or(before.agents));
        let status = Status { conditions, rules, agents };
        let happened = happened(before, &accepted, programmed.as_ref());
        Told { status, happened, again }
    }

    /// What `Programmed` says, `None` for what it says already; how many agents are selected, where that is known; and when to look
    /// again.
    fn programmed(&self, object: &Object, before: &Status) -> (Option<Word>, Option<u32>, Option<Instant>) {
        let word = |reason, message: String| (Some(Word::new(false, reason, message)), None, None);
        let cluster = &self.validated.cluster;
        let tenant = self.validated.namespaces.get(&object.key.namespace).and_then(Option::as_ref);
        let expected = tenant.and_then(|tenant| self.expected.get(tenant));
        let global = object.key.namespace == cluster.release;
        let set = if global {
            if let Some(held) = &cluster.held {
                return word(Reason::HeldBack, held.clone());
            }
            cluster.set.as_ref()
        } else {
            if let Some(why) = expected.and_then(|expected| expected.behind.as_ref()) {
                return word(Reason::HeldBack, why.clone());
            }
            match expected.and_then(|expected| expected.trouble.as_ref()) {
                Some(Trouble::Held(why)) => return word(Reason::HeldBack, why.clone()),
                Some(Trouble::Refused(why)) => return word(Reason::Refused, format!("the ledger does not take the set: {why}")),
                Some(Trouble::Unsent(_)) | None => {}
            }
            tenant.and_then(|tenant| self.validated.tenants.get(tenant)).and_then(|plan| match plan {
                Plan::Holds { set, .. } => Some(set),
                Plan::Behind { .. } | Plan::Kept { .. } | Plan::Held(_) => None,
            })
        };
        if !global && expected.is_none() {
            return word(Reason::Pending, "the operator does not know its namespace yet. It looks again by itself".to_owned());
        }
        let already = before.condition(PROGRAMMED).filter(|known| known.observed_generation == Some(object.generation));
        let Some(fleet) = self.fleet else {
            let still = already.is_some_and(|known| known.status == "True" || known.reason == Reason::Pending.as_str());
            let message = "the ledger cannot be reached, so nobody knows who runs with it. The operator tries again by itself".to_owned();
            return if still { (None, None, None) } else { word(Reason::Pending, message) };
        };
        let selector = set.and_then(|set| policy::selector(&object.key, set.set()));
        let tenants: Vec<&str> = if global { fleet.tenants().collect() } else { tenant.map(String::as_str).into_iter().collect() };
        let count = self.count(fleet, &tenants, selector, global);
        let agents = Some(u32::try_from(count.agents.len()).unwrap_or(u32::MAX));
        if !global && let Some(Trouble::Unsent(why)) = expected.and_then(|expected| expected.trouble.as_ref()) {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("the ledger has not taken it yet{why}. The operator tries again by itself");
            return (Some(Word::new(false, Reason::Pending, message)), agents, None);
        }
        let holds = |reason, message: &str| (Some(Word::new(true, reason, message)), agents, None);
        let troubled = self.expected.iter().filter(|_| global).find_map(|(tenant, expected)| Some((tenant, expected.trouble.as_ref()?)));
        if let (0, Some((tenant, trouble))) = (count.all, troubled) {
            let message =
                format!("no live sidecar is selected, and the next one may not start with it; tenant {tenant}: {}", trouble.text());
            return (Some(Word::new(false, Reason::Pending, message)), agents, None);
        }
        let returning = self.connected_since.map(|since| since + RETURN).filter(|until| *until > self.now.steady);
        if let (0, Some(until), Some(_)) = (count.all, returning, already) {
            return (None, before.agents, Some(until));
        }
        if count.all == 0 {
            return holds(Reason::NoSidecars, "no live sidecar is selected; the next one starts with it");
        }
        if count.current == count.all {
            return holds(Reason::Programmed, "every live sidecar that it selects runs with it");
        }
        let was = already.is_some_and(|known| known.status == "True");
        if was && !count.late && count.lag_excused_until.is_some() {
            return (None, agents, count.lag_excused_until);
        }
        (Some(Word::new(false, Reason::Pending, count.message())), agents, None)
    }

    fn count<'f>(&self, fleet: &'f Fleet, tenants: &[&str], selector: Option<&Selector>, global: bool) -> Count<'f> {
        let mut count = Count::default();
        for tenant in tenants {
            let expected = self.expected.get(*tenant);
            let wanted = expected.and_then(|expected| expected.digest);
            let fresh = expected.and_then(|expected| expected.fresh_until);
            let selected = fleet.of(tenant).filter(|(_, sidecar)| selector.is_none_or(|selector| selector.selects(&sidecar.labels)));
            for (instance, sidecar) in selected {
                count.all += 1;
                count.agents.insert(&sidecar.agent);
                if wanted.is_some_and(|wanted| sidecar.digest == wanted.as_bytes()) {
                    count.current += 1;
                    continue;
                }
                self.lags(&mut count, instance, sidecar, fresh);
                if global && count.trouble.is_none() {
                    count.trouble = expected.map_or_else(
                        || Some(format!("tenant {tenant} is not known to the operator")),
                        |expected| expected.trouble.as_ref().map(|trouble| format!("tenant {tenant}: {}", trouble.text())),
                    );
                }
            }
        }
        count
    }

    fn lags(&self, count: &mut Count<'_>, instance: &str, sidecar: &Sidecar, fresh: Option<Instant>) {
        if sidecar.error.is_empty() {
            let excused = fresh.into_iter().chain([sidecar.since + GRACE]).filter(|until| *until > self.now.steady).max();
            count.late |= excused.is_none();
            count.lag_excused_until = count.lag_excused_until.max(excused);
        } else {
            count.late = true;
            if count.error.is_none() {
                let error = shortened(sidecar.error.clone(), ERROR_MAX);
                count.error = Some(format!("pod {instance} of {}: {error}", sidecar.agent));
            }
        }
    }

    fn condition(&self, kind: &str, word: &Word, before: &Status, generation: i64) -> Condition {
        let status = if word.holds { "True" } else { "False" };
        let same = before.condition(kind).filter(|known| known.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: word.reason.as_str().to_owned(),
            message: word.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: same.map_or_else(|| seconds(self.now.wall), |known| known.last_transition_time.clone()),
        }
    }
}

impl Count<'_> {
    fn message(&self) -> String {
        let mut message = format!("{} of {} sidecars run with it", self.current, self.all);
        for more in self.error.iter().chain(&self.trouble) {
            message.push_str("; ");
            message.push_str(more);
        }
        message
    }
}

impl Trouble {
    fn text(&self) -> String {
        match self {
            Self::Held(why) => why.clone(),
            Self::Refused(why) => format!("the ledger does not take the set: {why}"),
            Self::Unsent(_) => "the ledger has not taken the set yet".to_owned(),
        }
    }
}

/// What is told as an Event: that an object is not accepted, whenever it is so for another reason than before; and each turn of
/// `Programmed`.
fn happened(before: &Status, accepted: &Word, programmed: Option<&Word>) -> Vec<Happened> {
    let mut happened = Vec::new();
    let known = before.condition(ACCEPTED);
    let same =
        known.is_some_and(|known| known.status == "False" && known.reason == accepted.reason.as_str() && known.message == accepted.message);
    if !accepted.holds && !same {
        happened.push(Happened { warning: true, reason: accepted.reason, note: accepted.message.clone() });
        return happened;
    }
    if let Some(word) = programmed.filter(|_| accepted.holds) {
        let was = before.condition(PROGRAMMED).map(|known| known.status == "True");
        if was.unwrap_or(false) != word.holds {
            let warning = matches!(word.reason, Reason::HeldBack | Reason::Refused);
            happened.push(Happened { warning, reason: word.reason, note: word.message.clone() });
        }
    }
    happened
}

/// Conditions have whole seconds.
pub(crate) fn seconds(wall: Timestamp) -> Time {
    Time(Timestamp::from_second(wall.as_second()).unwrap_or(wall))
}

pub(crate) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
