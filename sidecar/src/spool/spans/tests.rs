use kybernis_core::ids::{RunId, SpanId};
use kybernis_core::ksp::{SpanStart, SpanType};
use kybernis_core::time::Timestamp;

use super::earlier::deliver_batch;
use super::*;

fn span(name: &str, filler: usize) -> KspEvent {
    let (run, id) = (RunId::new("run").unwrap(), SpanId::new(name).unwrap());
    KspEvent::SpanStart(SpanStart::new(Timestamp::from_epoch_ms(1), run, id, SpanType::Http, "x".repeat(filler)))
}

#[test]
fn a_later_life_reads_what_was_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    spans.record(Kind::Kept, &[span("a", 1), span("b", 1)]);
    OpenOptions::new().append(true).open(&spans.path).unwrap().write_all(b"3 k {\"torn").unwrap();
    let again = Spans::open(folder.path(), &BootId::new("boot-2").unwrap()).unwrap();
    let earlier = again.earlier().clone();
    assert_eq!(earlier[0].0.as_str(), "boot-1");
    assert_eq!(read_log(&earlier[0].1).unwrap().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_read_is_logged_with_others_and_what_is_acknowledged_first_leaves_a_gap_that_a_later_life_minds() {
    let folder = tempfile::tempdir().unwrap();
    let boot = BootId::new("boot-1").unwrap();
    let spans = Spans::open(folder.path(), &boot).unwrap();
    let logged = || read_log(&spans.path).unwrap();
    spans.record(Kind::Kept, &[span("a", 1)]);
    spans.record(Kind::Read, &[span("b", 1), span("c", 1)]);
    assert_eq!(logged().len(), 1, "a read was written alone");
    spans.acknowledged(2);
    spans.state().write_log();
    assert_eq!(logged().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    let again = batches(&boot, &logged());
    assert_eq!(again.iter().map(|batch| (batch.first_seq, batch.spans.len())).collect::<Vec<_>>(), [(1, 1), (3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_in_the_log_a_moment_later() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    spans.record(Kind::Read, &[span("a", 1)]);
    assert!(tokio::time::timeout(UNLOGGED * 2, spans.keep_log()).await.is_err(), "the log is kept for ever");
    assert_eq!(read_log(&spans.path).unwrap().len(), 1);
}

#[test]
fn batches_are_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let boot = BootId::new("boot-1").unwrap();
    let spans = Spans::open(folder.path(), &boot).unwrap();
    for _ in 0..3 {
        spans.record(Kind::Kept, &[span("a", BATCH_BYTES / 2)]);
    }
    spans.record(Kind::Kept, &[span("b", BATCH_BYTES * 2), span("c", 1)]);
    let mut sizes = Vec::new();
    let logged = read_log(&spans.path).unwrap();
    while let Some(batch) = spans.batch() {
        sizes.push(batch.spans.len());
        spans.acknowledged(batch.first_seq + batch.spans.len() as u64 - 1);
    }
    assert_eq!(sizes, [1, 1, 1, 1, 1]);
    assert_eq!(batches(&boot, &logged).iter().map(|batch| batch.spans.len()).collect::<Vec<_>>(), sizes);
}

#[test]
fn without_reads_the_oldest_of_the_rest_go_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    for _ in 0..BATCH + 400 {
        spans.record(Kind::Kept, &[span("a", BYTES_MAX / (BATCH + 300))]);
    }
    assert!(spans.dropped() > 0);
    assert!(spans.state().bytes <= BYTES_MAX);
}

#[test]
fn when_full_the_oldest_reads_go_and_are_counted_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    let each = BYTES_MAX / 1000;
    for n in 0..600 {
        spans.record(Kind::Read, &[span(&format!("read-{n}"), each)]);
        spans.record(Kind::Kept, &[span(&format!("kept-{n}"), each)]);
    }
    assert!(spans.dropped() > 0);
    let state = spans.state();
    let kept = state.queue.iter().filter(|span| span.kind == Kind::Kept).count();
    assert_eq!((kept, state.queue.len()), (600, 1200 - usize::try_from(state.dropped).unwrap()));
    drop(state);
    let numbers: Vec<u64> = read_log(&spans.path).unwrap().iter().map(|(number, _)| *number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "numbers close up");
}

#[test]
fn what_is_acknowledged_leaves_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    spans.record(Kind::Kept, &[span("a", 1), span("b", 1)]);
    spans.acknowledged(1);
    assert_eq!(spans.batch().unwrap().first_seq, 2);
    spans.acknowledged(2);
    assert!(spans.is_empty() && fs::metadata(&spans.path).unwrap().len() == 0);
}

#[test]
fn under_a_steady_load_the_log_does_not_grow_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let spans = Spans::open(folder.path(), &BootId::new("boot-1").unwrap()).unwrap();
    let length = || usize::try_from(fs::metadata(&spans.path).unwrap().len()).unwrap();
    for number in 1..=1000 {
        spans.record(Kind::Kept, &[span("a", 64 * 1024)]);
        // One span is always on its way.
        spans.acknowledged(number - 1);
        assert!(length() < ACKNOWLEDGED_MAX + 1024 * 1024, "{} bytes after {number}", length());
        assert_eq!(spans.state().log_bytes, length());
    }
    assert_eq!(read_log(&spans.path).unwrap().last().unwrap().0, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_without_an_acknowledgement_has_delivered_nothing() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let asked = AtomicU32::new(0);
    let send = |_| {
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        std::future::ready(match nth {
            0 => Ok(None),
            1 => Err(CallError::Away("draining".to_owned())),
            _ => Ok(Some(v1::SpanAck { through: 1 })),
        })
    };
    deliver_batch(&v1::SpanBatch::default(), send).await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn what_an_earlier_life_left_is_not_delivered_before_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let open = |boot: &str| Spans::open(folder.path(), &BootId::new(boot).unwrap()).unwrap();
    open("boot-1").record(Kind::Kept, &[span("a", 1)]);
    let later = open("boot-2");
    assert!(!later.is_empty(), "a log that waits counts for nothing");
    assert_eq!(later.oldest().unwrap().0.as_str(), "boot-1");
    later.earlier().pop_front();
    assert!(later.is_empty());
}

#[test]
fn of_more_than_the_disk_may_hold_the_oldest_life_s_log_goes_and_its_spans_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let open = |boot: &str| Spans::open(folder.path(), &BootId::new(boot).unwrap()).unwrap();
    let half = usize::try_from(EARLIER_MAX).unwrap() / 2;
    for (age, boot) in ["boot-c", "boot-b", "boot-a"].into_iter().enumerate() {
        let spans = open(boot);
        spans.record(Kind::Kept, &[span("a", half - 1024), span("b", 1)]);
        let then = std::time::SystemTime::now() - Duration::from_secs(100 * (age as u64 + 1));
        spans.state().log.set_modified(then).unwrap();
    }
    let later = open("boot-d");
    assert_eq!(later.earlier().iter().map(|(boot, _)| boot.as_str().to_owned()).collect::<Vec<_>>(), ["boot-b", "boot-c"]);
    assert_eq!(later.dropped(), 2);
}
