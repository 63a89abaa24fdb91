//! What the chart tells the webhook, checked once: every problem of a configuration is told together.

use crate::annotations::LogFilter;
use crate::parts;
use crate::resources::Resources;
use crate::settings::Settings;

/// The API server gives no token a shorter life.
const TOKEN_SECONDS_MIN: u64 = 600;
/// Nor a longer one.
const TOKEN_SECONDS_MAX: u64 = 1 << 32;
/// Kubernetes takes no larger one, though the kernel would.
const UID_MAX: u64 = i32::MAX as u64;
/// The longest DNS name.
const DNS_NAME_MAX: usize = 253;

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the webhook's configuration does not hold:\n  {}", problems.join("\n  "))]
pub struct ConfigError {
    /// One line each: the setting, the rule, what to do.
    pub problems: Vec<String>,
}

/// A configuration that holds.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    uid: i64,
    resources: Resources,
    log: LogFilter,
    digest: String,
}

impl Config {
    /// Checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, setting: &str, rule: &str| {
            if !holds {
                problems.push(format!("{setting}: {rule}"));
            }
        };
        let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        check(word(&settings.version), "version", "is no version. Give the release's version");
        check(word(&settings.images.sidecar), "images.sidecar", "is no image. Give REPOSITORY:TAG or REPOSITORY@DIGEST");
        check(word(&settings.images.capture), "images.capture", "is no image. Give REPOSITORY:TAG or REPOSITORY@DIGEST");
        check(is_https(&settings.ledger.address), "ledger.address", "is not https://HOST:PORT. Give the ledger's service and port");
        check(is_dns_name(&settings.ledger.server_name), "ledger.serverName", "is no DNS name. Give the name in its certificate");
        check(word(&settings.token.audience), "token.audience", "is no audience. Give the one that the ledger asks for");
        let expires = settings.token.expiration_seconds;
        let lives = (TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX).contains(&expires);
        check(lives, "token.expirationSeconds", "is not from 600 to 4294967296, as the API server asks. Give 3600");
        check(is_dns_name(&settings.trust_config_map), "trustConfigMap", "is no name of a ConfigMap. Give kybernis-trust");
        let uid = i64::try_from(settings.proxy_uid).ok().filter(|uid| *uid > 0 && settings.proxy_uid <= UID_MAX);
        check(uid.is_some(), "proxyUid", "is not from 1 to 2147483647. Give a uid that no image uses");
        check(is_dns_name(&settings.release_namespace), "releaseNamespace", "is no name of a namespace. Give the release's own");
        let log = LogFilter::parse(&settings.log);
        if let Err(error) = &log {
            check(false, "log", &error.to_string());
        }
        let resources = settings.resources.read(&mut problems);
        match (uid, log) {
            (Some(uid), Ok(log)) if problems.is_empty() => {
                let config = Self { settings, uid, resources, log, digest: String::new() };
                Ok(Self { digest: parts::digest(&config), ..config })
            }
            _ => Err(ConfigError { problems }),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What of it shows in pods, in short; made once, since every review asks for it.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Where API servers are reached inside the cluster, if that is known.
    pub fn api_server(&self) -> Option<std::net::SocketAddr> {
        self.settings.api_server
    }

    pub(crate) fn version(&self) -> &str {
        &self.settings.version
    }

    pub(crate) fn uid(&self) -> i64 {
        self.uid
    }

    pub(crate) fn resources(&self) -> Resources {
        self.resources
    }

    pub(crate) fn log(&self) -> &LogFilter {
        &self.log
    }
}

/// RFC 1123 subdomain, as Kubernetes checks names.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        let sound = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        sound && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= DNS_NAME_MAX && text.split('.').all(label)
}

fn is_https(address: &str) -> bool {
    let Some((host, port)) = address.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':')) else { return false };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let names = bracketed.map_or(is_dns_name(host), |v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    names && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let settings: Settings = serde_json::from_value(serde_json::json!({
            "version": "",
            "images": {"sidecar": "a b", "capture": ""},
            "ledger": {"address": "http://ledger:7443", "serverName": "Ledger"},
            "token": {"audience": "", "expirationSeconds": 5},
            "trustConfigMap": "-",
            "proxyUid": 0,
            "resources": {"requests": {"cpu": "2", "memory": "64Mb"}, "limits": {"cpu": "1"}},
            "log": "loud",
            "releaseNamespace": "",
        }))
        .unwrap();
        let problems = Config::new(settings).unwrap_err().problems;
        let places: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        let expect = [
            "version",
            "images.sidecar",
            "images.capture",
            "ledger.address",
            "ledger.serverName",
            "token.audience",
            "token.expirationSeconds",
            "trustConfigMap",
            "proxyUid",
            "releaseNamespace",
            "log",
            "resources.requests.cpu",
            "resources.requests.memory",
        ];
        assert_eq!(places, expect, "{problems:#?}");
    }

    #[test]
    fn addresses_name_host_and_port() {
        for (address, expect) in [
            ("https://ledger.kybernis-system.svc:7443", true),
            ("https://10.0.0.1:7443", true),
            ("https://[fd00::1]:7443", true),
            ("https://ledger", false),
            ("https://ledger:0", false),
            ("https://ledger:7443/", false),
            ("http://ledger:7443", false),
            ("https://:7443", false),
            ("https://a@b:7443", false),
        ] {
            assert_eq!(is_https(address), expect, "{address}");
        }
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<Settings>(r#"{"flavour": "1"}"#).unwrap_err().to_string().contains("flavour"));
    }
}
