//! What Strict asks of a pod: that no other container has the means to undo the redirection or to pass for the sidecar, and that names
//! lead where the cluster says.

use super::others;
use crate::path::FieldPath;
use crate::pod::{Container, Pod};
use crate::refusal::{Findings, named};

/// Capabilities with which a container becomes the sidecar's user, writes packets past the redirection, undoes it, or reads
/// the sidecar's memory.
const DROPPED: [&str; 5] = ["SETUID", "SETGID", "NET_RAW", "NET_ADMIN", "SYS_PTRACE"];
/// What may be added: Pod Security's `baseline` list, less what is in [`DROPPED`]. With others, SYS_ADMIN or BPF say, a
/// container gets at the redirection by another way.
const ADDABLE: [&str; 11] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETPCAP", "SYS_CHROOT"];

pub(super) fn check(pod: &Pod, findings: &mut Findings) {
    let spec = FieldPath::top("spec");
    let shared = [
        (pod.sharing.host_pid, "hostPID", "its node's processes"),
        (pod.sharing.host_ipc, "hostIPC", "its node's shared memory"),
        (pod.sharing.process_namespace, "shareProcessNamespace", "one view of processes, the sidecar's among them"),
    ];
    for (field, what) in shared.into_iter().filter_map(|(set, field, what)| set.then_some((field, what))) {
        findings.fault(spec.member(field), format!("gives the containers {what}, which Strict forbids"), "Remove it");
    }
    for field in &pod.own_names {
        let rule = "says where names lead, the sidecar's among them, and Strict forbids it";
        findings.fault(field.clone(), rule, "Remove it: names are the cluster's, or have a Service of type ExternalName");
    }
    for volume in pod.volumes.iter().filter(|volume| volume.fields.get("hostPath").is_some_and(|path| !path.is_null())) {
        let rule = format!("the volume {} is a folder of the node, which Strict forbids", volume.name);
        findings.fault(volume.path.member("hostPath"), rule, "Use another kind of volume");
    }
    others(pod).for_each(|container| check_container(container, pod.run_as_user, findings));
}

fn check_container(container: &Container, pod_user: Option<i64>, findings: &mut Findings) {
    let (at, name, security) = (container.path.member("securityContext"), &container.name, &container.security);
    if security.run_as_user.or(pod_user).is_none() {
        let rule = format!("the container {name} does not say as which user it runs, and Strict must know that it is not the sidecar's");
        findings.fault(at.member("runAsUser"), rule, "Set it, here or in spec.securityContext");
    }
    if security.allow_privilege_escalation != Some(false) {
        let rule = format!("Strict forbids the container {name} to gain privileges");
        findings.fault(at.member("allowPrivilegeEscalation"), rule, "Set it to false");
    }
    if security.privileged {
        findings.fault(at.member("privileged"), format!("Strict forbids the container {name} to be privileged"), "Remove it");
    }
    let drops_all = security.drops.iter().any(|dropped| dropped == "ALL");
    let kept: Vec<&str> = DROPPED.into_iter().filter(|name| !drops_all && !security.drops.iter().any(|dropped| dropped == name)).collect();
    if !kept.is_empty() {
        let rule = format!("under Strict the container {name} must drop {}", named(kept));
        findings.fault(at.member("capabilities").member("drop"), rule, "Drop what is named, or ALL");
    }
    let plain = |added: &str| added.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let adds: Vec<&str> = security.adds.iter().filter(|added| !ADDABLE.contains(&plain(added).as_str())).map(String::as_str).collect();
    if !adds.is_empty() {
        let rule = format!("Strict forbids the container {name} to add {}", named(adds));
        findings.fault(at.member("capabilities").member("add"), rule, "Remove what is named");
    }
}
