//! Certificates that somebody else provides as files, cert-manager say: read again as they change.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::material::{MaterialError, certified};
use super::serving::Serving;
use crate::server::status::Status;

/// The kubelet brings a changed Secret within a minute or two; looking more often gains nothing.
const LOOK: Duration = Duration::from_secs(10);

/// Where they lie.
#[derive(Clone, Debug)]
pub(crate) struct Provided {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Why they are not used.
#[derive(Debug, thiserror::Error)]
enum ProvidedError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Material(#[from] MaterialError),
}

impl Provided {
    /// Reads them again and again until `closing`; one that cannot be used leaves the last in service.
    pub(crate) async fn run(self, serving: Serving, status: Status, closing: CancellationToken) {
        let mut last = None;
        loop {
            let read = async {
                let pair = (read(&self.certificate).await?, read(&self.key).await?);
                // A certificate and a key of different age do not match; the next look finds both.
                let certified = certified(&pair.0, &pair.1)?;
                Ok::<_, ProvidedError>((pair, certified))
            };
            match read.await {
                Ok((pair, certified)) => {
                    if last.as_ref() != Some(&pair) {
                        serving.serve(certified);
                        last = Some(pair);
                    }
                    // Whoever provides them publishes their authority.
                    status.published();
                    status.kept(None);
                }
                Err(error) => {
                    tracing::warn!(%error, "the provided certificate cannot be used");
                    status.kept(Some(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = closing.cancelled() => return,
            }
        }
    }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, ProvidedError> {
    tokio::fs::read(path).await.map_err(|source| ProvidedError::File { path: path.clone(), source })
}
