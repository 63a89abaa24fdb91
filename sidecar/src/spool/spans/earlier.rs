//! What earlier lives left: their logs, read back and delivered batch by batch.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use kybernis_core::ids::BootId;
use kybernis_proto::v1;

use super::{BATCH, BATCH_BYTES};
use crate::control::{Backoff, CallError, Control};

/// The spans of an earlier life, in order; a last line that was torn is left out.
pub(crate) fn read_log(path: &Path) -> io::Result<Vec<(u64, Bytes)>> {
    let text = Bytes::from(fs::read(path)?);
    let whole = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    Ok(whole
        .filter_map(|line| {
            let mut parts = line[..line.len() - 1].splitn(3, |byte| *byte == b' ');
            let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
            parts.next()?;
            Some((number, text.slice_ref(parts.next()?)))
        })
        .collect())
}

/// Batches of spans that follow one another. What was acknowledged before its turn to be logged left a gap.
pub(crate) fn batches(boot: &BootId, spans: &[(u64, Bytes)]) -> Vec<v1::SpanBatch> {
    let (mut count, mut bytes) = (1, spans.first().map_or(0, |(_, json)| json.len()));
    let unbroken = spans.chunk_by(move |(before, _), (after, json)| {
        (count, bytes) = (count + 1, bytes + json.len());
        let together = before.checked_add(1) == Some(*after) && count <= BATCH && bytes <= BATCH_BYTES;
        if !together {
            (count, bytes) = (1, json.len());
        }
        together
    });
    unbroken
        .filter_map(|chunk| {
            let first_seq = chunk.first()?.0;
            let spans = chunk.iter().map(|(_, json)| json.clone()).collect();
            Some(v1::SpanBatch { boot: boot.to_string(), first_seq, spans })
        })
        .collect()
}

pub(super) async fn deliver_log(control: &Control, boot: &BootId, path: &Path) {
    let spans = match read_log(path) {
        Ok(spans) => spans,
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "an earlier life's spans cannot be read");
            return;
        }
    };
    let send = |batch| async {
        let mut acks = control.stream_spans(futures::stream::iter([batch])).await?;
        Ok(acks.message().await?)
    };
    for batch in batches(boot, &spans) {
        deliver_batch(&batch, send).await;
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %error, "an earlier life's spans are delivered and stay on disk");
    }
}

/// Sends a batch until the ledger has acknowledged it, or says that it never will.
pub(super) async fn deliver_batch<F>(batch: &v1::SpanBatch, send: impl Fn(v1::SpanBatch) -> F)
where
    F: Future<Output = Result<Option<v1::SpanAck>, CallError>>,
{
    let mut backoff = Backoff::new();
    loop {
        match send(batch.clone()).await {
            Ok(Some(_)) => return,
            // The ledger is going, and ends its streams in good order: that is no acknowledgement.
            Ok(None) | Err(CallError::Away(_)) => backoff.wait().await,
            Err(CallError::Refused(reason)) => {
                tracing::error!(reason, "the ledger does not take an earlier life's spans");
                return;
            }
        }
    }
}
