//! What COMMAND finds in its environment: who it is, the roots that its clients must trust, and, where nothing but the
//! environment leads to the sidecar, the proxy.
//!
//! Which variables there are, for pods too, is one table: [`kybernis_webhook::variables`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) use kybernis_webhook::variables::TRUST_STORE_PASSWORD;
use kybernis_webhook::variables::{Identity, VARIABLES, Value, Variable};

/// How COMMAND's connections are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// By the kernel: proxy variables would only add a second way.
    Redirect,
    /// By the variables below, for clients that honour them.
    Cooperative,
}

impl Capture {
    /// As receipts spell it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Cooperative => "cooperative",
        }
    }

    /// Clients that Cooperative cannot catch.
    pub(crate) const ESCAPES: &str = "Node's fetch (before Node 24), Go towards loopback addresses, and aiohttp without trust_env";
}

/// The variables of a laptop, where the sidecar has no API of its own.
fn rows() -> impl Iterator<Item = &'static Variable> + Clone {
    VARIABLES.iter().filter(|variable| !matches!(variable.value, Value::LocalApi(_)))
}

/// As many variables as a notice names: a machine with a bundle of its own sets ten to it.
const NAMED_MAX: usize = 3;

/// What is known about this run.
#[derive(Debug)]
pub(crate) struct Injected<'a> {
    /// The tenant, which is the agent's namespace.
    pub(crate) tenant: &'a str,
    /// Who acts.
    pub(crate) agent: &'a str,
    /// The run.
    pub(crate) run: &'a str,
    /// This `kybernis run`: what a pod's name would be.
    pub(crate) instance: &'a str,
    /// How connections are caught.
    pub(crate) capture: Capture,
    /// Where the forward proxy listens; under Redirect it is not needed.
    pub(crate) proxy: Option<SocketAddr>,
    /// What the user gave as roots of far sides.
    pub(crate) roots: &'a [PathBuf],
    /// PEM of every root.
    pub(crate) bundle: &'a Path,
    /// The same for Java.
    pub(crate) trust_store: &'a Path,
}

/// COMMAND's environment, and what its user should know about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    /// The whole of it.
    pub(crate) variables: BTreeMap<OsString, OsString>,
    /// One sentence for each variable that the user had set to something else.
    pub(crate) notices: Vec<String>,
}

/// What is set (or, with `None`, taken away) whatever the user's environment says. Under Redirect no proxy is named, and
/// under Cooperative nothing may go around it.
pub(crate) fn injected(about: &Injected<'_>, java_before: Option<&OsStr>) -> Vec<(&'static str, Option<OsString>)> {
    let proxy = about.proxy.filter(|_| about.capture == Capture::Cooperative);
    let set = |value: &Value| match value {
        Value::Bundle => Some(about.bundle.into()),
        Value::JavaOptions => Some(java_options(about, proxy, java_before)),
        Value::Proxy => proxy.map(|proxy| format!("http://{proxy}").into()),
        Value::NoProxy => proxy.map(|_| OsString::new()),
        Value::WithProxy(text) => proxy.map(|_| OsString::from(text)),
        Value::Identity(Identity::Tenant | Identity::Namespace) => Some(about.tenant.into()),
        Value::Identity(Identity::Agent) => Some(about.agent.into()),
        Value::Identity(Identity::Run) => Some(about.run.into()),
        Value::Identity(Identity::Instance) => Some(about.instance.into()),
        Value::LocalApi(_) => None,
    };
    rows().map(|variable| (variable.name, set(&variable.value))).collect()
}

