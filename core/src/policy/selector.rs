//! Label selectors, as Kubernetes defines them, over an agent's pod labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The labels of an agent's pod; on a laptop those given by `--label`.
pub type Labels = BTreeMap<String, String>;

/// Which agents an object is for. Empty: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Labels that must have these values.
    pub equal: Labels,
    /// Further requirements; all must hold.
    pub requirements: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
    /// For `In` and `NotIn`; else empty.
    pub values: Vec<String>,
}

/// How a requirement compares (meta/v1 LabelSelectorRequirement).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Selector {
    /// Whether an agent with these labels is meant.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.equal.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let found = labels.get(&self.key);
        match self.operator {
            Operator::In => found.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => found.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_means_what_kubernetes_says() {
        let labels = Labels::from([("app".into(), "trader".into())]);
        let check = |key: &str, operator, values: &[&str], expect: bool| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            let selector = Selector { equal: Labels::new(), requirements: vec![Requirement { key: key.into(), operator, values }] };
            assert_eq!(selector.selects(&labels), expect, "{selector:?}");
        };
        check("app", Operator::In, &["trader", "x"], true);
        check("app", Operator::In, &["x"], false);
        check("zone", Operator::In, &["x"], false);
        check("app", Operator::NotIn, &["trader"], false);
        check("zone", Operator::NotIn, &["x"], true);
        check("app", Operator::Exists, &[], true);
        check("zone", Operator::Exists, &[], false);
        check("zone", Operator::DoesNotExist, &[], true);
        assert!(Selector::default().selects(&labels));
        let other = Selector { equal: Labels::from([("app".into(), "x".into())]), requirements: vec![] };
        assert!(!other.selects(&labels));
    }
}
