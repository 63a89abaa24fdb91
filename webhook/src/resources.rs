//! What our containers ask of the node, and what a pod's own `resources` must therefore grow by.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::json::Object;
use crate::path::FieldPath;
use crate::quantity::{Quantity, QuantityError};
use crate::refusal::Findings;

/// A resource that our containers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cpu,
    Memory,
}

impl Kind {
    /// Reads an amount: above nothing, and no finer than Kubernetes hands out.
    pub(crate) fn read(self, text: &str) -> Result<Quantity, AmountError> {
        let quantity = Quantity::parse(text)?;
        if quantity.is_zero() {
            return Err(AmountError::Zero);
        }
        match self {
            Self::Cpu if !quantity.is_whole_in(1000) => Err(AmountError::Millicores),
            Self::Memory if !quantity.is_whole_in(1) => Err(AmountError::Bytes),
            Self::Cpu | Self::Memory => Ok(quantity),
        }
    }

    /// How an amount is written.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::Cpu => "Write cores, as in 500m or 2",
            Self::Memory => "Write bytes, as in 64Mi or 1Gi",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

/// Why an amount cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    #[error("is nothing")]
    Zero,
    #[error("is finer than a thousandth of a core")]
    Millicores,
    #[error("is no whole number of bytes")]
    Bytes,
}

/// What is asked of one resource.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) request: Option<Quantity>,
    pub(crate) limit: Option<Quantity>,
}

impl Share {
    /// The API server refuses a request above its limit.
    pub(crate) fn fits(self) -> bool {
        !matches!((self.request, self.limit), (Some(request), Some(limit)) if request > limit)
    }
}

/// What each of our containers asks for. The capture container asks for as much as the sidecar: it runs before it and alone,
/// so the pod as a whole needs no more for it, and a quota that wants limits everywhere is content.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resources {
    pub(crate) cpu: Share,
    pub(crate) memory: Share,
}

impl Resources {
    const fn shares(self) -> [(Kind, Share); 2] {
        [(Kind::Cpu, self.cpu), (Kind::Memory, self.memory)]
    }

    /// A container's `resources`. A limit without a request is its request too: so the API server would fill it in.
    pub(crate) fn render(self) -> Value {
        let (mut requests, mut limits) = (Object::new(), Object::new());
        for (kind, share) in self.shares() {
            let put = |into: &mut Object, amount: Option<Quantity>| {
                if let Some(amount) = amount {
                    into.insert(kind.to_string(), json!(amount.to_string()));
                }
            };
            put(&mut requests, share.request.or(share.limit));
            put(&mut limits, share.limit);
        }
        let mut resources = Object::new();
        for (name, amounts) in [("limits", limits), ("requests", requests)] {
            if !amounts.is_empty() {
                resources.insert(name.to_owned(), Value::Object(amounts));
            }
        }
        Value::Object(resources)
    }

    /// By how much each amount of a pod's own `resources` grows. Where we have no limit, the pod's grows by what we request.
    fn growth(self) -> impl Iterator<Item = (&'static str, Kind, Quantity)> {
        let of = |(kind, share): (Kind, Share)| {
            [("requests", kind, share.request.or(share.limit)), ("limits", kind, share.limit.or(share.request))]
        };
        self.shares().into_iter().flat_map(of).filter_map(|(name, kind, amount)| Some((name, kind, amount?)))
    }
}

/// What a pod's own `resources` have grown by so far: `requests.cpu` and the like, with the amount. Kept in the status, so that
/// they grow once.
pub(crate) type Grown = BTreeMap<String, String>;

/// Lets a pod's own `resources` grow by ours, each amount that is stated there and has not grown yet.
pub(crate) fn grow(pod: &mut Object, ours: Resources, grown: &mut Grown, findings: &mut Findings) {
    let at = FieldPath::top("spec").member("resources");
    for (name, kind, amount) in ours.growth() {
        let key = format!("{name}.{kind}");
        let Some(stated) = pod.get_mut(name).and_then(|amounts| amounts.get_mut(kind.to_string())) else { continue };
        if stated.is_null() || grown.contains_key(&key) {
            continue;
        }
        let path = at.member(name).member(&kind.to_string());
        let text = stated.as_str().map_or_else(|| stated.to_string(), str::to_owned);
        match Quantity::parse(&text).map(|before| before.plus(amount)) {
            Ok(Some(sum)) => {
                *stated = json!(sum.to_string());
                grown.insert(key, amount.to_string());
                findings.added(path, format!("the sidecar's {amount}"));
            }
            Ok(None) => findings.fault(path, "is too large to add the sidecar's share", "Correct the manifest"),
            Err(error) => findings.fault(path, format!("{text:?} {error}"), kind.advice()),
        }
    }
}
