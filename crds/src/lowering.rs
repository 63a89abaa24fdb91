//! From the kinds to core's model: defaults filled in, and the rules checked that a schema cannot say.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kybernis_core::machine::RESOLUTION_CLASS;
use kybernis_core::policy::{
    self as model, DEFAULT_BODY_BYTES, DEFAULT_DERIVED_WINDOW, DerivedMode, Operator, Origin, PathPattern, PrincipalRule, Requirement,
    RuleVerdict, Scope, SecretRef, Selector,
};
use kybernis_core::time::Millis;

use crate::kinds::{
    ApprovalSpec, DerivedKeysMode, EffectSpec, Policy, ProbeMethod, ProbeSpec, RetryPolicy, RuleSpec, ScopeSpec, ToolRegistration,
    VerdictSpec,
};
use crate::values::GoDuration;

/// Where `principal` means nobody.
const PRINCIPAL_NONE: &str = "none";
const APPROVAL_LIFE: Millis = Millis::from_secs(3600);
const BACKOFF_BASE: Millis = Millis::new(100);
const BACKOFF_MAX: Millis = Millis::from_secs(5);
const PROBE_DELAY: Millis = Millis::from_secs(2);
const PROBE_INTERVAL: Millis = Millis::from_secs(10);
/// Shorter ones are a load on the far side.
const PROBE_INTERVAL_MIN: Millis = Millis::new(100);
/// Any time at all.
const SHORTEST: Millis = Millis::new(1);
/// Classes of the people who decide other gates than a rule's.
const OTHER_CLASSES: [&str; 2] = [RESOLUTION_CLASS, "budget"];
const PROBE_GIVE_UP: Millis = Millis::from_secs(600);

/// What is wrong with a field: its path, and the rule with what to do.
pub(crate) type FieldError = (String, String);

/// Lowers a ToolRegistration.
pub(crate) fn tool(origin: Origin, found: &ToolRegistration, errors: &mut Vec<FieldError>) -> model::Tool {
    let spec = &found.spec;
    let matches = spec.matches.iter().enumerate().map(|(at, entry)| {
        let paths = entry.paths.iter().enumerate().filter_map(|(index, path)| {
            let checked = PathPattern::new(path.kind, &path.value);
            checked.map_err(|e| errors.push((format!("spec.match[{at}].paths[{index}].value"), e.to_string()))).ok()
        });
        model::ToolMatch {
            paths: paths.collect(),
            hosts: entry.hosts.clone(),
            methods: entry.methods.iter().map(ToString::to_string).collect(),
        }
    });
    let matches = matches.collect();
    model::Tool {
        display_name: spec.display_name.clone(),
        matches,
        class: spec.class,
        effect: effect(&origin, &spec.effect, errors),
        request_schema: spec.request_schema.clone(),
        origin,
    }
}

fn effect(origin: &Origin, spec: &EffectSpec, errors: &mut Vec<FieldError>) -> model::Effect {
    if spec.upstream_key_ttl.is_some() && spec.upstream_key_header.is_none() {
        let problem = "has no upstreamKeyHeader that it could be about. Name the header, or remove it";
        errors.push(("spec.effect.upstreamKeyTtl".to_owned(), problem.to_owned()));
    }
    model::Effect {
        key: spec.key.clone(),
        volatile: spec.volatile.as_ref().map(|list| list.iter().map(ToString::to_string).collect()),
        upstream_key_header: spec.upstream_key_header.as_ref().map(ToString::to_string),
        upstream_key_ttl: spec.upstream_key_ttl.map(GoDuration::get),
        outcome: spec.outcome.clone(),
        idempotent: spec.idempotent,
        not_executed_statuses: spec.not_executed_statuses.clone(),
        retention: spec.retention.map(GoDuration::get),
        principal: spec.principal.as_ref().map(|text| match text.as_str() {
            PRINCIPAL_NONE => PrincipalRule::None,
            source => PrincipalRule::Expression(source.to_owned()),
        }),
        probe: spec.probe.as_ref().map(|spec| probe(origin, spec, errors)),
    }
}

fn probe(origin: &Origin, spec: &ProbeSpec, errors: &mut Vec<FieldError>) -> model::Probe {
    at_least("spec.effect.probe.interval", spec.interval, PROBE_INTERVAL_MIN, errors);
    let secret = |secret: &crate::kinds::SecretKeyRef| SecretRef {
        namespace: origin.namespace.clone(),
        name: secret.name.clone(),
        key: secret.key.clone(),
    };
    model::Probe {
        url: spec.url.clone(),
        method: match spec.method.unwrap_or_default() {
            ProbeMethod::Get => "GET".to_owned(),
            ProbeMethod::Head => "HEAD".to_owned(),
        },
        headers: spec.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        secret_ref: spec.secret_ref.as_ref().map(secret),
        executed_when: spec.executed_when.clone(),
        not_executed_when: spec.not_executed_when.clone(),
        initial_delay: or(spec.initial_delay, PROBE_DELAY),
        interval: or(spec.interval, PROBE_INTERVAL),
        settle_horizon: spec.settle_horizon.map(GoDuration::get),
        give_up_after: or(spec.give_up_after, PROBE_GIVE_UP),
    }
}

