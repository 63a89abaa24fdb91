//! What an endpoint means for one call, once both levels have spoken: each trust field takes its stricter value, and where the
//! cluster says nothing the namespace's word holds.

use std::sync::Arc;

use super::call::CallHead;
use super::error::ToolError;
use super::implicit::{implicit_class, implicit_name};
use super::model::{Class, Effect, Level, Origin, PrincipalRule, Tool};
use super::probe::CompiledProbe;
use super::schema::{BodySchema, SchemaMismatch};
use crate::cel::{Expression, Facts};
use crate::ids::ToolName;
use crate::json::{Json, Pointer};
use crate::time::Millis;

/// How long a completed answer is kept for replay where nothing else is said.
pub const DEFAULT_RETENTION: Millis = Millis::from_secs(72 * 3600);

/// One registration with its expressions compiled.
#[derive(Debug)]
pub(super) struct CompiledTool {
    pub(super) name: ToolName,
    pub(super) tool: Tool,
    pub(super) key: Option<Arc<Expression>>,
    pub(super) volatile: Option<Vec<Pointer>>,
    pub(super) outcome: Option<Arc<Expression>>,
    pub(super) principal: Option<PrincipalSource>,
    pub(super) probe: Option<Arc<CompiledProbe>>,
    pub(super) schema: Option<Arc<BodySchema>>,
}

/// Where a call's principal comes from.
#[derive(Clone, Debug)]
pub(super) enum PrincipalSource {
    None,
    Expression(Arc<Expression>),
}

/// The name that a registration goes by everywhere: a namespace's own by its bare name, the cluster's with its namespace, so
/// that the two never meet.
pub(super) fn tool_name(origin: &Origin) -> Result<ToolName, crate::ids::NameError> {
    match origin.level {
        Level::Namespace => ToolName::new(&origin.name),
        Level::Cluster => ToolName::new(&format!("{}/{}", origin.namespace, origin.name)),
    }
}

/// What an endpoint means for one call.
#[derive(Clone, Debug)]
pub struct EffectiveTool {
    name: ToolName,
    key_scope: ToolName,
    display_name: Option<String>,
    cluster: Option<String>,
    own: Option<String>,
    class: Class,
    key: Option<Arc<Expression>>,
    volatile: Vec<Pointer>,
    upstream_key_header: Option<String>,
    upstream_key_ttl: Option<Millis>,
    outcome: Option<Arc<Expression>>,
    idempotent: bool,
    repeatable: bool,
    not_executed_statuses: Vec<u16>,
    retention: Millis,
    principal: Option<PrincipalSource>,
    probe: Option<Arc<CompiledProbe>>,
    schemas: Vec<Arc<BodySchema>>,
}

impl EffectiveTool {
    /// Merges what the two levels say about a call; both may say nothing.
    pub(super) fn of(call: &CallHead, cluster: Option<&CompiledTool>, own: Option<&CompiledTool>) -> Self {
        let (Some(first), second) = (match cluster {
            Some(cluster) => (Some(cluster), own),
            None => (own, None),
        }) else {
            return Self::unregistered(call);
        };
        let mut merged = Self::single(call, first);
        if let Some(second) = second {
            merged.tighten(call, first, second);
        }
        merged
    }

    fn unregistered(call: &CallHead) -> Self {
        let name = implicit_name(call);
        Self {
            key_scope: name.clone(),
            name,
            display_name: None,
            cluster: None,
            own: None,
            class: implicit_class(call),
            key: None,
            volatile: Vec::new(),
            upstream_key_header: None,
            upstream_key_ttl: None,
            outcome: None,
            idempotent: false,
            repeatable: false,
            not_executed_statuses: Vec::new(),
            retention: DEFAULT_RETENTION,
            principal: None,
            probe: None,
            schemas: Vec::new(),
        }
    }

    fn single(call: &CallHead, compiled: &CompiledTool) -> Self {
        let tool = &compiled.tool;
        let effect = &tool.effect;
        let bare = Some(tool.origin.name.clone());
        let (cluster, own) = match tool.origin.level {
            Level::Cluster => (bare, None),
            Level::Namespace => (None, bare),
        };
        Self {
            name: compiled.name.clone(),
            key_scope: compiled.name.clone(),
            display_name: tool.display_name.clone(),
            cluster,
            own,
            class: tool.class.unwrap_or_else(|| implicit_class(call)),
            key: compiled.key.clone(),
            volatile: compiled.volatile.clone().unwrap_or_default(),
            upstream_key_header: effect.upstream_key_header.clone(),
            upstream_key_ttl: effect.upstream_key_ttl,
            outcome: compiled.outcome.clone(),
            idempotent: effect.idempotent.unwrap_or(false),
            repeatable: repeatable(effect).unwrap_or(false),
            not_executed_statuses: effect.not_executed_statuses.clone().unwrap_or_default(),
            retention: effect.retention.unwrap_or(DEFAULT_RETENTION),
            principal: compiled.principal.clone(),
            probe: compiled.probe.clone(),
            schemas: compiled.schema.iter().cloned().collect(),
        }
    }

