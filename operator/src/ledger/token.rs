//! The token that every call carries; read again from its file, because tokens rotate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::ConnectError;

/// The bearer token in force.
#[derive(Clone)]
pub(super) struct Token {
    file: Arc<Path>,
    value: Arc<ArcSwap<MetadataValue<Ascii>>>,
}

impl Token {
    pub(super) fn read(file: &Path) -> Result<Self, ConnectError> {
        let value = value(file)?;
        Ok(Self { file: file.into(), value: Arc::new(ArcSwap::from_pointee(value)) })
    }

    /// Takes up a rotated token; what cannot be read leaves the last one in force.
    pub(super) fn read_again(&self) {
        match value(&self.file) {
            Ok(value) => self.value.store(Arc::new(value)),
            Err(error) => tracing::warn!(%error, "the token cannot be read again"),
        }
    }
}

fn value(file: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let path = PathBuf::from(file);
    let text = std::fs::read_to_string(file).map_err(|source| ConnectError::File { path: path.clone(), source })?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim()).parse().map_err(|_| ConnectError::Token { path })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", MetadataValue::clone(&self.value.load()));
        Ok(request)
    }
}
