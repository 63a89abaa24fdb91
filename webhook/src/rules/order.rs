//! Who runs first. What runs before the redirection is not redirected; what runs before the sidecar reaches nothing.

use crate::capture::Capture;
use crate::names::{CONTAINERS, PROXY_CONTAINER};
use crate::pod::Pod;
use crate::refusal::Findings;

/// Refuses foreign init containers before ours, once every mutating webhook has had its turn.
pub(crate) fn check(pod: &Pod, capture: Capture, findings: &mut Findings) {
    let proxy = pod.init_containers.iter().position(|container| container.name == PROXY_CONTAINER);
    let (true, Some(proxy)) = (capture.redirects(), proxy) else { return };
    let (before, after) = pod.init_containers.split_at(proxy);
    let is_ours = |name: &str| CONTAINERS.contains(&name);
    for container in before.iter().filter(|container| !is_ours(&container.name)) {
        let rule = format!("the init container {} would run before Kybernis has redirected its connections", container.name);
        findings.fault(container.path.clone(), rule, "Let whatever puts it there put it after kybernis-proxy, or choose Cooperative");
    }
    for container in after.iter().skip(1).filter(|container| is_ours(&container.name)) {
        let rule = format!("{} stands after {PROXY_CONTAINER}, and must run before it", container.name);
        findings.fault(container.path.clone(), rule, "Let whatever moves it leave it where it was");
    }
}
