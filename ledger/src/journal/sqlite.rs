//! The embedded journal: SQLite in WAL mode with `synchronous=FULL`, one owner for life.
//!
//! A call is carried out where it is polled. Handing an append to a thread of its own and back costs as much as the commit
//! itself, and what comes in meanwhile waits for the next append all the same.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Append, Epoch, GENESIS, Head, Journal, JournalError, Pending, SegmentDigest};

/// The layout below; any other is refused.
const LAYOUT: i64 = 3;

/// For a lock that is somebody else's.
const BUSY: Duration = Duration::from_millis(100);

/// Rows lie in the order of their keys, without an index beside them: an append writes as few pages as it can.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS layout (version INTEGER NOT NULL PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS owner (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS segment (number INTEGER NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, digest BLOB NOT NULL, events BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS blob (key TEXT NOT NULL, chunk INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (key, chunk)) WITHOUT ROWID;";

/// A journal in one SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    connection: Mutex<Connection>,
    // Held for life: a second ledger on the same folder is refused before it opens the file.
    _lock: File,
}

impl SqliteJournal {
    /// Opens or creates `journal.sqlite` in `dir`. Refuses a folder that another ledger has open.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let unusable = |what: String| JournalError::Unusable(what);
        std::fs::create_dir_all(dir).map_err(|error| unusable(format!("cannot create {}: {error}", dir.display())))?;
        let lock = lock(&dir.join("journal.lock"))?;
        let file = dir.join("journal.sqlite");
        let connection = connect(&file).map_err(|error| unusable(format!("cannot open {}: {error}", file.display())))?;
        Ok(Self { connection: Mutex::new(connection), _lock: lock })
    }

    /// Whether a ledger has the journal of this folder open now. A successor waits for it to close.
    pub fn in_use(dir: &Path) -> bool {
        let lock = OpenOptions::new().write(true).open(dir.join("journal.lock"));
        lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn run<'a, T: Send + 'a>(&'a self, work: impl FnOnce(&mut Connection) -> Result<T, JournalError> + Send + 'a) -> Pending<'a, T> {
        Box::pin(async move {
            // A transaction that a panic broke off was rolled back when it was dropped.
            work(&mut self.connection.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

fn lock(path: &Path) -> Result<File, JournalError> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(|error| JournalError::Unusable(format!("cannot open {}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Unusable(format!(
            "another ledger has {} open; stop it, or give this one a folder of its own",
            path.parent().unwrap_or(path).display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(JournalError::Unusable(format!("{} cannot be locked ({error}); use a local file system", path.display())))
        }
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName("write-ahead logging is not possible here; use a local file system".to_owned()));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // No other ledger has it open; somebody who looks into it with a tool holds it for a moment, and waiting holds up the thread.
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(SCHEMA)?;
    let version: Option<i64> = connection.query_row("SELECT version FROM layout", [], |row| row.get(0)).optional()?;
    match version {
        None => {
            connection.execute("INSERT INTO layout (version) VALUES (?1)", params![LAYOUT])?;
        }
        Some(LAYOUT) => {}
        Some(other) => {
            let what = format!("the journal's layout is {other}; this ledger knows {LAYOUT} and must not open it");
            return Err(rusqlite::Error::InvalidParameterName(what));
        }
    }
    Ok(connection)
}

fn number(n: u64) -> i64 {
    // Segment numbers and epochs count up from zero one at a time and stay far below 2^63.
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

fn head(transaction: &Transaction<'_>) -> rusqlite::Result<Head> {
    let last = transaction
        .prepare_cached("SELECT number, digest FROM segment ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    Ok(match last {
        Some((segments, digest)) => Head { segments: count(segments), digest: SegmentDigest::from_slice(&digest).unwrap_or(GENESIS) },
        None => Head { segments: 0, digest: GENESIS },
    })
}

fn epoch(transaction: &Transaction<'_>) -> rusqlite::Result<Epoch> {
    let epoch = transaction.prepare_cached("SELECT epoch FROM owner")?.query_row([], |row| row.get(0))?;
    Ok(Epoch::new(count(epoch)))
}

fn acquire(connection: &mut Connection) -> rusqlite::Result<(Epoch, Head)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO owner (one, epoch) VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1", [])?;
    let (epoch, head) = (epoch(&transaction)?, head(&transaction)?);
    transaction.commit()?;
    Ok((epoch, head))
}

fn append(connection: &mut Connection, append: &Append) -> Result<Head, JournalError> {
    let unknown = |error: rusqlite::Error| JournalError::Unknown(error.to_string());
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unknown)?;
    let epoch = epoch(&transaction).map_err(unknown)?;
    if epoch != append.epoch {
        return Err(JournalError::Deposed { held: append.epoch.get(), now: epoch.get() });
    }
    let found = head(&transaction).map_err(unknown)?;
    if found != append.expected {
        return Err(JournalError::HeadMoved { expected: append.expected.segments, found: found.segments });
    }
    let next = Head { segments: found.segments + 1, digest: SegmentDigest::chain(found.digest, &append.events) };
    write(&transaction, append, next).map_err(unknown)?;
    transaction.commit().map_err(unknown)?;
    Ok(next)
}

fn write(transaction: &Transaction<'_>, append: &Append, next: Head) -> rusqlite::Result<()> {
    transaction.prepare_cached("INSERT INTO segment (number, epoch, digest, events) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        number(next.segments),
        number(append.epoch.get()),
        next.digest.as_bytes(),
        append.events
    ])?;
    for part in &append.blobs {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO blob (key, chunk, bytes) VALUES (?1, ?2, ?3)")?
            .execute(params![part.key, part.chunk, part.bytes])?;
    }
    Ok(())
}

fn read(connection: &Connection, after: u64, limit: u32) -> Result<Vec<Vec<u8>>, JournalError> {
    let unusable = |error: rusqlite::Error| JournalError::Unusable(error.to_string());
    let before = connection
        .query_row("SELECT digest FROM segment WHERE number = ?1", params![number(after)], |row| row.get::<_, Vec<u8>>(0))
        .optional()
        .map_err(unusable)?;
    let mut digest = before.and_then(|bytes| SegmentDigest::from_slice(&bytes)).unwrap_or(GENESIS);
    let mut statement = connection
        .prepare_cached("SELECT number, events, digest FROM segment WHERE number > ?1 ORDER BY number LIMIT ?2")
        .map_err(unusable)?;
    let rows = statement
        .query_map(params![number(after), limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?)))
        .map_err(unusable)?;
    let mut segments = Vec::new();
    for (expected, row) in (after + 1..).zip(rows) {
        let (found, events, stored) = row.map_err(unusable)?;
        digest = SegmentDigest::chain(digest, &events);
        if count(found) != expected || stored != digest.as_bytes() {
            return Err(JournalError::Corrupt { segment: expected });
        }
        segments.push(events);
    }
    Ok(segments)
}

