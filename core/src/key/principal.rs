//! On whose behalf a call is made, told from its credentials without keeping them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::TenantSecret;
use crate::ids::Principal;
use crate::json::Json;

/// Headers that carry a credential when `Authorization` does not, and say on whose behalf a call is made.
const KEY_HEADERS: [&str; 5] = ["x-api-key", "api-key", "x-goog-api-key", "x-auth-token", "private-token"];

/// Credentials that name nobody for longer than a session, or name somebody to a hop on the way.
const OTHER_CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-amz-security-token"];

/// Whether the header of this name, in any case, carries a credential: it is meant for one origin, and is left out where a
/// call goes on to another.
pub fn is_credential(name: &str) -> bool {
    KEY_HEADERS.iter().chain(&OTHER_CREDENTIALS).any(|known| name.eq_ignore_ascii_case(known))
}

/// An HMAC of: a JWT's `iss` and `sub`; Basic's user; SigV4's access key id; else the credential header; else nothing. One
/// that is named is named alone: a key beside it may be a session's.
///
/// `headers` are lower-case names with their values. A token that rotates keeps its principal where it names one.
pub fn principal<'h>(secret: &TenantSecret, headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Principal {
    let mut credentials: Vec<_> = headers.filter(|(name, _)| *name == "authorization" || KEY_HEADERS.contains(name)).collect();
    // A client may send them in any order.
    credentials.sort_unstable();
    let named = credentials.iter().filter(|(name, _)| *name == "authorization").find_map(|(_, value)| named(value));
    let parts = named.unwrap_or_else(|| credentials.iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.to_vec()]).collect());
    secret.principal_of(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Whom an `Authorization` names, whatever else it carries; `None` where the credential itself is all there is.
fn named(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let parts = |kind: &str, names: &[&str]| {
        Some(std::iter::once(kind).chain(names.iter().copied()).map(|text| text.as_bytes().to_vec()).collect())
    };
    let text = String::from_utf8_lossy(value);
    let (scheme, rest) = text.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        let (issuer, subject) = jwt(rest)?;
        parts("jwt", &[&issuer, &subject])
    } else if scheme.eq_ignore_ascii_case("basic") {
        parts("basic", &[&basic(rest)?])
    } else if scheme.eq_ignore_ascii_case("aws4-hmac-sha256") {
        parts("sigv4", &[sigv4(rest)?])
    } else {
        None
    }
}

/// `iss` and `sub` of a JWT's payload; the signature is the far side's to check.
fn jwt(token: &str) -> Option<(String, String)> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = Json::parse(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()?;
    let claim = |name| match claims.get(name) {
        Some(Json::String(text)) => Some(text.clone()),
        Some(_) | None => None,
    };
    Some((claim("iss").unwrap_or_default(), claim("sub")?))
}

fn basic(encoded: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(user, _)| user.to_owned())
}

/// `Credential=AKID/date/region/service/aws4_request, …`: the id is the part before the first slash.
fn sigv4(parameters: &str) -> Option<&str> {
    let credential = parameters.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
    credential.split('/').next().filter(|id| !id.is_empty())
}
