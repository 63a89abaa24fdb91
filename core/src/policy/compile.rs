//! From the model to something that can be asked: every expression, template and schema compiled once, every name that a rule
//! uses looked up, every conflict found. What compiles cannot fail for reasons of its own later.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Kind, PolicyError};
use super::later::not_yet;
use super::model::{Effect, Level, Origin, Policy, PolicySet, Probe, Rule, Scope, Tool};
use super::probe::CompiledProbe;
use super::route::Routes;
use super::schema::BodySchema;
use super::tool::{CompiledTool, PrincipalSource, principal_rule, tool_name};
use crate::cel::{CompileError, Expression, Profile};
use crate::ids::PolicyDigest;
use crate::json::Pointer;

/// A PolicySet that is ready to judge calls.
#[derive(Debug)]
pub struct CompiledSet {
    pub(super) set: PolicySet,
    digest: PolicyDigest,
    pub(super) tools: Vec<CompiledTool>,
    pub(super) cluster: Routes,
    pub(super) own: Routes,
    pub(super) policies: Vec<CompiledPolicy>,
}

/// A policy with its rules' expressions, in the set's order.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub(super) policy: Policy,
    pub(super) rules: Vec<CompiledRule>,
}

/// A rule with its expression.
#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) id: String,
    pub(super) rule: Rule,
    pub(super) when: Option<Expression>,
}

impl CompiledSet {
    /// Compiles the whole set, or says everything that is wrong with it.
    pub fn compile(set: PolicySet) -> Result<Self, Vec<PolicyError>> {
        let set = set.sorted();
        let mut errors = Vec::new();
        let tools: Vec<CompiledTool> = set.tools.iter().filter_map(|tool| compile_tool(tool, &mut errors)).collect();
        let routes = |level| {
            let mine = move |(_, tool): &(usize, &Tool)| tool.origin.level == level;
            Routes::new(set.tools.iter().enumerate().filter(mine))
        };
        let (cluster, own) = (routes(Level::Cluster), routes(Level::Namespace));
        report_ties(&set.tools, &cluster, &mut errors);
        report_ties(&set.tools, &own, &mut errors);
        let policies = set.policies.iter().map(|policy| compile_policy(policy, &set, &mut errors)).collect();
        for retry in &set.retries {
            let mut on = On { kind: Kind::RetryPolicy, origin: &retry.origin, errors: &mut errors };
            on.scope("spec.match", &retry.scope, &set);
        }
        if errors.is_empty() { Ok(Self { digest: set.digest(), set, tools, cluster, own, policies }) } else { Err(errors) }
    }

    /// The set's name.
    pub fn digest(&self) -> PolicyDigest {
        self.digest
    }

    /// The set itself.
    pub fn set(&self) -> &PolicySet {
        &self.set
    }
}

/// Collects the errors of one object.
struct On<'a> {
    kind: Kind,
    origin: &'a Origin,
    errors: &'a mut Vec<PolicyError>,
}

impl On<'_> {
    fn error(&mut self, field: &str, at: Option<(u32, u32)>, problem: String) {
        let origin = self.origin.clone();
        self.errors.push(PolicyError { kind: self.kind, origin, field: field.to_owned(), at, problem });
    }

    fn expression(&mut self, field: &str, source: &str, profile: Profile) -> Option<Expression> {
        self.compiled(field, source, |source| Expression::compile(source, profile))
    }

    fn condition(&mut self, field: &str, source: &str, profile: Profile) -> Option<Expression> {
        self.compiled(field, source, |source| Expression::compile_condition(source, profile))
    }

    fn compiled(
        &mut self,
        field: &str,
        source: &str,
        compile: impl FnOnce(&str) -> Result<Expression, CompileError>,
    ) -> Option<Expression> {
        if let Some((at, name)) = not_yet(source) {
            let problem = format!("{name} is not yet supported. Remove it until it is");
            self.error(field, Some(at), problem);
            return None;
        }
        match compile(source) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                self.error(field, Some((number(error.line), number(error.column))), error.message);
                None
            }
        }
    }

    /// Every tool that a rule names must exist where the rule can see it; a rule that can never match protects nobody.
    fn scope(&mut self, field: &str, scope: &Scope, set: &PolicySet) {
        for (at, name) in scope.tools.iter().enumerate() {
            let seen = |tool: &&Tool| self.origin.level == Level::Namespace || tool.origin.level == Level::Cluster;
            let known: BTreeSet<&str> = set.tools.iter().filter(seen).map(|tool| tool.origin.name.as_str()).collect();
            if !known.contains(name.as_str()) {
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                self.error(
                    &format!("{field}.tools[{at}]"),
                    None,
                    format!("no ToolRegistration is named {name:?}. Name one of those in reach ({known}), or add it"),
                );
            }
        }
    }
}

