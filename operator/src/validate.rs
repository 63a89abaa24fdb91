//! The second phase: which objects hold, and which set each tenant should run with. What it returns is all that the next phase
//! needs, so that building cannot fail.
//!
//! Every object is held to the rules of the folder's reader, together with the others that its agents run with: the release's and
//! its own namespace's. What was found of a namespace is kept until one of those objects changes.
//!
//! Where a namespace's own do not hold, those that last held stay in force, under the release's objects as they are now: nobody keeps
//! the cluster's rules off by breaking an object of his own. Which those are is known here while this replica leads
//! ([`Plan::Behind`]); else the ledger has them, and is given the release's alone ([`Plan::Kept`]). While one of the release's own does
//! not hold, everybody keeps what the ledger has ([`Plan::Held`]).

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kybernis_core::ids::{DNS_LABEL_MAX, is_dns_label};
use kybernis_core::policy::{SecretRef, Tool};
use zeroize::Zeroizing;

use self::judge::{Judged, Kept, Mark, judge, marks};
use crate::build::Lowering;
use crate::facts::{Facts, TENANT};
use crate::kinds::{Kind, budget, tool};
use crate::object::{Key, Object};
use crate::reason::{Fault, Reason};

/// The values of the Secrets that a set's probes name.
pub(crate) type Secrets = BTreeMap<SecretRef, Zeroizing<Vec<u8>>>;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Validated {
    /// Every object, in the order of their keys, and why it does not hold.
    pub(crate) objects: Vec<(Arc<Object>, Option<Fault>)>,
    pub(crate) tenants: BTreeMap<String, Plan>,
    /// Of every namespace that is ours to serve, its tenant; `None` where that is no name.
    pub(crate) namespaces: BTreeMap<String, Option<String>>,
    pub(crate) cluster: Cluster,
}

/// What was found of the release's own objects.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// The release's namespace.
    pub(crate) release: String,
    /// Which of them hold everybody back.
    pub(crate) held: Option<String>,
    /// The set that they make by themselves, where they hold.
    pub(crate) set: Option<Arc<Lowering>>,
}

/// What should become of a tenant.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// It runs with this.
    Holds { set: Arc<Lowering>, secrets: Arc<Secrets> },
    /// Objects of its own do not hold, the text names them: it runs with those that last held, and the release's of today.
    Behind { set: Arc<Lowering>, secrets: Arc<Secrets>, why: String },
    /// Objects of its own do not hold, and which last held is known to the ledger alone: that part stays as it was last given, under the
    /// release's of today.
    Kept { set: Arc<Lowering>, secrets: Arc<Secrets>, why: String },
    /// What the ledger has for it stays in force; the text names the culprit.
    Held(String),
}

/// Judges, and remembers what it has judged.
#[derive(Debug, Default)]
pub(crate) struct Validator {
    cluster: (Vec<Mark>, Arc<Judged>),
    /// Counts the states of the release's objects; 0: nothing has been judged yet, not even that there is nothing.
    epoch: u64,
    namespaces: BTreeMap<String, Kept>,
}

