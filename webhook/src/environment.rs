//! The environment of every container that is not ours: what it must say, and what a container may not say against it.

use serde_json::Value as Json;

use crate::identity::{Identity, RUN_PARTS, Source};
use crate::json::Object;
use crate::names::{BUNDLE_FILE, BUNDLE_FOLDER, TRUST_STORE_FILE};
use crate::path::FieldPath;
use crate::pod::{Container, Named};
use crate::ports;
use crate::refusal::{Findings, named};
use crate::variables::{self, LocalApi, TRUST_STORE_PASSWORD, VARIABLES, Value};

const LOOPBACK: &str = "127.0.0.1";
/// What a pod may reach without the sidecar: itself, and the API server under the names that clients in a pod use for it.
/// Nothing wider: a domain here would be a way around every rule.
const NO_PROXY: [&str; 5] = ["localhost", LOOPBACK, "::1", "$(KUBERNETES_SERVICE_HOST)", "kubernetes.default.svc"];
/// The JVM's options for trust: a container's own are overridden by ours, which come last.
const JAVA_TRUST: &str = "-Djavax.net.ssl.trustStore=";
/// Java 8 ignores the whole variable where it is longer.
const JAVA_8_BYTES_MAX: usize = 1023;

/// A variable that every container must have.
#[derive(Debug)]
pub(crate) struct Wanted {
    name: &'static str,
    value: Demand,
}

#[derive(Debug)]
enum Demand {
    Is(Source),
    Contains(String),
}

impl Wanted {
    fn entry(&self, container: &FieldPath) -> Named {
        let entry = match &self.value {
            Demand::Is(source) => source.entry(self.name),
            Demand::Contains(options) => Source::literal(options).entry(self.name),
        };
        Named { path: container.member("env").key(self.name), name: self.name.to_owned(), fields: entry }
    }
}

/// The variables of this pod's containers, each after those that it refers to.
pub(crate) fn wanted(identity: &Identity) -> Vec<Wanted> {
    let is = |name, source| Wanted { name, value: Demand::Is(source) };
    let mut wanted: Vec<Wanted> = identity.run.parts.iter().map(|(name, source)| is(*name, source.clone())).collect();
    let file = |name: &str| Source::Literal(format!("{BUNDLE_FOLDER}/{name}"));
    wanted.extend(VARIABLES.iter().map(|variable| {
        let source = match variable.value {
            Value::Bundle => file(BUNDLE_FILE),
            Value::JavaOptions => return Wanted { name: variable.name, value: Demand::Contains(java_options()) },
            Value::Proxy => proxy(),
            Value::NoProxy => Source::Literal(NO_PROXY.join(",")),
            Value::WithProxy(text) => Source::literal(text),
            Value::Identity(fact) => self::fact(fact, identity),
            Value::LocalApi(LocalApi::Base) => Source::Literal(format!("http://{LOOPBACK}:{}", ports::LOCAL_API)),
            Value::LocalApi(LocalApi::Key) => Source::literal("local"),
        };
        is(variable.name, source)
    }));
    wanted
}

/// Of these, what leads to the proxy: the same in every release.
pub(crate) fn proxies() -> Vec<Wanted> {
    let rows = VARIABLES.iter().filter(|variable| variable.value == Value::Proxy);
    rows.map(|variable| Wanted { name: variable.name, value: Demand::Is(proxy()) }).collect()
}

fn proxy() -> Source {
    Source::Literal(format!("http://{LOOPBACK}:{}", ports::PROXY))
}

fn fact(fact: variables::Identity, identity: &Identity) -> Source {
    match fact {
        variables::Identity::Tenant => Source::literal(&identity.tenant),
        variables::Identity::Agent => Source::literal(&identity.agent),
        variables::Identity::Run => identity.run.id.clone(),
        variables::Identity::Instance => Source::field("metadata.name"),
        variables::Identity::Namespace => Source::field("metadata.namespace"),
    }
}

fn java_options() -> String {
    // Java parts hosts by bars, and wants an IPv6 address in brackets.
    let around = NO_PROXY.map(|host| if host == "::1" { "[::1]" } else { host }).join("|");
    let mut options = vec![
        format!("{JAVA_TRUST}{BUNDLE_FOLDER}/{TRUST_STORE_FILE}"),
        "-Djavax.net.ssl.trustStoreType=JKS".to_owned(),
        format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"),
    ];
    for scheme in ["http", "https"] {
        options.push(format!("-D{scheme}.proxyHost={LOOPBACK}"));
        options.push(format!("-D{scheme}.proxyPort={}", ports::PROXY));
    }
    options.push(format!("-Dhttp.nonProxyHosts={around}"));
    options.join(" ")
}

