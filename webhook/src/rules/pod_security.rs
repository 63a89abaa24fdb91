//! Whether the namespace's Pod Security level lets our init container in. Where it does not, the API server would refuse the
//! pod and blame a container that nobody knows; we say it first, and never weaken the capture by ourselves.

use crate::capture::Capture;
use crate::consent::Namespace;
use crate::names::CAPTURE;
use crate::path::FieldPath;
use crate::refusal::Findings;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The only level that lets a container add NET_ADMIN.
const PRIVILEGED: &str = "privileged";

pub(super) fn check(namespace: &Namespace, capture: Capture, findings: &mut Findings) {
    let Some(level) = namespace.label(ENFORCE).filter(|level| *level != PRIVILEGED) else { return };
    let rule = format!(
        "{capture} needs an init container that runs as root with NET_ADMIN, which the Pod Security level {level:?} of the namespace {} forbids",
        namespace.name
    );
    let advice = format!(
        "Set {CAPTURE}: Cooperative, which needs no privilege and catches clients that honour proxy variables, \
         or label the namespace {ENFORCE}={PRIVILEGED}"
    );
    findings.fault(FieldPath::annotation(CAPTURE), rule, advice);
}