    /// Folds the namespace's word into the cluster's, which `self` holds so far.
    fn tighten(&mut self, call: &CallHead, cluster: &CompiledTool, own: &CompiledTool) {
        let (theirs, ours) = (&cluster.tool.effect, &own.tool.effect);
        self.name = own.name.clone();
        self.own = Some(own.tool.origin.name.clone());
        self.display_name = own.tool.display_name.clone().or_else(|| self.display_name.take());
        self.class = match (cluster.tool.class, own.tool.class) {
            (Some(theirs), Some(ours)) => theirs.max(ours),
            (Some(class), None) | (None, Some(class)) => class,
            (None, None) => implicit_class(call),
        };
        // A key, an outcome or a principal of the namespace's own choosing could split what the cluster holds for one effect.
        if self.key.is_none() {
            self.key = own.key.clone();
            self.key_scope = own.name.clone();
        }
        self.outcome = self.outcome.take().or_else(|| own.outcome.clone());
        self.principal = self.principal.take().or_else(|| own.principal.clone());
        self.probe = self.probe.take().or_else(|| own.probe.clone());
        self.volatile = narrower(cluster.volatile.as_deref(), own.volatile.as_deref());
        self.not_executed_statuses = narrower(theirs.not_executed_statuses.as_deref(), ours.not_executed_statuses.as_deref());
        // Who names a header has spoken of repetition: safe under that key, for as long as it is kept.
        self.idempotent = both(repeatable(theirs).map(|_| theirs.idempotent.unwrap_or(false)), ours.idempotent);
        // A namespace's header is sent all the same: what the far side can tell apart it may.
        self.repeatable = both(repeatable(theirs), repeatable(ours));
        if self.upstream_key_header.is_none() {
            self.upstream_key_header = ours.upstream_key_header.clone();
        }
        self.upstream_key_ttl = match (theirs.upstream_key_ttl, ours.upstream_key_ttl) {
            (Some(theirs), Some(ours)) => Some(theirs.min(ours)),
            (either, other) => either.or(other),
        };
        self.retention = match (theirs.retention, ours.retention) {
            (Some(theirs), Some(ours)) => theirs.max(ours),
            (either, other) => either.or(other).unwrap_or(DEFAULT_RETENTION),
        };
        self.schemas.extend(own.schema.iter().cloned());
    }

    /// What it is called in spans, gates and receipts: the registration's name (`namespace/name` for the cluster's), or for
    /// an unregistered endpoint its host.
    pub fn name(&self) -> &ToolName {
        &self.name
    }

    /// The name that scopes keys made by [`Self::effect_keys`].
    pub fn key_scope(&self) -> &ToolName {
        &self.key_scope
    }

    /// For people.
    pub fn display_name(&self) -> Option<&str> {
        self.display_name.as_deref()
    }

    /// Whether any registration means this call.
    pub fn is_registered(&self) -> bool {
        self.cluster.is_some() || self.own.is_some()
    }

    /// What the call does to the far side.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether a rule of that level means this tool by `name`. A cluster rule hears only cluster registrations: a namespace
    /// must not name its way into a cluster's allow-list.
    pub(super) fn is_called(&self, name: &str, level: Level) -> bool {
        let theirs = self.cluster.as_deref() == Some(name);
        match level {
            Level::Cluster => theirs,
            Level::Namespace => theirs || self.own.as_deref() == Some(name),
        }
    }

    /// Whether the registration names its effects itself.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The tool's own effect keys; more than one is a batch. `None` where the tool declares none; an error is the caller's
    /// 400, never the next level's turn.
    pub fn effect_keys(&self, facts: &Facts) -> Result<Option<Vec<String>>, ToolError> {
        let Some(key) = &self.key else { return Ok(None) };
        key.eval_keys(facts).map(Some).map_err(|error| self.error("effect.key", error))
    }

    /// JSON pointers that do not count for the fingerprint.
    pub fn volatile(&self) -> &[Pointer] {
        &self.volatile
    }

    /// The far side's idempotency header, in lower case.
    pub fn upstream_key_header(&self) -> Option<&str> {
        self.upstream_key_header.as_deref()
    }

