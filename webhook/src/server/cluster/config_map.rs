//! The ConfigMap by which signatures are believed, written by compare-and-swap on its resourceVersion.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{FIELD_MANAGER, told};
use crate::server::decisions::keys::material::Entries;
use crate::server::stored::{ClusterError, Stored, Written};

#[derive(Clone)]
pub(super) struct ConfigMapStore {
    api: Api<ConfigMap>,
    name: String,
}

impl ConfigMapStore {
    pub(super) fn new(client: Client, namespace: &str, name: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name }
    }

    fn failed(&self, error: &kube::Error) -> ClusterError {
        ClusterError { what: format!("the ConfigMap {}", self.name), why: told(error) }
    }

    pub(super) async fn read(&self) -> Result<Option<Stored<Entries>>, ClusterError> {
        let found = self.api.get_opt(&self.name).await.map_err(|error| self.failed(&error))?;
        Ok(found
            .map(|found| Stored { bytes: found.data.unwrap_or_default(), version: found.metadata.resource_version.unwrap_or_default() }))
    }

    pub(super) async fn write(&self, entries: &Entries, over: Option<&Stored<Entries>>) -> Result<Written, ClusterError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match over {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let made = ConfigMap { metadata, data: Some(entries.clone()), ..ConfigMap::default() };
                self.api.create(&params, &made).await
            }
            Some(over) => {
                let Some(mut found) = self.api.get_opt(&self.name).await.map_err(|error| self.failed(&error))? else {
                    return Ok(Written::Conflict);
                };
                // The one that was read is the one that is replaced, whatever has become of it since.
                found.metadata.resource_version = Some(over.version.clone());
                found.data = Some(entries.clone());
                self.api.replace(&self.name, &params, &found).await
            }
        };
        match written {
            Ok(_) => Ok(Written::Done),
            // Another version (update), somebody was first (create), or it is gone (update).
            Err(kube::Error::Api(status)) if status.code == 409 || (status.code == 404 && over.is_some()) => Ok(Written::Conflict),
            Err(error) => Err(self.failed(&error)),
        }
    }
}
