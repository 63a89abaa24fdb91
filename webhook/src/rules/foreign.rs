//! What is ours alone: names, ports, the mounts, the sidecar's user, and the ledger's audience.

use serde_json::Value;

use super::others;
use crate::capture::Capture;
use crate::config::Config;
use crate::names::{BUNDLE_FOLDER, BUNDLE_VOLUME, CAPTURE_CONTAINER, CONTAINERS, VOLUMES};
use crate::path::FieldPath;
use crate::pod::{Container, Named, Pod};
use crate::ports;
use crate::refusal::Findings;

pub(super) fn check(pod: &Pod, config: &Config, capture: Capture, findings: &mut Findings) {
    let misplaced = pod.containers.iter().filter(|container| CONTAINERS.contains(&container.name.as_str()));
    let needless = pod.init_containers.iter().filter(|container| container.name == CAPTURE_CONTAINER && !capture.redirects());
    for container in misplaced.chain(needless) {
        let rule = format!("{} is a name of Kybernis' own", container.name);
        findings.fault(container.path.member("name"), rule, "Choose another name");
    }
    for volume in pod.volumes.iter().filter(|volume| !VOLUMES.contains(&volume.name.as_str())) {
        audience(volume, config, findings);
    }
    for container in others(pod) {
        check_mounts(container, findings);
        listens(container, findings);
        if capture.redirects() {
            runs_as_us(container, pod.run_as_user, config, findings);
        }
    }
}

/// The sidecar's volumes hold its CA's key and its token. The others get one of them, to read.
fn check_mounts(container: &Container, findings: &mut Findings) {
    for mount in &container.mounts {
        let path = Container::mount_path(mount).trim_end_matches('/');
        let is_read_only = mount.fields.get("readOnly").and_then(Value::as_bool).unwrap_or_default();
        let is_inside = path == BUNDLE_FOLDER || path.strip_prefix(BUNDLE_FOLDER).is_some_and(|rest| rest.starts_with('/'));
        if mount.name == BUNDLE_VOLUME && path == BUNDLE_FOLDER && is_read_only {
            continue;
        }
        let rule = if VOLUMES.contains(&mount.name.as_str()) {
            format!("the container {} mounts {}, a volume of Kybernis", container.name, mount.name)
        } else if is_inside {
            format!("the container {} mounts {} where Kybernis puts the roots that clients must trust", container.name, mount.name)
        } else {
            continue;
        };
        findings.fault(mount.path.clone(), rule, format!("Remove the mount; Kybernis mounts {BUNDLE_FOLDER} itself"));
    }
}

/// All containers share the pod's ports, so the sidecar or this one could not listen.
fn listens(container: &Container, findings: &mut Findings) {
    let listed = container.field("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, port) in listed.iter().enumerate() {
        let number = port.get("containerPort").and_then(Value::as_u64);
        let is_udp = port.get("protocol").and_then(Value::as_str) == Some("UDP");
        let ours = ports::ALL.iter().find(|(ours, _)| number == Some(u64::from(*ours)) && (!is_udp || *ours == ports::DNS));
        if let Some((number, purpose)) = ours {
            let rule = format!("the sidecar listens on {number} for {purpose}");
            findings.fault(container.path.member("ports").index(index).member("containerPort"), rule, "Let the container listen elsewhere");
        }
    }
}

/// The redirection lets our user pass, and our files are readable for it.
fn runs_as_us(container: &Container, pod_user: Option<i64>, config: &Config, findings: &mut Findings) {
    let uid = config.uid();
    let path = match (container.security.run_as_user, pod_user) {
        (Some(own), _) if own == uid => container.path.member("securityContext").member("runAsUser"),
        (None, Some(pods)) if pods == uid => FieldPath::top("spec").member("securityContext").member("runAsUser"),
        _ => return,
    };
    let rule =
        format!("the container {} would run as {uid}, the user of the sidecar, whose connections are not redirected", container.name);
    findings.fault(path, rule, "Choose another uid");
}

/// A token for the ledger's audience is how the ledger knows a sidecar.
fn audience(volume: &Named, config: &Config, findings: &mut Findings) {
    let audience = &config.settings().token.audience;
    let sources = volume.fields.get("projected").and_then(|projected| projected.get("sources")).and_then(Value::as_array);
    for (index, source) in sources.map(Vec::as_slice).unwrap_or_default().iter().enumerate() {
        let asks = source.get("serviceAccountToken").and_then(|token| token.get("audience")).and_then(Value::as_str);
        if asks == Some(audience) {
            let path = volume.path.member("projected").member("sources").index(index).member("serviceAccountToken").member("audience");
            findings.fault(
                path,
                format!("{audience} is the ledger's audience, and only the sidecar's token is for it"),
                "Remove the source",
            );
        }
    }
}
