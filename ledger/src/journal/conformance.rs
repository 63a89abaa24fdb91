//! What every journal must do, run against each backend.

use std::future::Future;

use super::*;

fn append(epoch: Epoch, expected: Head, events: &[u8]) -> Append {
    Append { epoch, expected, events: events.to_vec(), blobs: Vec::new() }
}

async fn appends_are_read_back_in_order(journal: &dyn Journal) {
    let (epoch, mut head) = journal.acquire().await.unwrap();
    assert_eq!(head, Head { segments: 0, digest: GENESIS });
    for events in [&b"one"[..], b"two", b"three"] {
        head = journal.append(append(epoch, head, events)).await.unwrap();
    }
    assert_eq!(journal.read(0, 10).await.unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    assert_eq!(journal.read(1, 1).await.unwrap(), [b"two".to_vec()]);
    assert_eq!(journal.acquire().await.unwrap().1, head);
}

async fn an_append_at_another_head_is_refused(journal: &dyn Journal) {
    let (epoch, empty) = journal.acquire().await.unwrap();
    let head = journal.append(append(epoch, empty, b"one")).await.unwrap();
    assert!(matches!(journal.append(append(epoch, empty, b"other")).await, Err(JournalError::HeadMoved { expected: 0, found: 1 })));
    let forged = Head { digest: GENESIS, ..head };
    assert!(matches!(journal.append(append(epoch, forged, b"other")).await, Err(JournalError::HeadMoved { .. })));
    assert_eq!(journal.read(0, 10).await.unwrap().len(), 1);
}

async fn a_deposed_owner_cannot_write(journal: &dyn Journal) {
    let (old, head) = journal.acquire().await.unwrap();
    let (new, _) = journal.acquire().await.unwrap();
    assert!(new > old);
    assert!(matches!(journal.append(append(old, head, b"late")).await, Err(JournalError::Deposed { .. })));
    journal.append(append(new, head, b"mine")).await.unwrap();
}

async fn blobs_are_written_with_their_segment_or_not_at_all(journal: &dyn Journal) {
    let (epoch, head) = journal.acquire().await.unwrap();
    let blob = |key: &str, chunk, bytes: &[u8]| Blob { key: key.to_owned(), chunk, bytes: bytes.to_vec() };
    let with_blobs = Append { blobs: vec![blob("a", 1, b"y"), blob("a", 0, b"x"), blob("b", 0, b"z")], ..append(epoch, head, b"one") };
    let after = journal.append(with_blobs).await.unwrap();
    assert_eq!(journal.read_blobs("a").await.unwrap(), [b"x".to_vec(), b"y".to_vec()]);
    let refused = Append { blobs: vec![blob("c", 0, b"w")], ..append(epoch, head, b"two") };
    assert!(journal.append(refused).await.is_err());
    assert!(journal.read_blobs("c").await.unwrap().is_empty());
    let keys = async |after: &str, limit| journal.blob_keys(after, limit).await.unwrap();
    assert_eq!(
        (keys("", 10).await, keys("", 1).await, keys("a", 10).await),
        (vec!["a".into(), "b".into()], vec!["a".into()], vec!["b".into()])
    );
    journal.drop_blobs(&["a".to_owned()]).await.unwrap();
    assert!(journal.read_blobs("a").await.unwrap().is_empty());
    assert_eq!(journal.read_blobs("b").await.unwrap().len(), 1);
    assert_eq!(keys("", 10).await, ["b".to_owned()]);
    assert_eq!(journal.acquire().await.unwrap().1, after);
}

fn on<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod memory {
            $(#[test]
            fn $test() {
                super::on(super::$test(&super::MemoryJournal::new()));
            })*
        }

        mod sqlite {
            $(#[test]
            fn $test() {
                let folder = super::folder();
                super::on(super::$test(&super::SqliteJournal::open(folder.path()).unwrap()));
            })*
        }
    };
}

suite! {
    appends_are_read_back_in_order
    an_append_at_another_head_is_refused
    a_deposed_owner_cannot_write
    blobs_are_written_with_their_segment_or_not_at_all
}

#[test]
fn a_second_ledger_on_the_same_folder_is_refused_with_a_reason() {
    let folder = folder();
    let _first = SqliteJournal::open(folder.path()).unwrap();
    let error = SqliteJournal::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("another ledger has"), "{error}");
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let folder = folder();
    on(async {
        let journal = SqliteJournal::open(folder.path()).unwrap();
        let (epoch, head) = journal.acquire().await.unwrap();
        journal.append(append(epoch, head, b"one")).await.unwrap();
    });
    on(async {
        let journal = SqliteJournal::open(folder.path()).unwrap();
        let (epoch, head) = journal.acquire().await.unwrap();
        assert_eq!((epoch.get(), head.segments), (2, 1));
    });
}

#[test]
fn a_changed_segment_is_found_and_named() {
    let folder = folder();
    on(async {
        let journal = SqliteJournal::open(folder.path()).unwrap();
        let (epoch, head) = journal.acquire().await.unwrap();
        let head = journal.append(append(epoch, head, b"one")).await.unwrap();
        journal.append(append(epoch, head, b"two")).await.unwrap();
        let meddler = rusqlite::Connection::open(folder.path().join("journal.sqlite")).unwrap();
        meddler.execute("UPDATE segment SET events = x'00' WHERE number = 2", []).unwrap();
        assert!(matches!(journal.read(0, 10).await, Err(JournalError::Corrupt { segment: 2 })));
    });
}
