//! The token that every call carries; read again from its file, because tokens rotate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use super::{CallError, ControlError};

/// The bearer token in force.
#[derive(Clone)]
pub(super) struct Token {
    file: Arc<Path>,
    value: Arc<ArcSwap<MetadataValue<Ascii>>>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Token {
    pub(super) fn read(file: &Path) -> Result<Self, ControlError> {
        let value = value(file)?;
        Ok(Self { file: file.into(), value: Arc::new(ArcSwap::from_pointee(value)) })
    }

    /// What the ledger said to the bearer.
    pub(super) fn heard<T>(&self, reply: Result<tonic::Response<T>, Status>) -> Result<T, CallError> {
        reply.map(tonic::Response::into_inner).map_err(|status| self.failed(status))
    }

    /// Tokens rotate: one that the ledger no longer takes is read again, and the call may be made once more.
    pub(super) fn failed(&self, status: Status) -> CallError {
        if status.code() == Code::Unauthenticated {
            self.read_again();
        }
        status.into()
    }

    /// Takes up a rotated token; what cannot be read leaves the last one in force.
    pub(super) fn read_again(&self) {
        match value(&self.file) {
            Ok(value) => self.value.store(Arc::new(value)),
            Err(error) => tracing::warn!(%error, "the token cannot be read again"),
        }
    }
}

fn value(file: &Path) -> Result<MetadataValue<Ascii>, ControlError> {
    let path = PathBuf::from(file);
    let text = std::fs::read_to_string(file).map_err(|source| ControlError::File { path: path.clone(), source })?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim()).parse().map_err(|_| ControlError::Token { path })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", MetadataValue::clone(&self.value.load()));
        Ok(request)
    }
}