    /// How long the far side keeps that key.
    pub fn upstream_key_ttl(&self) -> Option<Millis> {
        self.upstream_key_ttl
    }

    /// Whether a dispatched effect may be sent again without a second effect.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether the far side is declared safe to repeat.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether this status is the far side's promise that nothing was done.
    pub fn is_not_executed(&self, status: u16) -> bool {
        self.not_executed_statuses.contains(&status)
    }

    /// How long a completed answer is kept.
    pub fn retention(&self) -> Millis {
        self.retention
    }

    /// The expression that judges answers, where the tool declares one.
    pub fn outcome_expression(&self) -> Option<&Expression> {
        self.outcome.as_deref()
    }

    /// The tool's own word on an answer, [`OutcomeWord::Default`] where it has none. An error, or a word that is none of
    /// the four, means in doubt.
    pub fn outcome(&self, facts: &Facts) -> Result<OutcomeWord, ToolError> {
        let Some(outcome) = &self.outcome else { return Ok(OutcomeWord::Default) };
        let word = outcome.eval_string(facts).map_err(|error| self.error("effect.outcome", error))?;
        OutcomeWord::parse(&word)
            .ok_or_else(|| self.error("effect.outcome", format!("{word:?} is none of Default, Completed, Rejected, NotSent, InDoubt")))
    }

    /// On whose behalf the tool says that a call is made.
    pub fn principal(&self, facts: &Facts) -> Result<PrincipalWord, ToolError> {
        match &self.principal {
            None => Ok(PrincipalWord::Credential),
            Some(PrincipalSource::None) => Ok(PrincipalWord::None),
            Some(PrincipalSource::Expression(expression)) => {
                expression.eval_string(facts).map(PrincipalWord::Named).map_err(|error| self.error("effect.principal", error))
            }
        }
    }

    /// How an effect in doubt is settled.
    pub fn probe(&self) -> Option<&CompiledProbe> {
        self.probe.as_deref()
    }

    /// Whether the tool looks at bodies.
    pub fn has_schema(&self) -> bool {
        !self.schemas.is_empty()
    }

    /// Checks a body against the tool's schemas; `None` is a body that is absent or not JSON.
    pub fn check_body(&self, body: Option<&Json>) -> Result<(), SchemaMismatch> {
        self.schemas.iter().try_for_each(|schema| schema.check(body))
    }

    /// Every expression that is evaluated before the call goes out.
    pub(super) fn request_expressions(&self) -> impl Iterator<Item = &Expression> {
        let principal = match &self.principal {
            Some(PrincipalSource::Expression(expression)) => Some(expression),
            Some(PrincipalSource::None) | None => None,
        };
        let probe = self.probe.as_deref().map(CompiledProbe::url_expression);
        self.key.iter().chain(principal).map(Arc::as_ref).chain(probe)
    }

    fn error(&self, field: &'static str, problem: impl ToString) -> ToolError {
        ToolError { tool: self.name.to_string(), field, problem: problem.to_string() }
    }
}

/// What a tool's `outcome` says about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeWord {
    /// As the status says.
    Default,
    /// It was done.
    Completed,
    /// It was refused.
    Rejected,
    /// Nothing was done.
    NotSent,
    /// Nobody can tell yet.
    InDoubt,
}

impl OutcomeWord {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "Default" => Some(Self::Default),
            "Completed" => Some(Self::Completed),
            "Rejected" => Some(Self::Rejected),
            "NotSent" => Some(Self::NotSent),
            "InDoubt" => Some(Self::InDoubt),
            _ => None,
        }
    }
}

/// What a tool's `principal` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalWord {
    /// By the call's own credential.
    Credential,
    /// Nobody's.
    None,
    /// This text, which is hashed before it goes anywhere.
    Named(String),
}

pub(super) fn principal_rule(rule: &PrincipalRule) -> Option<&str> {
    match rule {
        PrincipalRule::None => None,
        PrincipalRule::Expression(source) => Some(source),
    }
}

/// What an object says of sending again: `false` only in so many words, and with no key that would make it safe.
fn repeatable(effect: &Effect) -> Option<bool> {
    if effect.upstream_key_header.is_some() { Some(true) } else { effect.idempotent }
}

fn both(theirs: Option<bool>, ours: Option<bool>) -> bool {
    theirs.or(ours).unwrap_or(false) && ours.unwrap_or(true)
}

fn narrower<T: Clone + PartialEq>(theirs: Option<&[T]>, ours: Option<&[T]>) -> Vec<T> {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) => theirs.iter().filter(|item| ours.contains(item)).cloned().collect(),
        (Some(list), None) | (None, Some(list)) => list.to_vec(),
        (None, None) => Vec::new(),
    }
}
