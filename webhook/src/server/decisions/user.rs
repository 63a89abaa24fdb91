//! Who asks, by the API server's own word. A decision is a person's: what runs by itself decides nothing, whatever RBAC says.

use std::collections::BTreeMap;

use kybernis_core::ids::PersonId;
use serde::Deserialize;
use serde_json::Value;

use crate::server::review::{Reason, Refused};

/// `userInfo` of a review, as a SubjectAccessReview takes it again.
///
/// Shape: <https://github.com/kubernetes/api/blob/master/authentication/v1/types.go>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct User {
    pub(crate) username: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) extra: Option<BTreeMap<String, Vec<String>>>,
}

/// What is no person: what it is called, and the names and groups by which Kubernetes knows it.
struct Machine {
    what: &'static str,
    /// The username, or with a colon at its end how it begins.
    name: &'static str,
    /// A group; what it has below it begins with it and a colon.
    group: &'static str,
}

/// Those that the API server authenticates without a person behind them.
const MACHINES: [Machine; 3] = [
    Machine { what: "a ServiceAccount", name: "system:serviceaccount:", group: "system:serviceaccounts" },
    Machine { what: "a node", name: "system:node:", group: "system:nodes" },
    Machine { what: "nobody: the request is anonymous", name: "system:anonymous", group: "system:unauthenticated" },
];

impl Machine {
    fn is(&self, user: &User) -> bool {
        let is_named = if self.name.ends_with(':') { user.username.starts_with(self.name) } else { user.username == self.name };
        let is_below = |group: &String| group.strip_prefix(self.group).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
        is_named || user.groups.iter().flatten().any(is_below)
    }
}

impl User {
    pub(crate) fn read(info: &Value) -> Result<Self, Refused> {
        let user = Self::deserialize(info);
        user.map_err(|error| Refused::new(Reason::BadRequest, format!("the AdmissionReview's userInfo does not hold: {error}")))
    }

    /// The person, where it is one.
    pub(crate) fn person(&self) -> Result<PersonId, Refused> {
        let forbidden = |why: String| {
            let who = self.username.escape_debug().to_string();
            // Whatever an authenticator says; it goes into an error and a log.
            let message = format!("user \"{who:.300}\" decides no gate: {why}. Decide as a person, with kubectl and your own credentials");
            Refused::new(Reason::Forbidden, message)
        };
        if let Some(machine) = MACHINES.iter().find(|machine| machine.is(self)) {
            return Err(forbidden(format!("it is {}", machine.what)));
        }
        PersonId::new(&self.username).map_err(|error| forbidden(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(username: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        User { username: username.to_owned(), groups: Some(groups), ..User::default() }
    }

    #[test]
    fn a_person_is_whoever_is_no_machine() {
        let longest = "é".repeat(256);
        for (username, groups) in [
            ("ada", &[] as &[&str]),
            ("ada@example.com", &["system:authenticated", "desk-heads"]),
            ("https://issuer.example/u?x=1#Ada Lovelace", &["system:masters"]),
            ("system:admin", &["system:masters"]),
            ("system:nodeless", &["system:nodes-readers", "system:serviceaccountsx", "x:system:nodes"]),
            ("system:anonymous-coward", &[]),
            (&longest, &[]),
        ] {
            assert_eq!(user(username, groups).person().unwrap().as_str(), username);
        }
        assert_eq!(User { username: "ada".to_owned(), ..User::default() }.person().unwrap().as_str(), "ada");
    }

    #[test]
    fn machines_are_refused_by_name_and_by_group() {
        for (username, groups, what) in [
            ("system:serviceaccount:trading:trader", &[] as &[&str], "it is a ServiceAccount"),
            ("system:serviceaccount:", &[], "it is a ServiceAccount"),
            ("ada", &["system:serviceaccounts"], "it is a ServiceAccount"),
            ("ada", &["a", "system:serviceaccounts:trading"], "it is a ServiceAccount"),
            ("system:node:n1", &[], "it is a node"),
            ("ada", &["system:nodes"], "it is a node"),
            ("system:anonymous", &[], "it is nobody"),
            ("ada", &["system:unauthenticated"], "it is nobody"),
            ("", &[], "a person's name has 0 characters"),
            (&"a".repeat(257), &[], "a person's name has 257 characters"),
            ("a\nb", &[], "has the control character '\\n'"),
        ] {
            let refused = user(username, groups).person().expect_err(username);
            assert_eq!(refused.reason, Reason::Forbidden);
            assert!(refused.message.contains(what) && !refused.message.contains('\n'), "{username:?}: {}", refused.message);
        }
    }
}
