//! Spans on their way to the ledger: numbered, kept on disk until acknowledged, bounded. When the bound is reached the
//! oldest reads go first, then the oldest of the rest, and all are counted.

mod earlier;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::buf::Writer;
use bytes::{BufMut as _, Bytes, BytesMut};
use kybernis_core::ids::BootId;
use kybernis_core::ksp::KspEvent;
use kybernis_proto::{SPANS_MAX, v1};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use self::earlier::deliver_log;
pub(crate) use self::earlier::{batches, read_log};
use super::SpoolError;
use crate::control::{Backoff, CallError, Control};

/// Spans kept while the ledger is away, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Spans in the log that are acknowledged already. Beyond it the log is rewritten without them, however many wait: under a steady
/// load there is never a moment when none does.
const ACKNOWLEDGED_MAX: usize = 4 * 1024 * 1024;
/// Bytes of earlier lives' logs. A sidecar that dies again and again while the ledger is away fills no disk with them.
const EARLIER_MAX: u64 = 16 * 1024 * 1024;
/// The share that goes when the bound is reached: dropping in bulk keeps the log from being rewritten often.
const DROP_SHARE: usize = 4;
/// Dropping reads is worth while until they are this much fewer than the rest.
const READS_WORTH: usize = 64;
/// Spans in one batch: as many as the ledger takes.
const BATCH: usize = SPANS_MAX;
/// Bytes in one batch, of which one span takes at most a fraction: well below what a message may have.
const BATCH_BYTES: usize = 1024 * 1024;
/// What a span usually takes.
const USUAL_BYTES: usize = 512;
/// Batches on their way without an acknowledgement.
const WINDOW: usize = 1;
/// How long a span may wait for others, to be sent along with them: what sending costs alone is more than the call that it tells of.
const GATHER: Duration = Duration::from_millis(5);
/// How long a read's span may be kept out of the log: by then the ledger, if it is there, has acknowledged it, and it need not be
/// written at all. A process that is killed loses the reads of its last moment.
const UNLOGGED: Duration = Duration::from_millis(100);

/// What a span is about, for the order in which spans are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read: dropped first.
    Read,
    /// Anything else: kept.
    Kept,
}

/// The spans that are not acknowledged.
#[derive(Debug)]
pub struct Spans {
    boot: BootId,
    path: PathBuf,
    state: Mutex<State>,
    /// For the stream to the ledger.
    news: Notify,
    /// For the log.
    unwritten: Notify,
    /// Logs of earlier lives, until they are delivered.
    earlier: Mutex<VecDeque<(BootId, PathBuf)>>,
}

#[derive(Debug)]
struct State {
    log: File,
    /// How long the log is, with what is acknowledged already.
    log_bytes: usize,
    /// How many of the queue's last are not in the log.
    unlogged: usize,
    queue: VecDeque<Span>,
    bytes: usize,
    /// The number of the first span in the queue.
    first: u64,
    dropped: u64,
}

#[derive(Clone, Debug)]
struct Span {
    kind: Kind,
    json: Bytes,
}

