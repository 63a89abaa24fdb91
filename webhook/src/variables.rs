//! The variables that lead a program's clients to the sidecar and make them trust it. A new client's variable is one more row
//! here, for pods and for `kybernis run` alike; what a kind of value comes to is said where it is set.

/// A variable, and the clients that read it.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is set to.
    pub value: Value,
    /// Who reads it.
    pub clients: &'static str,
}

/// What a variable is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The path of the PEM file with every root.
    Bundle,
    /// Java's options for trust and proxy, after those that are there already.
    JavaOptions,
    /// The proxy's URL.
    Proxy,
    /// What may go around the proxy.
    NoProxy,
    /// A fixed text where the proxy's URL is set.
    WithProxy(&'static str),
    /// A fact about who runs.
    Identity(Identity),
    /// How the sidecar's own API is reached; only pods have it.
    LocalApi(LocalApi),
}

/// A fact about who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The isolation unit.
    Tenant,
    /// The agent's display name.
    Agent,
    /// The implicit run.
    Run,
    /// The pod, or this `kybernis run`.
    Instance,
    /// The agent's namespace.
    Namespace,
}

/// How the sidecar's own API is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalApi {
    /// Its URL.
    Base,
    /// The key that SDKs insist on; the port gives role `agent` whatever it says.
    Key,
}

/// Every variable.
pub const VARIABLES: &[Variable] = &[
    row("KYB_TENANT_ID", Value::Identity(Identity::Tenant), "the Kybernis SDK"),
    row("KYB_AGENT", Value::Identity(Identity::Agent), "the Kybernis SDK"),
    row("KYB_RUN_ID", Value::Identity(Identity::Run), "the Kybernis SDK"),
    row("KYB_POD_NAME", Value::Identity(Identity::Instance), "the Kybernis SDK"),
    row("KYB_POD_NAMESPACE", Value::Identity(Identity::Namespace), "the Kybernis SDK"),
    row("KYB_API_BASE", Value::LocalApi(LocalApi::Base), "the Kybernis SDK"),
    row("KYB_API_KEY", Value::LocalApi(LocalApi::Key), "the Kybernis SDK"),
    row("KYB_PROXY", Value::Proxy, "the Kybernis SDK"),
    row("KYB_CA_BUNDLE", Value::Bundle, "the Kybernis SDK"),
    row("SSL_CERT_FILE", Value::Bundle, "OpenSSL, Go, Ruby, .NET, Rust, httpx, aiohttp, uv"),
    row("REQUESTS_CA_BUNDLE", Value::Bundle, "Python requests"),
    row("CURL_CA_BUNDLE", Value::Bundle, "curl"),
    row("NODE_EXTRA_CA_CERTS", Value::Bundle, "Node, Bun, npm"),
    row("DENO_CERT", Value::Bundle, "Deno"),
    row("GIT_SSL_CAINFO", Value::Bundle, "git"),
    row("AWS_CA_BUNDLE", Value::Bundle, "AWS SDKs"),
    row("PIP_CERT", Value::Bundle, "pip"),
    row("CARGO_HTTP_CAINFO", Value::Bundle, "cargo"),
    row("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Value::Bundle, "gRPC"),
    row("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", Value::Bundle, "gcloud"),
    row("NIX_SSL_CERT_FILE", Value::Bundle, "Nix"),
    row("HEX_CACERTS_PATH", Value::Bundle, "Elixir's hex"),
    row("PERL_LWP_SSL_CA_FILE", Value::Bundle, "Perl's LWP"),
    row("JAVA_TOOL_OPTIONS", Value::JavaOptions, "Java"),
    row("HTTP_PROXY", Value::Proxy, "most clients"),
    row("http_proxy", Value::Proxy, "curl, wget, Python, Ruby"),
    row("HTTPS_PROXY", Value::Proxy, "most clients"),
    row("https_proxy", Value::Proxy, "curl, wget, Python, Ruby"),
    row("ALL_PROXY", Value::Proxy, "curl, httpx"),
    row("all_proxy", Value::Proxy, "curl"),
    row("grpc_proxy", Value::Proxy, "gRPC"),
    row("NO_PROXY", Value::NoProxy, "most clients"),
    row("no_proxy", Value::NoProxy, "curl, wget, Python, Ruby"),
    row("no_grpc_proxy", Value::NoProxy, "gRPC"),
    row("NODE_USE_ENV_PROXY", Value::WithProxy("1"), "Node 24 and later"),
];

/// Java's trust store takes a password even where nothing is secret: this is what every JDK's own has.
pub const TRUST_STORE_PASSWORD: &str = "changeit";

const fn row(name: &'static str, value: Value, clients: &'static str) -> Variable {
    Variable { name, value, clients }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_named_twice() {
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