/// Gives a container what it lacks, before its own variables, so that those may refer to ours; refuses what contradicts.
pub(crate) fn set(container: &mut Container, wanted: &[Wanted], findings: &mut Findings) {
    let Container { env, name, path, .. } = container;
    let demanded = |variable: &Named| wanted.iter().find(|wanted| wanted.name == variable.name).map(|wanted| &wanted.value);
    let last_java = env.iter().rposition(|variable| matches!(demanded(variable), Some(Demand::Contains(_))));
    for (at, variable) in env.iter_mut().enumerate() {
        match demanded(variable) {
            Some(Demand::Is(source)) if !says(variable, &source.entry(&variable.name)) => contradiction(variable, name, findings),
            // Of several the last holds.
            Some(Demand::Contains(options)) if last_java == Some(at) => append(variable, options, name, findings),
            Some(Demand::Is(_) | Demand::Contains(_)) | None => {}
        }
    }
    let lacking: Vec<&Wanted> = wanted.iter().filter(|wanted| !env.iter().any(|variable| variable.name == wanted.name)).collect();
    if !lacking.is_empty() {
        findings.added(path.member("env"), named(lacking.iter().map(|wanted| wanted.name)));
    }
    let new: Vec<Named> = lacking.into_iter().map(|wanted| wanted.entry(path)).collect();
    env.splice(0..0, new);
    in_order(container, findings);
}

/// Whether a variable is exactly this: what it has beside it could only be another source. Empty is absent.
fn says(variable: &Named, entry: &Object) -> bool {
    let is_said = |(_, value): &(&String, &Json)| !value.is_null() && *value != "";
    let said: Vec<_> = variable.fields.iter().filter(is_said).collect();
    entry.len() == said.len() && said.into_iter().all(|(key, value)| entry.get(key) == Some(value))
}

fn contradiction(variable: &Named, container: &str, findings: &mut Findings) {
    let how = if variable.fields.get("valueFrom").is_some_and(|from| !from.is_null()) { "through valueFrom" } else { "to another value" };
    let rule = format!("the container {container} sets {} {how}, and Kybernis must set it itself", variable.name);
    findings.fault(variable.path.clone(), rule, format!("Remove {} from the container", variable.name));
}

fn append(variable: &mut Named, options: &str, container: &str, findings: &mut Findings) {
    if variable.fields.get("valueFrom").is_some_and(|from| !from.is_null()) {
        let rule = format!("the container {container} sets {} through valueFrom, to which nothing can be appended", variable.name);
        findings.fault(variable.path.clone(), rule, "Write its options as a value, or put them into JDK_JAVA_OPTIONS");
        return;
    }
    let before = match variable.fields.get("value") {
        None | Some(Json::Null) => "",
        Some(Json::String(text)) => text.as_str(),
        Some(other) => return crate::json::wrong(variable.path.member("value"), other, "a string", findings),
    };
    if before.split_once(options).is_some_and(|(head, rest)| [head.chars().next_back(), rest.chars().next()].iter().all(is_blank)) {
        return;
    }
    if before.contains(JAVA_TRUST) {
        findings.warn(format!("the container {container} names a Java trust store of its own; the one of Kybernis takes its place"));
    }
    let joined = if before.is_empty() { options.to_owned() } else { format!("{before} {options}") };
    if joined.len() > JAVA_8_BYTES_MAX {
        let name = &variable.name;
        findings.warn(format!(
            "the container {container} has {} bytes of {name}, and Java 8 ignores more than {JAVA_8_BYTES_MAX}",
            joined.len()
        ));
    }
    variable.fields.insert("value".to_owned(), Json::String(joined));
    findings.added(variable.path.clone(), "the options of Kybernis");
}

const fn is_blank(c: &Option<char>) -> bool {
    matches!(c, None | Some(' '))
}

/// A reference to a variable that stands later is not expanded.
fn in_order(container: &Container, findings: &mut Findings) {
    let place = |name: &str| container.env.iter().position(|variable| variable.name == name);
    let Some(run) = place("KYB_RUN_ID") else { return };
    for part in RUN_PARTS {
        if let Some(variable) = place(part).filter(|at| *at > run).and_then(|at| container.env.get(at)) {
            let rule = format!("in the container {}, {part} stands after KYB_RUN_ID, which refers to it", container.name);
            findings.fault(variable.path.clone(), rule, format!("Remove {part} from the container"));
        }
    }
}

/// `envFrom` cannot be looked into here. What `env` says wins over it, so that our values hold; what they hide is worth a word.
pub(crate) fn warn_of_env_from<'c>(containers: impl Iterator<Item = &'c Container>, findings: &mut Findings) {
    let names: Vec<&str> = containers.filter(|container| container.has_env_from).map(|container| container.name.as_str()).collect();
    if !names.is_empty() {
        let several = if names.len() == 1 { "" } else { "s" };
        findings.warn(format!(
            "envFrom of the container{several} {} may carry proxy, CA or Java variables: what Kybernis sets in env wins over them, \
             JAVA_TOOL_OPTIONS included",
            named(names)
        ));
    }
}