/// Lowers a Policy.
pub(crate) fn policy(origin: Origin, found: &Policy, errors: &mut Vec<FieldError>) -> model::Policy {
    let spec = &found.spec;
    let rules = spec.rules.iter().enumerate().map(|(at, spec)| rule(at, spec, errors)).collect();
    model::Policy {
        selector: selector(&spec.selector, errors),
        mode: spec.mode,
        default: spec.default,
        failure_mode: spec.failure_mode,
        body_bytes: spec.body_bytes,
        derived_keys: spec.derived_keys.as_ref().map(|keys| model::DerivedKeys {
            mode: match keys.mode {
                DerivedKeysMode::Default => DerivedMode::Default,
                DerivedKeysMode::Replay => DerivedMode::Replay,
                DerivedKeysMode::Off => DerivedMode::Off,
            },
            window: or(keys.window, DEFAULT_DERIVED_WINDOW),
        }),
        rules,
        uninspected: spec.uninspected.hosts.clone(),
        delegates: spec.delegates.clone(),
        origin,
    }
}

fn rule(at: usize, spec: &RuleSpec, errors: &mut Vec<FieldError>) -> model::Rule {
    if spec.approval.is_some() && spec.verdict != VerdictSpec::RequireApproval {
        let problem = "has no verdict RequireApproval that it could be about. Set that verdict, or remove it";
        errors.push((format!("spec.rules[{at}].approval"), problem.to_owned()));
    }
    model::Rule {
        name: spec.name.clone(),
        scope: scope(&spec.matches),
        when: spec.when.clone(),
        verdict: match spec.verdict {
            VerdictSpec::Allow => RuleVerdict::Allow,
            VerdictSpec::Deny => RuleVerdict::Deny,
            VerdictSpec::RequireApproval => {
                let field = format!("spec.rules[{at}].approval");
                RuleVerdict::RequireApproval(approval(&field, spec.approval.as_ref(), errors))
            }
        },
        reason: spec.reason.clone(),
    }
}

fn approval(field: &str, spec: Option<&ApprovalSpec>, errors: &mut Vec<FieldError>) -> model::ApprovalRule {
    let spec = spec.cloned().unwrap_or_default();
    at_least(&format!("{field}.expiresAfter"), spec.expires_after, SHORTEST, errors);
    if OTHER_CLASSES.contains(&spec.class.as_str()) {
        errors.push((format!("{field}.class"), format!("{:?} is the class of gates of another type. Name another", spec.class)));
    }
    model::ApprovalRule {
        required: spec.required,
        class: spec.class,
        expires_after: or(spec.expires_after, APPROVAL_LIFE),
        hold_for: or(spec.hold_for, Millis::new(0)),
    }
}

fn selector(spec: &LabelSelector, errors: &mut Vec<FieldError>) -> Selector {
    let mut requirements = Vec::new();
    for (at, found) in spec.match_expressions.iter().flatten().enumerate() {
        let field = format!("spec.selector.matchExpressions[{at}]");
        let values = found.values.clone().unwrap_or_default();
        let operator = match found.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let problem = format!("{other:?} is none of In, NotIn, Exists, DoesNotExist. Use one of them");
                errors.push((format!("{field}.operator"), problem));
                continue;
            }
        };
        let takes_values = matches!(operator, Operator::In | Operator::NotIn);
        if takes_values == values.is_empty() {
            let problem = if takes_values { "is empty. Give at least one value" } else { "does not go with this operator. Remove it" };
            errors.push((format!("{field}.values"), problem.to_owned()));
            continue;
        }
        requirements.push(Requirement { key: found.key.clone(), operator, values });
    }
    Selector { equal: spec.match_labels.clone().unwrap_or_default(), requirements }
}

/// Lowers a RetryPolicy.
pub(crate) fn retry(origin: Origin, found: &RetryPolicy, errors: &mut Vec<FieldError>) -> model::RetryPolicy {
    let spec = &found.spec;
    let (base, max) = (or(spec.backoff.base, BACKOFF_BASE), or(spec.backoff.max, BACKOFF_MAX));
    if base > max {
        let problem = "is longer than backoff.max. Shorten it, or raise the maximum";
        errors.push(("spec.backoff.base".to_owned(), problem.to_owned()));
    }
    at_least("spec.perTryTimeout", spec.per_try_timeout, SHORTEST, errors);
    model::RetryPolicy {
        origin,
        scope: scope(&spec.matches),
        terms: model::RetryTerms {
            attempts: spec.attempts,
            per_try_timeout: spec.per_try_timeout.map(GoDuration::get),
            backoff_base: base,
            backoff_max: max,
            statuses: spec.on.statuses.clone(),
            connect_failure: spec.on.connect_failure,
            reset: spec.on.reset,
            honour_retry_after: spec.honour_retry_after,
        },
    }
}

fn scope(spec: &ScopeSpec) -> Scope {
    Scope {
        tools: spec.tools.clone(),
        hosts: spec.hosts.clone(),
        methods: spec.methods.iter().map(ToString::to_string).collect(),
        class: spec.class,
    }
}

/// What is shorter than makes sense would be done by nobody, or for ever.
fn at_least(field: &str, given: Option<GoDuration>, least: Millis, errors: &mut Vec<FieldError>) {
    if let Some(given) = given.filter(|given| given.get() < least) {
        let least = if least == SHORTEST { "no time at all".to_owned() } else { format!("{given}, shorter than {}ms", least.get()) };
        errors.push((field.to_owned(), format!("is {least}. Lengthen it, or remove it")));
    }
}

fn or(given: Option<GoDuration>, default: Millis) -> Millis {
    given.map_or(default, GoDuration::get)
}

const _: () = assert!(DEFAULT_BODY_BYTES <= 16_777_216, "the schema's maximum must admit the default");
