//! Namespaces at the API server: a watch of their metadata, and a look at one that the watch has not brought yet.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::told;
use crate::server::namespaces::{Labels, Namespaces, Question};

/// For one look; whoever asks waits a little longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keeps what is known up to date until `closing`.
pub(crate) async fn watch(client: Client, known: Namespaces, closing: CancellationToken) {
    let events = watcher(Api::<PartialObjectMeta<Namespace>>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listing = HashMap::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = closing.cancelled() => return,
        };
        match event {
            None => return,
            Some(Err(error)) => tracing::warn!(%error, "namespaces cannot be watched; each is asked for"),
            Some(Ok(Event::Init)) => listing.clear(),
            Some(Ok(Event::InitApply(namespace))) => {
                let (name, labels) = of(namespace);
                listing.insert(name, labels);
            }
            Some(Ok(Event::InitDone)) => known.list(std::mem::take(&mut listing)),
            Some(Ok(Event::Apply(namespace))) => {
                let (name, labels) = of(namespace);
                known.change(name, Some(labels));
            }
            Some(Ok(Event::Delete(namespace))) => known.change(of(namespace).0, None),
        }
    }
}

/// Answers questions for single ones until `closing`. The reviews' own bound is that of the looks at a time.
pub(crate) async fn answer(client: Client, mut questions: mpsc::Receiver<Question>, closing: CancellationToken) {
    let api = Api::<Namespace>::all(client);
    loop {
        let question = tokio::select! {
            question = questions.recv() => question,
            () = closing.cancelled() => return,
        };
        let Some(Question { name, answer }) = question else { return };
        let api = api.clone();
        tokio::spawn(async move {
            let found = tokio::time::timeout(PATIENCE, api.get_metadata_opt(&name)).await;
            let found = match found {
                Ok(Ok(found)) => Ok(found.map(|namespace| of(namespace).1)),
                Ok(Err(error)) => Err(told(&error)),
                Err(_) => Err("the API server does not answer in time".to_owned()),
            };
            // Whoever asked may have given up.
            drop(answer.send(found));
        });
    }
}

fn of(namespace: PartialObjectMeta<Namespace>) -> (String, Labels) {
    let metadata = namespace.metadata;
    (metadata.name.unwrap_or_default(), metadata.labels.unwrap_or_default())
}