/// The user's environment with ours over it.
pub(crate) fn environment(inherited: impl IntoIterator<Item = (OsString, OsString)>, about: &Injected<'_>) -> Environment {
    let mut variables: BTreeMap<OsString, OsString> = inherited.into_iter().collect();
    let java_before = variables.get(OsStr::new("JAVA_TOOL_OPTIONS")).cloned();
    let ours = injected(about, java_before.as_deref());
    // By what they were and what that means, so that ten variables with one value make one sentence.
    let mut replaced: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for ((name, value), variable) in ours.into_iter().zip(rows()) {
        let before = match &value {
            Some(value) => variables.insert(name.into(), value.clone()),
            None => variables.remove(OsStr::new(name)),
        };
        let Some(before) = before.filter(|before| !before.is_empty() && Some(before) != value.as_ref()) else { continue };
        let given_as_root = about.roots.iter().any(|root| root.as_os_str() == before);
        if let Some(meaning) = meaning(&variable.value).filter(|_| !given_as_root) {
            replaced.entry((meaning, before.to_string_lossy().into_owned())).or_default().push(name);
        }
    }
    let notice = |((meaning, before), names): (&(&str, String), &Vec<&str>)| {
        let were = if names.len() == 1 { "was" } else { "were" };
        let mut named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        if names.len() > NAMED_MAX {
            named += &format!(" and {} more", names.len() - NAMED_MAX);
        }
        format!("{named} {were} {before}: {}", meaning.replace("{}", before))
    };
    let notices = replaced.iter().map(notice).collect();
    Environment { variables, notices }
}

/// What it means to the user that a variable is not as they set it.
const fn meaning(kind: &Value) -> Option<&'static str> {
    match kind {
        Value::Bundle => Some("COMMAND sees the run's own bundle instead; if far sides need those roots, give --root {}"),
        Value::Proxy => Some("COMMAND does not see that, and the sidecar connects to far sides directly"),
        Value::NoProxy => Some("COMMAND does not see that, for nothing may go around the sidecar"),
        Value::WithProxy(_) => Some("it is set anew, so that the sidecar is used"),
        // Options are appended; an outer run's facts are not this one's.
        Value::JavaOptions | Value::Identity(_) | Value::LocalApi(_) => None,
    }
}

