//! The Secret that replicas share, written by compare-and-swap on its resourceVersion.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{FIELD_MANAGER, told};
use crate::server::stored::{ClusterError, Stored, Written};

#[derive(Clone)]
pub(super) struct SecretStore {
    api: Api<Secret>,
    name: String,
    /// Under which key of the Secret's data ours lies.
    key: &'static str,
}

impl SecretStore {
    pub(super) fn new(client: Client, namespace: &str, name: String, key: &'static str) -> Self {
        Self { api: Api::namespaced(client, namespace), name, key }
    }

    fn failed(&self, error: &kube::Error) -> ClusterError {
        ClusterError { what: format!("the Secret {}", self.name), why: told(error) }
    }

    pub(super) async fn read(&self) -> Result<Option<Stored>, ClusterError> {
        let secret = self.api.get_opt(&self.name).await.map_err(|error| self.failed(&error))?;
        Ok(secret.map(|secret| Stored {
            bytes: secret.data.and_then(|mut data| data.remove(self.key)).map(|bytes| bytes.0).unwrap_or_default(),
            version: secret.metadata.resource_version.unwrap_or_default(),
        }))
    }

    /// What else is in the Secret is left there where the chart made it, and there is nothing else where we did.
    pub(super) async fn write(&self, bytes: &[u8], over: Option<&Stored>) -> Result<Written, ClusterError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match over {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let data = BTreeMap::from([(self.key.to_owned(), ByteString(bytes.to_vec()))]);
                let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() };
                self.api.create(&params, &secret).await
            }
            Some(over) => {
                let mut secret = match self.api.get_opt(&self.name).await {
                    Ok(Some(secret)) => secret,
                    Ok(None) => return Ok(Written::Conflict),
                    Err(error) => return Err(self.failed(&error)),
                };
                // The one that was read is the one that is replaced, whatever has become of it since.
                secret.metadata.resource_version = Some(over.version.clone());
                secret.data.get_or_insert_default().insert(self.key.to_owned(), ByteString(bytes.to_vec()));
                self.api.replace(&self.name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => Ok(Written::Done),
            // Another version (update), somebody was first (create), or it is gone (update).
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) && over.is_some() => Ok(Written::Conflict),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Written::Conflict),
            Err(error) => Err(self.failed(&error)),
        }
    }
}