fn compile_tool(tool: &Tool, errors: &mut Vec<PolicyError>) -> Option<CompiledTool> {
    let mut on = On { kind: Kind::Tool, origin: &tool.origin, errors };
    let effect = &tool.effect;
    let name = tool_name(&tool.origin).map_err(|error| on.error("metadata.name", None, error.to_string())).ok();
    if tool.matches.is_empty() {
        on.error("spec.match", None, "is empty, so the registration means nothing. Name at least one host".to_owned());
    }
    for (at, found) in tool.matches.iter().enumerate() {
        if found.hosts.is_empty() {
            let field = format!("spec.match[{at}].hosts");
            on.error(&field, None, "is empty. Name the hosts that the registration speaks for".to_owned());
        }
    }
    let mut expression = |field: &str, source: &Option<String>, profile| {
        source.as_deref().and_then(|source| on.expression(field, source, profile)).map(Arc::new)
    };
    let key = expression("spec.effect.key", &effect.key, Profile::Request);
    let outcome = expression("spec.effect.outcome", &effect.outcome, Profile::Outcome);
    let principal = compile_principal(effect, &mut on);
    let volatile = compile_pointers(effect, &mut on);
    let probe = effect.probe.as_ref().and_then(|probe| compile_probe(name.as_ref()?.as_str(), probe, &mut on));
    let schema = tool
        .request_schema
        .as_ref()
        .and_then(|schema| BodySchema::compile(schema).map_err(|problem| on.error("spec.requestSchema", None, problem)).ok());
    Some(CompiledTool {
        name: name?,
        volatile,
        tool: tool.clone(),
        key,
        outcome,
        principal,
        probe: probe.map(Arc::new),
        schema: schema.map(Arc::new),
    })
}

fn compile_pointers(effect: &Effect, on: &mut On<'_>) -> Option<Vec<Pointer>> {
    let pointers = effect.volatile.as_ref()?.iter().enumerate().filter_map(|(at, text)| {
        let field = format!("spec.effect.volatile[{at}]");
        Pointer::parse(text).map_err(|error| on.error(&field, None, format!("{text:?} is no JSON pointer: {error}"))).ok()
    });
    Some(pointers.collect())
}

fn compile_principal(effect: &Effect, on: &mut On<'_>) -> Option<PrincipalSource> {
    let rule = effect.principal.as_ref()?;
    match principal_rule(rule) {
        None => Some(PrincipalSource::None),
        Some(source) => {
            let expression = on.expression("spec.effect.principal", source, Profile::Request)?;
            Some(PrincipalSource::Expression(Arc::new(expression)))
        }
    }
}

fn compile_probe(tool: &str, probe: &Probe, on: &mut On<'_>) -> Option<CompiledProbe> {
    if probe.executed_when.is_none() && probe.not_executed_when.is_none() {
        let problem = "says neither executedWhen nor notExecutedWhen, so no answer would settle anything. Give at least one";
        on.error("spec.effect.probe", None, problem.to_owned());
    }
    let readings = [("executedWhen", &probe.executed_when), ("notExecutedWhen", &probe.not_executed_when)];
    for (name, source) in readings {
        if let Some(source) = source {
            on.condition(&format!("spec.effect.probe.{name}"), source, Profile::Probe);
        }
    }
    let url = on.expression("spec.effect.probe.url", &probe.url, Profile::Request)?;
    Some(CompiledProbe { tool: tool.to_owned(), url: Arc::new(url), probe: probe.clone() })
}

fn compile_policy(policy: &Policy, set: &PolicySet, errors: &mut Vec<PolicyError>) -> CompiledPolicy {
    let mut on = On { kind: Kind::Policy, origin: &policy.origin, errors };
    if policy.origin.level == Level::Namespace && !policy.delegates.is_empty() {
        let problem = "only a Policy in the release's namespace may delegate. Remove it, or ask the cluster's administrator";
        on.error("spec.delegates", None, problem.to_owned());
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(policy.rules.len());
    for (at, rule) in policy.rules.iter().enumerate() {
        let field = format!("spec.rules[{at}]");
        if !names.insert(rule.name.as_str()) {
            let problem = format!("{:?} names an earlier rule too. Give each rule a name of its own", rule.name);
            on.error(&format!("{field}.name"), None, problem);
        }
        on.scope(&format!("{field}.match"), &rule.scope, set);
        let when = rule.when.as_deref();
        let when = when.and_then(|source| on.condition(&format!("{field}.when"), source, Profile::Policy));
        rules.push(CompiledRule { id: format!("{}/{}", policy.origin.namespace, rule.name), rule: rule.clone(), when });
    }
    CompiledPolicy { policy: policy.clone(), rules }
}

fn report_ties(tools: &[Tool], routes: &Routes, errors: &mut Vec<PolicyError>) {
    for tie in routes.ties() {
        for ((mine, entry), (other, _)) in [(tie.first, tie.second), (tie.second, tie.first)] {
            let (Some(mine), Some(other)) = (tools.get(mine), tools.get(other)) else { continue };
            let problem = format!(
                "conflicts with ToolRegistration {}/{}: for {} both match equally specific. Narrow one of them by method or path",
                other.origin.namespace, other.origin.name, tie.host,
            );
            On { kind: Kind::Tool, origin: &mine.origin, errors: &mut *errors }.error(&format!("spec.match[{entry}]"), None, problem);
        }
    }
}