fn java_options(about: &Injected<'_>, proxy: Option<SocketAddr>, before: Option<&OsStr>) -> OsString {
    let mut options = before.map(OsStr::to_owned).unwrap_or_default();
    let mut add = |name: &str, value: &OsStr| {
        if !options.is_empty() {
            options.push(" ");
        }
        // The JVM splits at blanks unless they stand in quotes.
        let quote = if value.as_encoded_bytes().contains(&b' ') { "\"" } else { "" };
        options.push(format!("-D{name}={quote}"));
        options.push(value);
        options.push(quote);
    };
    add("javax.net.ssl.trustStore", about.trust_store.as_os_str());
    add("javax.net.ssl.trustStoreType", OsStr::new("JKS"));
    add("javax.net.ssl.trustStorePassword", OsStr::new(TRUST_STORE_PASSWORD));
    if let Some(proxy) = proxy {
        let (host, port) = (proxy.ip().to_string(), proxy.port().to_string());
        for scheme in ["http", "https"] {
            add(&format!("{scheme}.proxyHost"), OsStr::new(&host));
            add(&format!("{scheme}.proxyPort"), OsStr::new(&port));
        }
        // Unset it means loopback, which is governed here too.
        add("http.nonProxyHosts", OsStr::new(""));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(capture: Capture) -> Injected<'static> {
        Injected {
            tenant: "trading",
            agent: "trader",
            run: "run-1",
            instance: "i-1",
            capture,
            proxy: Some(SocketAddr::from(([127, 0, 0, 1], 4711))),
            roots: &[],
            bundle: Path::new("/d/ca-bundle.pem"),
            trust_store: Path::new("/d/trust store.jks"),
        }
    }

    fn with(capture: Capture, inherited: &[(&str, &str)]) -> Environment {
        environment(inherited.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), &about(capture))
    }

    fn value<'e>(environment: &'e Environment, name: &str) -> Option<&'e str> {
        environment.variables.get(OsStr::new(name)).and_then(|value| value.to_str())
    }

    #[test]
    fn each_mode_has_its_variables() {
        for (name, redirect, cooperative) in [
            ("KYB_RUN_ID", Some("run-1"), Some("run-1")),
            ("KYB_TENANT_ID", Some("trading"), Some("trading")),
            ("KYB_AGENT", Some("trader"), Some("trader")),
            ("KYB_PROXY", None, Some("http://127.0.0.1:4711")),
            ("HTTPS_PROXY", None, Some("http://127.0.0.1:4711")),
            ("http_proxy", None, Some("http://127.0.0.1:4711")),
            ("NO_PROXY", None, Some("")),
            ("NODE_USE_ENV_PROXY", None, Some("1")),
            ("SSL_CERT_FILE", Some("/d/ca-bundle.pem"), Some("/d/ca-bundle.pem")),
            ("NODE_EXTRA_CA_CERTS", Some("/d/ca-bundle.pem"), Some("/d/ca-bundle.pem")),
        ] {
            assert_eq!(value(&with(Capture::Redirect, &[]), name), redirect, "{name} under Redirect");
            assert_eq!(value(&with(Capture::Cooperative, &[]), name), cooperative, "{name} under Cooperative");
        }
    }

    #[test]
    fn java_is_told_the_password_that_the_sidecar_has_set() {
        assert_eq!(TRUST_STORE_PASSWORD, kybernis_sidecar::serve::Sidecar::TRUST_STORE_PASSWORD);
    }

    #[test]
    fn java_s_own_options_stay_and_ours_follow_in_quotes_where_they_have_blanks() {
        let options = |capture| value(&with(capture, &[("JAVA_TOOL_OPTIONS", "-Xmx64m")]), "JAVA_TOOL_OPTIONS").unwrap().to_owned();
        let trust = "-Xmx64m -Djavax.net.ssl.trustStore=\"/d/trust store.jks\" -Djavax.net.ssl.trustStoreType=JKS \
                     -Djavax.net.ssl.trustStorePassword=changeit";
        assert_eq!(options(Capture::Redirect), trust);
        let proxied = options(Capture::Cooperative);
        assert!(proxied.starts_with(trust) && proxied.contains(" -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=4711"), "{proxied}");
        assert!(proxied.ends_with(" -Dhttp.nonProxyHosts="), "{proxied}");
    }

    #[test]
    fn what_the_user_had_set_otherwise_is_replaced_and_told() {
        let users = [
            ("HTTP_PROXY", "http://corp:3128"),
            ("SSL_CERT_FILE", "/corp.pem"),
            ("CURL_CA_BUNDLE", "/corp.pem"),
            ("NO_PROXY", ""),
            ("HOME", "/home/ada"),
        ];
        for capture in [Capture::Redirect, Capture::Cooperative] {
            let environment = with(capture, &users);
            assert_eq!(value(&environment, "HOME"), Some("/home/ada"));
            assert_eq!(value(&environment, "SSL_CERT_FILE"), Some("/d/ca-bundle.pem"));
            let [proxy, root] = environment.notices.as_slice() else { panic!("{:?}", environment.notices) };
            assert!(root.starts_with("SSL_CERT_FILE, CURL_CA_BUNDLE were /corp.pem: ") && root.ends_with("--root /corp.pem"), "{root}");
            assert!(proxy.starts_with("HTTP_PROXY was http://corp:3128: "), "{proxy}");
            let bundles = rows().filter(|variable| variable.value == Value::Bundle).map(|variable| (variable.name, "/corp.pem"));
            let told = with(capture, &bundles.clone().collect::<Vec<_>>()).notices;
            let expect = format!("KYB_CA_BUNDLE, SSL_CERT_FILE, REQUESTS_CA_BUNDLE and {} more were ", bundles.count() - 3);
            assert!(told.len() == 1 && told[0].starts_with(&expect), "{told:?}");
            let roots = [PathBuf::from("/corp.pem")];
            let told = super::environment([("SSL_CERT_FILE".into(), "/corp.pem".into())], &Injected { roots: &roots, ..about(capture) });
            assert!(told.notices.is_empty(), "what is given as a root is trusted");
        }
    }
}
