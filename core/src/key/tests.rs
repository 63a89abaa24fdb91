//! The contract's rules about keys, each by its name.

use super::*;

fn secret() -> TenantSecret {
    TenantSecret::new([3; 32])
}

fn target(url: &str) -> Target {
    let (scheme, rest) = url.split_once("://").unwrap();
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().unwrap()),
        None => (authority, 0),
    };
    Target::new(scheme, host, port, path).unwrap()
}

fn key(ours: &[&str], ietf: &[&str]) -> Result<Option<String>, KeyError> {
    let key = of_headers(ours.iter().map(|v| v.as_bytes()), ietf.iter().map(|v| v.as_bytes()))?;
    Ok(key.map(|key| key.expose().to_owned()))
}

#[test]
fn the_ietf_key_is_read_quoted_or_bare() {
    assert_eq!(key(&[], &["\"8e03978e-40d5\""]), Ok(Some("8e03978e-40d5".to_owned())));
    assert_eq!(key(&[], &["8e03978e-40d5"]), Ok(Some("8e03978e-40d5".to_owned())));
    assert_eq!(key(&[], &[r#""a\"b\\c""#]), Ok(Some(r#"a"b\c"#.to_owned())));
    assert_eq!(key(&["\"x\""], &[]), Ok(Some("\"x\"".to_owned())));
}

#[test]
fn two_keys_that_disagree_are_refused_and_two_that_agree_are_one() {
    assert_eq!(key(&["a"], &["b"]), Err(KeyError::Disagree));
    assert_eq!(key(&["a"], &["\"a\""]), Ok(Some("a".to_owned())));
}

#[test]
fn malformed_keys_name_the_header_and_the_rule() {
    assert_eq!(key(&[""], &[]), Err(KeyError::Empty { header: OURS_NAME }));
    assert_eq!(key(&[], &["\"\""]), Err(KeyError::Empty { header: IETF_NAME }));
    assert_eq!(key(&[&"k".repeat(256)], &[]), Err(KeyError::TooLong { header: OURS_NAME, len: 256 }));
    assert_eq!(key(&["a\u{7}b"], &[]), Err(KeyError::Character { header: OURS_NAME, at: 1 }));
    assert_eq!(key(&[], &["\"open"]), Err(KeyError::Quotes { header: IETF_NAME }));
    assert_eq!(key(&[], &["a", "a"]), Err(KeyError::Repeated { header: IETF_NAME, count: 2 }));
}

const OURS_NAME: &str = header::OURS;
const IETF_NAME: &str = header::IETF;

#[test]
fn a_key_shows_eight_characters_only() {
    let key = of_headers(std::iter::once(&b"secret-key-42"[..]), std::iter::empty()).unwrap().unwrap();
    assert_eq!(format!("{key:?}"), "IdempotencyKey(secret-k…)");
}

#[test]
fn a_hint_fits_its_bound_whatever_the_key_is_written_in() {
    for (key, shown) in
        [("", ""), ("refund", "refund"), ("refund:pay_1", "refund:p"), ("äöüßäöüßäöüß", "äöüßäöüß"), ("返金返金返金返金", "返金返金返")]
    {
        assert_eq!(hint(key), shown);
        assert!(hint(key).len() <= HINT_MAX);
    }
}

#[test]
fn every_header_that_names_the_principal_is_a_credential() {
    for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token", "private-token"] {
        assert_ne!(who(&[(name, "secret")]), who(&[]), "{name}");
        assert!(is_credential(name), "{name}");
    }
    assert!(["Cookie", "Proxy-Authorization", "X-Amz-Security-Token", "X-API-Key"].iter().all(|name| is_credential(name)));
    assert!(["accept", "content-type", "idempotency-key", "x-request-id"].iter().all(|name| !is_credential(name)));
}

#[test]
fn a_tool_key_holds_for_the_whole_tenant_and_a_caller_key_for_agent_method_and_path() {
    let tool = ToolName::new("refunds").unwrap();
    assert_eq!(secret().tool_key(&tool, "refund:1"), secret().tool_key(&tool, "refund:1"));
    assert_ne!(secret().tool_key(&tool, "refund:1"), secret().tool_key(&ToolName::new("orders").unwrap(), "refund:1"));
    let key = of_headers(std::iter::once(&b"k"[..]), std::iter::empty()).unwrap().unwrap();
    let digest = |agent: &str, method: &str, url: &str| secret().caller_key(&AgentId::new(agent).unwrap(), method, &target(url), &key);
    let first = digest("trader", "POST", "https://b.example/v1/orders?x=1");
    assert_eq!(first, digest("trader", "POST", "https://B.example:443/v1/orders?x=2"));
    assert_ne!(first, digest("other", "POST", "https://b.example/v1/orders"));
    assert_ne!(first, digest("trader", "PUT", "https://b.example/v1/orders"));
    assert_ne!(first, digest("trader", "POST", "https://b.example/v1/refunds"));
}

#[test]
fn no_two_field_splits_meet() {
    let tool = |name: &str| ToolName::new(name).unwrap();
    assert_ne!(secret().tool_key(&tool("ab"), "c"), secret().tool_key(&tool("a"), "bc"));
}

#[test]
fn another_tenant_s_secret_gives_other_keys() {
    let tool = ToolName::new("refunds").unwrap();
    assert_ne!(secret().tool_key(&tool, "1"), TenantSecret::new([4; 32]).tool_key(&tool, "1"));
}

#[test]
fn meaning_looks_at_method_url_and_body_and_at_nothing_else() {
    let body = fingerprint(b"{}");
    let first = secret().meaning("POST", &target("https://b.example/v1/orders?a=1"), body);
    assert_eq!(first, secret().meaning("POST", &target("HTTPS://B.example./v1/%6frders?a=1"), body));
    assert_ne!(first, secret().meaning("POST", &target("https://b.example/v1/orders?a=2"), body));
    assert_ne!(first, secret().meaning("POST", &target("https://b.example/v1/orders?a=1"), fingerprint(b"{ }")));
}

#[test]
fn the_far_side_key_is_stable_within_a_generation() {
    let effect = EffectId::new("eff-1").unwrap();
    assert_eq!(secret().far_side_key(&effect, 0), secret().far_side_key(&effect, 0));
    assert_ne!(secret().far_side_key(&effect, 0), secret().far_side_key(&effect, 1));
    assert_eq!(secret().far_side_key(&effect, 0).len(), 36);
}

fn who(headers: &[(&str, &str)]) -> Principal {
    principal(&secret(), headers.iter().map(|(name, value)| (*name, value.as_bytes())))
}

#[test]
fn a_principal_outlives_its_token() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let jwt = |claims: &str| format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let first = who(&[("authorization", &jwt(r#"{"iss":"https://id","sub":"ada","exp":1}"#))]);
    assert_eq!(first, who(&[("authorization", &jwt(r#"{"iss":"https://id","sub":"ada","exp":2}"#))]));
    assert_ne!(first, who(&[("authorization", &jwt(r#"{"iss":"https://id","sub":"bob","exp":1}"#))]));
    assert_eq!(who(&[("authorization", "Basic YWRhOnB3MQ==")]), who(&[("authorization", "basic YWRhOnB3Mg==")]));
    let sig = |signature: &str| {
        format!("AWS4-HMAC-SHA256 Credential=AKID/20260101/eu/s3/aws4_request, SignedHeaders=host, Signature={signature}")
    };
    assert_eq!(who(&[("authorization", &sig("aa"))]), who(&[("authorization", &sig("bb"))]));
    let ada = "Basic YWRhOnB3MQ==";
    assert_eq!(who(&[("authorization", ada)]), who(&[("x-auth-token", "rotates"), ("authorization", ada)]), "a name stands alone");
}

#[test]
fn an_opaque_credential_is_its_own_principal_and_none_is_none() {
    assert_ne!(who(&[("authorization", "Bearer abc")]), who(&[("authorization", "Bearer abd")]));
    assert_ne!(who(&[("x-api-key", "1")]), who(&[("x-api-key", "2")]));
    assert_ne!(who(&[("x-api-key", "1")]), who(&[("api-key", "1")]));
    let (gateway, user) = (("authorization", "Bearer gateway"), ("x-api-key", "1"));
    assert_ne!(who(&[gateway, user]), who(&[gateway, ("x-api-key", "2")]), "a shared token names nobody");
    assert_eq!(who(&[gateway, user]), who(&[user, gateway]));
    assert_eq!(who(&[]), who(&[("accept", "*/*")]));
}

#[test]
fn a_target_has_one_form() {
    for (url, normal) in [
        ("HTTP://API.Example.com:80/a/./b/../c", "http://api.example.com/a/c"),
        ("https://api.example.com:8443", "https://api.example.com:8443/"),
        ("https://api.example.com/%7euser/%2fx?Q=%7e", "https://api.example.com/~user/%2Fx?Q=%7e"),
        ("https://[::1]:8443/x/..", "https://[::1]:8443/"),
        ("https://api.example.com/%2e%2e/admin", "https://api.example.com/admin"),
        ("https://api.example.com/%%34%31%+f", "https://api.example.com/%2541%+f"),
    ] {
        assert_eq!(target(url).url(), normal, "{url}");
    }
    assert!(matches!(Target::new("ftp", "h", 0, "/"), Err(TargetError::Scheme(_))));
    assert!(matches!(Target::new("http", "", 0, "/"), Err(TargetError::Host(_))));
    assert!(matches!(Target::new("http", "a b", 0, "/"), Err(TargetError::Host(_))));
    assert!(matches!(Target::new("http", "h", 0, "x"), Err(TargetError::Path(_))));
}

#[test]
fn a_gate_binds_method_url_principal_and_body() {
    let body = fingerprint(b"{}");
    let digest = |method: &str, url: &str, who: Principal, body| request_digest(method, &target(url), who, body);
    let first = digest("POST", "https://b.example/v1", who(&[]), body);
    assert_eq!(first, digest("POST", "https://b.example/v1", who(&[]), body));
    assert_ne!(first, digest("PUT", "https://b.example/v1", who(&[]), body));
    assert_ne!(first, digest("POST", "https://b.example/v2", who(&[]), body));
    assert_ne!(first, digest("POST", "https://b.example/v1", who(&[("x-api-key", "1")]), body));
    assert_ne!(first, digest("POST", "https://b.example/v1", who(&[]), fingerprint(b"[]")));
}