impl Spans {
    pub(super) fn open(folder: &Path, boot: &BootId) -> Result<Self, SpoolError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError { path, source }
        };
        let mut earlier = Vec::new();
        let mut dropped = 0;
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let path = entry.map_err(failed(folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("spans-")?.strip_suffix(".log"));
            if let Some(of) = name.and_then(|name| BootId::new(name).ok()) {
                let about = fs::metadata(&path).map_err(failed(&path))?;
                earlier.push((about.modified().map_err(failed(&path))?, about.len(), of, path));
            }
        }
        earlier.sort();
        while earlier.iter().map(|(_, bytes, ..)| bytes).sum::<u64>() > EARLIER_MAX {
            let (_, _, boot, path) = earlier.remove(0);
            let spans = read_log(&path).map_err(failed(&path))?.len();
            tracing::warn!(%boot, spans, "earlier lives left more spans than the spool may hold: the oldest log is dropped");
            fs::remove_file(&path).map_err(failed(&path))?;
            dropped += spans as u64;
        }
        let earlier = earlier.into_iter().map(|(_, _, of, path)| (of, path)).collect();
        let path = folder.join(format!("spans-{boot}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed(&path))?;
        let state = State { log, log_bytes: 0, unlogged: 0, queue: VecDeque::new(), bytes: 0, first: 1, dropped };
        let (news, unwritten) = (Notify::new(), Notify::new());
        Ok(Self { boot: boot.clone(), path, state: Mutex::new(state), news, unwritten, earlier: Mutex::new(earlier) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spans that were dropped because the bound was reached.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    fn earlier(&self) -> MutexGuard<'_, VecDeque<(BootId, PathBuf)>> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn oldest(&self) -> Option<(BootId, PathBuf)> {
        self.earlier().front().cloned()
    }

    /// Whether every span is acknowledged, those of earlier lives too.
    pub fn is_empty(&self) -> bool {
        self.earlier().is_empty() && self.state().queue.is_empty()
    }

    /// Takes spans in, in order. What is no read is in the log when this returns; a span that cannot be written there is still
    /// sent, unless the process dies first.
    pub fn record(&self, kind: Kind, events: &[KspEvent]) {
        let mut buffer = BytesMut::with_capacity(USUAL_BYTES * events.len()).writer();
        let encoded: Vec<Bytes> = events.iter().map(|event| encode(event, &mut buffer)).collect();
        {
            let mut state = self.state();
            state.unlogged += encoded.len();
            for json in encoded {
                state.bytes += json.len();
                state.queue.push_back(Span { kind, json });
            }
            if kind == Kind::Kept {
                state.write_log();
            }
            if state.bytes > BYTES_MAX
                && let Err(error) = self.make_room(&mut state)
            {
                tracing::warn!(%error, "the spool of spans could not be rewritten");
            }
        }
        self.news.notify_one();
        self.unwritten.notify_one();
    }

    /// Brings the log up to date whenever there is something for it.
    async fn keep_log(&self) {
        loop {
            self.unwritten.notified().await;
            tokio::time::sleep(UNLOGGED).await;
            self.state().write_log();
        }
    }

    /// Drops the oldest reads or, where too few are left to make room, the oldest of all. What was never sent has no number that
    /// anybody knows, so the rest closes up; a batch on its way keeps its place.
    fn make_room(&self, state: &mut State) -> io::Result<()> {
        let on_its_way = state.batch_len();
        let reads = state.queue.iter().skip(on_its_way).filter(|span| span.kind == Kind::Read).count();
        let rest = state.queue.len() - on_its_way - reads;
        // One read more or less makes no room: then the rest has its turn.
        let kind = if reads >= rest / READS_WORTH { Kind::Read } else { Kind::Kept };
        let mut to_drop = if kind == Kind::Read { reads.div_ceil(DROP_SHARE) } else { rest.div_ceil(DROP_SHARE) };
        state.dropped += to_drop as u64;
        tracing::warn!(spans = to_drop, total = state.dropped, ?kind, "the spool is full: the oldest spans are dropped");
        let mut kept = VecDeque::with_capacity(state.queue.len());
        for (place, span) in state.queue.drain(..).enumerate() {
            if place >= on_its_way && (span.kind == kind || kind == Kind::Kept) && to_drop > 0 {
                to_drop -= 1;
            } else {
                kept.push_back(span);
            }
        }
        state.bytes = kept.iter().map(|span| span.json.len()).sum();
        state.queue = kept;
        self.rewrite(state)
    }

    fn rewrite(&self, state: &mut State) -> io::Result<()> {
        let draft = self.path.with_extension("partial");
        let lines = lines((state.first..).zip(&state.queue));
        fs::write(&draft, &lines)?;
        fs::rename(&draft, &self.path)?;
        state.log = OpenOptions::new().append(true).open(&self.path)?;
        (state.log_bytes, state.unlogged) = (lines.len(), 0);
        Ok(())
    }

    fn batch(&self) -> Option<v1::SpanBatch> {
        let state = self.state();
        let spans: Vec<Bytes> = state.queue.iter().take(state.batch_len()).map(|span| span.json.clone()).collect();
        (!spans.is_empty()).then(|| v1::SpanBatch { boot: self.boot.to_string(), first_seq: state.first, spans })
    }

    fn acknowledged(&self, through: u64) {
        let mut state = self.state();
        while state.first <= through {
            let Some(span) = state.queue.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(span.json.len());
            state.first += 1;
        }
        state.unlogged = state.unlogged.min(state.queue.len());
        let shortened = if state.queue.is_empty() && state.log_bytes > 0 {
            state.log.set_len(0).map(|()| state.log_bytes = 0)
        } else if state.log_bytes > state.bytes + ACKNOWLEDGED_MAX {
            self.rewrite(&mut state)
        } else {
            Ok(())
        };
        if let Err(error) = shortened {
            tracing::warn!(%error, "the spool of spans could not be shortened");
        }
    }

    /// Delivers what earlier lives left, then this one's spans as they come; meanwhile the log is kept.
    pub(super) async fn deliver(self: Arc<Self>, control: Control) {
        tokio::join!(self.keep_log(), self.deliver_all(control));
    }

    async fn deliver_all(&self, control: Control) {
        while let Some((boot, path)) = self.oldest() {
            deliver_log(&control, &boot, &path).await;
            self.earlier().pop_front();
        }
        let mut backoff = Backoff::new();
        loop {
            match self.stream(&control, &mut backoff).await {
                Ok(()) => {}
                Err(CallError::Refused(reason)) => tracing::error!(reason, "the ledger does not take spans"),
                Err(CallError::Away(reason)) => tracing::debug!(reason, "the span stream ended"),
            }
            backoff.wait().await;
        }
    }

    async fn stream(&self, control: &Control, backoff: &mut Backoff) -> Result<(), CallError> {
        let (batches, queue) = mpsc::channel(WINDOW);
        let mut acks = None;
        let mut queue = Some(queue);
        loop {
            let waiting = self.state().queue.len();
            if waiting == 0 {
                self.news.notified().await;
            }
            if waiting < BATCH {
                tokio::time::sleep(GATHER).await;
            }
            let Some(batch) = self.batch() else { continue };
            if batches.send(batch).await.is_err() {
                return Ok(());
            }
            let acks = match &mut acks {
                Some(acks) => acks,
                none => match queue.take() {
                    // The stream opens with its first batch: an idle sidecar holds none.
                    Some(queue) => none.insert(control.stream_spans(ReceiverStream::new(queue)).await?),
                    None => return Ok(()),
                },
            };
            let Some(ack) = acks.message().await? else { return Ok(()) };
            self.acknowledged(ack.through);
            backoff.reset();
        }
    }
}

fn encode(event: &KspEvent, buffer: &mut Writer<BytesMut>) -> Bytes {
    // KSP events are strings, integers and maps with text keys: this cannot fail.
    let _ = serde_json::to_writer(&mut *buffer, event);
    buffer.get_mut().split().freeze()
}

impl State {
    /// How many of the queue's first make up a batch.
    fn batch_len(&self) -> usize {
        let mut bytes = 0;
        let fits = |span: &&Span| {
            bytes += span.json.len();
            bytes <= BATCH_BYTES || bytes == span.json.len()
        };
        self.queue.iter().take(BATCH).take_while(fits).count()
    }

    /// Writes what is not in the log yet, at one go.
    fn write_log(&mut self) {
        let skipped = self.queue.len().saturating_sub(self.unlogged);
        if self.unlogged == 0 {
            return;
        }
        let numbered = (self.first + skipped as u64..).zip(self.queue.range(skipped..));
        let lines = lines(numbered);
        self.unlogged = 0;
        self.log_bytes += lines.len();
        if let Err(error) = self.log.write_all(&lines) {
            tracing::warn!(%error, "spans could not be written to the spool");
        }
    }
}

/// `NUMBER r|k JSON`, one span a line.
fn lines<'s>(numbered: impl Iterator<Item = (u64, &'s Span)>) -> Vec<u8> {
    let mut lines = Vec::with_capacity(numbered.size_hint().0 * (USUAL_BYTES + 16));
    for (number, span) in numbered {
        let mark = match span.kind {
            Kind::Read => 'r',
            Kind::Kept => 'k',
        };
        // Writing to memory does not fail.
        let _ = write!(lines, "{number} {mark} ");
        lines.extend_from_slice(&span.json);
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests;
