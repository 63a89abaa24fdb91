//! A board as a stream of messages: all that stands on it, `synced`, then each change, until one is lost or the ledger stops.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use kybernis_core::machine::Gate;
use kybernis_proto::{gate_state, v1};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Messages;
use crate::board::{Change, Watched};
use crate::fleet::{Seat, Seated};
use crate::gates::Name;

/// What is told of a board's names.
pub(super) trait Update<K, V>: Sized {
    fn synced(partial: bool) -> Self;
    /// `None` for what goes without saying.
    fn of(change: Change<K, V>) -> Option<Self>;
}

/// What a watcher is sent; `partial` where there is more than stands on the board.
pub(super) fn messages<K, V, M>((all, changes): Watched<K, V>, partial: bool, closing: CancellationToken) -> Messages<M>
where
    K: Clone + Send + 'static,
    V: Clone + Send + 'static,
    M: Update<K, V> + Send + 'static,
{
    let all = all.into_iter().filter_map(|(name, value)| M::of((name, Some(value))));
    let all = futures::stream::iter(all.chain([M::synced(partial)]).map(Ok));
    let changes = followed(changes).filter_map(|change| std::future::ready(change.map(M::of).transpose()));
    all.chain(changes).take_until(closing.cancelled_owned()).boxed()
}

/// The changes until one is lost.
fn followed<K: Clone, V: Clone>(changes: broadcast::Receiver<Change<K, V>>) -> impl Stream<Item = Result<Change<K, V>, Status>> {
    futures::stream::unfold(Some(changes), |changes| async {
        let mut changes = changes?;
        match changes.recv().await {
            Ok(change) => Some((Ok(change), Some(changes))),
            Err(RecvError::Lagged(lost)) => Some((Err(Status::aborted(format!("{lost} changes were lost on the way; ask again"))), None)),
            Err(RecvError::Closed) => None,
        }
    })
}

impl Update<Seat, Seated> for v1::SidecarUpdate {
    fn synced(partial: bool) -> Self {
        Self { update: Some(v1::sidecar_update::Update::Synced(v1::Synced { partial })) }
    }

    fn of(((tenant, instance), now): Change<Seat, Seated>) -> Option<Self> {
        use v1::sidecar_update::Update;
        let tenant = tenant.to_string();
        let update = match now {
            None => Update::Gone(v1::GoneSidecar { tenant, instance }),
            Some((_, sidecar)) => Update::Live(v1::LiveSidecar {
                tenant,
                instance,
                agent: sidecar.agent.to_string(),
                labels: sidecar.labels.into_iter().collect(),
                digest: sidecar.digest,
                error: sidecar.error,
            }),
        };
        Some(Self { update: Some(update) })
    }
}

impl Update<Name, Arc<Gate>> for v1::GateUpdate {
    fn synced(partial: bool) -> Self {
        Self { update: Some(v1::gate_update::Update::Synced(v1::Synced { partial })) }
    }

    fn of(((tenant, _), now): Change<Name, Arc<Gate>>) -> Option<Self> {
        let update = v1::gate_update::Update::Gate(gate_state(&tenant, &*now?));
        Some(Self { update: Some(update) })
    }
}
