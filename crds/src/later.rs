//! What the next releases will read. Until they do, it is refused wherever it is written: by the folder's reader with its place,
//! and by the API server, because a field that a server drops in silence is a promise that nobody keeps.

/// What is said of it.
pub(crate) const NOT_YET: &str = "is not yet supported";

/// A field of a kind that the next releases will read.
pub(crate) struct Later {
    pub(crate) kind: &'static str,
    /// From the object's root; `[]` stands for any item.
    pub(crate) path: &'static str,
    /// Its type in OpenAPI.
    pub(crate) form: &'static str,
    /// What it will say.
    pub(crate) about: &'static str,
}

/// All of them.
pub(crate) const LATER_FIELDS: [Later; 6] = [
    Later { kind: "ToolRegistration", path: "spec.cost", form: "object", about: "What a call costs." },
    Later { kind: "ToolRegistration", path: "spec.health", form: "object", about: "How the far side's health is known." },
    Later { kind: "Policy", path: "spec.loops", form: "object", about: "What happens to an agent that repeats itself." },
    Later { kind: "Policy", path: "spec.rules[].delay", form: "object", about: "For verdict Delay: how long a call waits." },
    Later { kind: "Policy", path: "spec.rules[].downgrade", form: "object", about: "For verdict Downgrade: what is changed." },
    Later { kind: "RetryPolicy", path: "spec.budgetPercent", form: "integer", about: "Retries as a share of live calls." },
];