impl Validator {
    /// Judges the whole cluster.
    pub(crate) fn validate(&mut self, facts: &Facts) -> Validated {
        let mut by_namespace: BTreeMap<&str, Vec<&Arc<Object>>> = BTreeMap::new();
        for object in facts.objects.iter().filter(|object| object.key.kind.is_lowered()) {
            by_namespace.entry(&object.key.namespace).or_default().push(object);
        }
        let cluster_objects = by_namespace.remove(facts.release.as_str()).unwrap_or_default();
        let cluster = self.judge_cluster(facts, &cluster_objects);
        let mut faults = cluster.faults.clone();
        let cluster_held = culprits(&faults).or_else(|| cluster.stray.clone());
        missing_secrets(facts, &cluster, &facts.release, &mut faults);

        self.namespaces.retain(|namespace, _| by_namespace.contains_key(namespace.as_str()));
        let mut judged = BTreeMap::new();
        for (namespace, own) in &by_namespace {
            let kept = self.namespaces.entry((*namespace).to_owned()).or_default();
            kept.look(own, &cluster_objects, namespace, self.epoch, facts);
            let verdict = Arc::clone(&kept.judged);
            faults.extend(verdict.faults.clone());
            missing_secrets(facts, &verdict, namespace, &mut faults);
            let held = culprits(&verdict.faults);
            judged.insert(*namespace, (verdict, held, kept.last_good()));
        }

        let namespaces = served(facts);
        let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (namespace, tenant) in &namespaces {
            match tenant {
                Some(tenant) => members.entry(tenant).or_default().push(namespace),
                None => blame(by_namespace.get(namespace.as_str()), &mut faults, &no_tenant(facts, namespace)),
            }
        }
        let kept = |why: String| match &cluster.set {
            Some(set) => Plan::Kept { set: Arc::clone(set), secrets: secrets_of(facts, set), why },
            None => Plan::Held(why),
        };
        let mut tenants = BTreeMap::new();
        for (tenant, members) in members {
            let owners: Vec<&str> = members.into_iter().filter(|namespace| judged.contains_key(namespace)).collect();
            let plan = match owners.as_slice() {
                // Its objects go first, and its pods may act until they are gone.
                _ if is_ending(facts, tenant) => kept(format!("a namespace of tenant {tenant} is being deleted.")),
                [] => plan(facts, &cluster, None, None, kept),
                [owner] => match judged.get(owner) {
                    Some((verdict, held, last_good)) => plan(facts, verdict, held.as_ref(), last_good.as_ref(), kept),
                    None => continue,
                },
                several => {
                    let fault = shared(tenant, several);
                    for owner in several {
                        blame(by_namespace.get(owner), &mut faults, &fault);
                    }
                    kept(fault.message)
                }
            };
            let plan = cluster_held.clone().map_or(plan, Plan::Held);
            tenants.insert(tenant.to_owned(), plan);
        }
        let verdict = |object: &Arc<Object>| {
            let fault = if object.key.kind == Kind::Budget { Some(budget::fault()) } else { faults.get(&object.key).cloned() };
            (Arc::clone(object), fault)
        };
        let cluster = Cluster { release: facts.release.clone(), held: cluster_held, set: cluster.set.clone() };
        Validated { objects: facts.objects.iter().map(verdict).collect(), tenants, namespaces, cluster }
    }

    fn judge_cluster(&mut self, facts: &Facts, objects: &[&Arc<Object>]) -> Arc<Judged> {
        let marks = marks(objects);
        if self.epoch == 0 || self.cluster.0 != marks {
            self.cluster = (marks, Arc::new(judge(objects, &facts.release, facts)));
            self.epoch += 1;
        }
        Arc::clone(&self.cluster.1)
    }
}

/// Every Secret that a probe of this namespace's tools names must be there with its key. Without it nobody asks that probe, and so
/// nothing settles by it; the set is in force all the same, or one who may not even write Policies could hold up the cluster's.
fn missing_secrets(facts: &Facts, judged: &Judged, namespace: &str, faults: &mut BTreeMap<Key, Fault>) {
    let Some(lowering) = &judged.set else { return };
    for found in lowering.set().tools.iter().filter(|found| found.origin.namespace == namespace) {
        let Some(wanted) = tool::secret_ref(found) else { continue };
        if facts.secret(wanted).is_none() {
            faults.insert(key_of(found), tool::missing(wanted, facts.secret_state(wanted)));
        }
    }
}

fn key_of(tool: &Tool) -> Key {
    Key { namespace: tool.origin.namespace.clone(), kind: Kind::Tool, name: tool.origin.name.clone() }
}

