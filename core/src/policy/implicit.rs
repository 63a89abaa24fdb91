//! What an endpoint means where no registration speaks for it: the class of its method and host, the name of its host.

use sha2::{Digest, Sha256};

use super::call::CallHead;
use super::llm::is_llm_host;
use super::model::Class;
use crate::ids::ToolName;

/// Unregistered: GET, HEAD and OPTIONS are reads, known model hosts LLM, the rest side effects.
pub(super) fn implicit_class(call: &CallHead) -> Class {
    if call.is_read() {
        Class::Read
    } else if is_llm_host(call.host()) {
        Class::Llm
    } else {
        Class::SideEffect
    }
}

/// The host and, unless it is a default one, the port; shortened by a hash where DNS allows more than a name may have.
pub(super) fn implicit_name(call: &CallHead) -> ToolName {
    let text = match call.port() {
        80 | 443 => call.host().to_string(),
        port => format!("{}:{port}", call.host()),
    };
    let shortened = || {
        let digest = hex::encode(Sha256::digest(&text));
        format!("{}-{}", &text[..text.len().min(100)], &digest[..16])
    };
    // A canonical host has no character that a name lacks, so one of the two always holds.
    ToolName::new(&text).or_else(|_| ToolName::new(&shortened())).unwrap_or_else(|_| fallback())
}

#[allow(clippy::expect_used, reason = "a constant name of letters")]
fn fallback() -> ToolName {
    ToolName::new("unregistered").expect("letters make a name")
}
