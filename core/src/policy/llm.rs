//! Hosts that are known to serve models, so that an agent without any manifest has its model calls seen as what they are.

use super::host::Host;

/// Public endpoints of model providers. A host that is missing here is a side effect, which is the stricter reading.
const HOSTS: [&str; 18] = [
    "api.ai21.com",
    "api.anthropic.com",
    "api.cerebras.ai",
    "api.cohere.ai",
    "api.cohere.com",
    "api.deepinfra.com",
    "api.deepseek.com",
    "api.fireworks.ai",
    "api.groq.com",
    "api.mistral.ai",
    "api.openai.com",
    "api.perplexity.ai",
    "api.sambanova.ai",
    "api.together.xyz",
    "api.x.ai",
    "generativelanguage.googleapis.com",
    "openrouter.ai",
    "router.huggingface.co",
];

/// Providers that put a region or an account in the name: what it begins with, what it ends with.
const FAMILIES: [(&str, &str); 4] =
    [("", ".openai.azure.com"), ("", ".services.ai.azure.com"), ("", "-aiplatform.googleapis.com"), ("bedrock-runtime.", ".amazonaws.com")];

/// Whether the host is known to serve models.
pub fn is_llm_host(host: &Host) -> bool {
    let name = host.as_str();
    HOSTS.binary_search(&name).is_ok()
        || FAMILIES.iter().any(|(front, back)| name.len() > front.len() + back.len() && name.starts_with(front) && name.ends_with(back))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_its_hosts_and_no_others() {
        assert!(HOSTS.is_sorted());
        let check = |name: &str, expect: bool| assert_eq!(is_llm_host(&Host::new(name).unwrap()), expect, "{name}");
        check("API.openai.com", true);
        check("api.openai.com.evil.example", false);
        check("mine.openai.azure.com", true);
        check("bedrock-runtime.eu-west-1.amazonaws.com", true);
        check("s3.eu-west-1.amazonaws.com", false);
        check("europe-west4-aiplatform.googleapis.com", true);
        check("broker.example.com", false);
    }
}
