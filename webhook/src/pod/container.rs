//! A container taken apart.

use serde_json::Value;

use super::{Named, name};
use crate::json::{At, Object, put_objects, take_objects};
use crate::path::FieldPath;
use crate::refusal::Findings;

/// What a container's `securityContext` says, as far as rules look at it.
#[derive(Debug, Default)]
pub(crate) struct Security {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) privileged: bool,
    pub(crate) allow_privilege_escalation: Option<bool>,
    pub(crate) adds: Vec<String>,
    pub(crate) drops: Vec<String>,
}

/// A container taken apart.
#[derive(Debug)]
pub(crate) struct Container {
    /// Where it stands in the pod as it was given.
    pub(crate) path: FieldPath,
    pub(crate) name: String,
    pub(crate) env: Vec<Named>,
    pub(crate) mounts: Vec<Named>,
    pub(crate) has_env_from: bool,
    pub(crate) security: Security,
    rest: Object,
}

impl Container {
    /// Takes a list of containers out of its owner.
    pub(super) fn take(owner: &mut Object, key: &str, path: &FieldPath, findings: &mut Findings) -> Vec<Self> {
        let listed = take_objects(owner, key, path, findings);
        listed.into_iter().filter_map(|(path, rest)| Self::read(path, rest, findings)).collect()
    }

    /// One of ours, at its place.
    pub(crate) fn new(path: FieldPath, fields: Object) -> Option<Self> {
        Self::read(path, fields, &mut Findings::default())
    }

    fn read(path: FieldPath, mut rest: Object, findings: &mut Findings) -> Option<Self> {
        let name = name(&rest, &path, findings)?;
        let env = Named::take(&mut rest, "env", &path, findings);
        let mounts = Named::take(&mut rest, "volumeMounts", &path, findings);
        let at = At { object: &rest, path: &path };
        let has_env_from = !at.objects("envFrom", findings).is_empty();
        let security = at.object("securityContext", findings).map(|object| {
            let path = path.member("securityContext");
            security(At { object, path: &path }, findings)
        });
        Some(Self { env, mounts, has_env_from, security: security.unwrap_or_default(), name, path, rest })
    }

    /// A field that no rule has taken apart.
    pub(crate) fn field(&self, key: &str) -> Option<&Value> {
        self.rest.get(key)
    }

    /// Where a mount leads to in the container's file system.
    pub(crate) fn mount_path(mount: &Named) -> &str {
        mount.fields.get("mountPath").and_then(Value::as_str).unwrap_or_default()
    }

    /// Puts the container together again.
    pub(crate) fn put(self) -> Object {
        let mut rest = self.rest;
        put_objects(&mut rest, "env", self.env.into_iter().map(|variable| variable.fields));
        put_objects(&mut rest, "volumeMounts", self.mounts.into_iter().map(|mount| mount.fields));
        rest
    }

    /// The container as it stands, in one piece.
    pub(crate) fn to_value(&self) -> Value {
        let mut fields = self.rest.clone();
        put_objects(&mut fields, "env", self.env.iter().map(|variable| variable.fields.clone()));
        put_objects(&mut fields, "volumeMounts", self.mounts.iter().map(|mount| mount.fields.clone()));
        Value::Object(fields)
    }
}

fn security(at: At<'_>, findings: &mut Findings) -> Security {
    let mut security = Security {
        run_as_user: at.whole("runAsUser", findings),
        privileged: at.flag("privileged", findings).unwrap_or_default(),
        allow_privilege_escalation: at.flag("allowPrivilegeEscalation", findings),
        ..Security::default()
    };
    if let Some(object) = at.object("capabilities", findings) {
        let path = at.path.member("capabilities");
        let at = At { object, path: &path };
        (security.adds, security.drops) = (at.texts("add", findings), at.texts("drop", findings));
    }
    security
}