fn read_blobs(connection: &Connection, key: &str) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM blob WHERE key = ?1 ORDER BY chunk")?;
    statement.query_map(params![key], |row| row.get(0))?.collect()
}

fn blob_keys(connection: &Connection, after: &str, limit: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT key FROM blob WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    statement.query_map(params![after, limit], |row| row.get(0))?.collect()
}

fn drop_blobs(connection: &mut Connection, keys: &[String]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for key in keys {
        transaction.prepare_cached("DELETE FROM blob WHERE key = ?1")?.execute(params![key])?;
    }
    transaction.commit()
}

impl Journal for SqliteJournal {
    fn acquire(&self) -> Pending<'_, (Epoch, Head)> {
        self.run(|connection| acquire(connection).map_err(|error| JournalError::Unusable(error.to_string())))
    }

    fn append(&self, request: Append) -> Pending<'_, Head> {
        self.run(move |connection| append(connection, &request))
    }

    fn read(&self, after: u64, limit: u32) -> Pending<'_, Vec<Vec<u8>>> {
        self.run(move |connection| read(connection, after, limit))
    }

    fn read_blobs(&self, key: &str) -> Pending<'_, Vec<Vec<u8>>> {
        let key = key.to_owned();
        self.run(move |connection| read_blobs(connection, &key).map_err(|error| JournalError::Unusable(error.to_string())))
    }

    fn blob_keys(&self, after: &str, limit: u32) -> Pending<'_, Vec<String>> {
        let after = after.to_owned();
        self.run(move |connection| blob_keys(connection, &after, limit).map_err(|error| JournalError::Unusable(error.to_string())))
    }

    fn drop_blobs(&self, keys: &[String]) -> Pending<'_, ()> {
        let keys = keys.to_vec();
        self.run(move |connection| drop_blobs(connection, &keys).map_err(|error| JournalError::Unusable(error.to_string())))
    }
}