/// Names who keeps the last good set in force.
fn culprits(faults: &BTreeMap<Key, Fault>) -> Option<String> {
    let first = faults.keys().next()?;
    let more = match faults.len() - 1 {
        0 => String::new(),
        1 => " and 1 other object".to_owned(),
        more => format!(" and {more} other objects"),
    };
    let verb = if faults.len() == 1 { "does" } else { "do" };
    Some(format!(
        "{first}{more} {verb} not hold, so the last good set stays in force. See the condition Accepted there, and mend or remove it."
    ))
}

fn plan(facts: &Facts, judged: &Judged, own: Option<&String>, last_good: Option<&Arc<Lowering>>, kept: impl Fn(String) -> Plan) -> Plan {
    match (own.or(judged.stray.as_ref()), &judged.set, last_good) {
        (Some(why), _, Some(set)) => Plan::Behind { set: Arc::clone(set), secrets: secrets_of(facts, set), why: why.clone() },
        (Some(why), _, None) => kept(why.clone()),
        (None, Some(set), _) => Plan::Holds { set: Arc::clone(set), secrets: secrets_of(facts, set) },
        (None, None, _) => kept("the set cannot be built. See the operator's log.".to_owned()),
    }
}

fn secrets_of(facts: &Facts, set: &Lowering) -> Arc<Secrets> {
    let named = set.set().tools.iter().filter_map(tool::secret_ref);
    Arc::new(named.filter_map(|wanted| Some((wanted.clone(), facts.secret(wanted)?.clone()))).collect())
}

/// Whether the namespaces of a tenant are on their way out, any of them.
fn is_ending(facts: &Facts, tenant: &str) -> bool {
    facts.namespaces.iter().any(|(name, found)| found.terminating && found.tenant.as_deref().unwrap_or(name) == tenant)
}

/// The namespaces that need a set and the ledger's CA: opted in, with an injected pod, with a live sidecar (whose pod's labels anybody
/// may change), or with objects of ours. One that is not yet
/// known itself waits until it is, because its labels say whose it is.
fn served(facts: &Facts) -> BTreeMap<String, Option<String>> {
    let with_objects: BTreeSet<&str> = facts.objects.iter().map(|object| object.key.namespace.as_str()).collect();
    let wanted = facts.namespaces.iter().filter(|(name, namespace)| {
        let lives = facts.live.contains(namespace.tenant.as_deref().unwrap_or(name));
        let concerned = namespace.is_opted_in() || facts.injected.contains(*name) || lives || with_objects.contains(name.as_str());
        concerned && **name != facts.release
    });
    wanted
        .map(|(name, namespace)| {
            let tenant = namespace.tenant.as_deref().unwrap_or(name);
            (name.clone(), is_dns_label(tenant).then(|| tenant.to_owned()))
        })
        .collect()
}

fn no_tenant(facts: &Facts, namespace: &str) -> Fault {
    let value = facts.namespaces.get(namespace).and_then(|found| found.tenant.clone()).unwrap_or_default();
    let message = format!(
        "the label {TENANT} of Namespace {namespace} is {value:?}, which is no tenant. Set it to up to {DNS_LABEL_MAX} lower-case letters, digits and hyphens, or remove it."
    );
    Fault { reason: Reason::Invalid, message }
}

fn shared(tenant: &str, owners: &[&str]) -> Fault {
    let message = format!(
        "the namespaces {} are all mapped to the tenant {tenant} by the label {TENANT}, and more than one of them has objects. Keep the objects in one of them, or remove the label from the others.",
        owners.join(", ")
    );
    Fault { reason: Reason::Conflict, message }
}

/// Says it of every object that has no fault of its own.
fn blame(objects: Option<&Vec<&Arc<Object>>>, faults: &mut BTreeMap<Key, Fault>, fault: &Fault) {
    for object in objects.into_iter().flatten() {
        faults.entry(object.key.clone()).or_insert_with(|| fault.clone());
    }
}

#[cfg(test)]
mod tests;
