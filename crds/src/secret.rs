//! Secrets from the folder: held for the probes that name them, shown to nobody.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybernis_core::policy::SecretRef;

use crate::decode::SecretManifest;
use crate::lowering::FieldError;

/// The value of one key of a Secret. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Every Secret of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(BTreeMap<(String, String), BTreeMap<String, SecretValue>>);

impl Secrets {
    pub(crate) fn get(&self, wanted: &SecretRef) -> Option<&SecretValue> {
        self.0.get(&(wanted.namespace.clone(), wanted.name.clone()))?.get(&wanted.key)
    }

    /// Takes a manifest in; `stringData` wins over `data`, as it does for the API server.
    pub(crate) fn add(&mut self, namespace: &str, name: &str, found: SecretManifest, errors: &mut Vec<FieldError>) {
        let mut values = BTreeMap::new();
        for (key, encoded) in found.data {
            match STANDARD.decode(encoded.as_bytes()) {
                Ok(bytes) => {
                    values.insert(key, SecretValue(bytes));
                }
                Err(_) => {
                    let problem = "is not base64. Encode the value, or put it into stringData as it is";
                    errors.push((format!("data.{key}"), problem.to_owned()));
                }
            }
        }
        values.extend(found.string_data.into_iter().map(|(key, text)| (key, SecretValue(text.into_bytes()))));
        self.0.insert((namespace.to_owned(), name.to_owned()), values);
    }
}
