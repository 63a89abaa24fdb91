//! The embedded journal: SQLite in WAL mode with `synchronous=FULL`, one owner for life, one thread.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{Append, Epoch, GENESIS, Head, Journal, JournalError, Pending, SegmentDigest};

/// Calls that wait for the store's thread. The engine has one append under way at a time; the rest are reads.
const QUEUE: usize = 64;

/// The shard that an embedded journal holds. Keys are led by it, so that the same SQL serves several shards elsewhere.
const SHARD: i64 = 1;

/// The layout below; a newer one is refused.
const LAYOUT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS layout (version INTEGER NOT NULL PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS owner (shard INTEGER NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS segment (
        shard INTEGER NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL,
        events BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (shard, number));
    CREATE TABLE IF NOT EXISTS blob (
        shard INTEGER NOT NULL, key TEXT NOT NULL, chunk INTEGER NOT NULL, bytes BLOB NOT NULL,
        PRIMARY KEY (shard, key, chunk));";

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A journal in one SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    jobs: mpsc::Sender<Job>,
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
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let work = move || {
            let mut connection = connection;
            while let Some(job) = queue.blocking_recv() {
                job(&mut connection);
            }
        };
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(work)
            .map_err(|error| unusable(format!("cannot start the journal's thread: {error}")))?;
        Ok(Self { jobs, _lock: lock })
    }

    /// Whether a ledger has the journal of this folder open now. A successor waits for it to close.
    pub fn in_use(dir: &Path) -> bool {
        let lock = OpenOptions::new().write(true).open(dir.join("journal.lock"));
        lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Connection) -> Result<T, JournalError> + Send + 'static) -> Pending<'_, T> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that went away does not undo what was done.
            let _ = answer.send(work(connection));
        });
        Box::pin(async move {
            let gone = || JournalError::Unknown("the journal's thread is gone".to_owned());
            self.jobs.send(job).await.map_err(|_| gone())?;
            wait.await.map_err(|_| gone())?
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
        .query_row("SELECT number, digest FROM segment WHERE shard = ?1 ORDER BY number DESC LIMIT 1", params![SHARD], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    Ok(match last {
        Some((segments, digest)) => Head { segments: count(segments), digest: SegmentDigest::from_slice(&digest).unwrap_or(GENESIS) },
        None => Head { segments: 0, digest: GENESIS },
    })
}

fn acquire(connection: &mut Connection) -> rusqlite::Result<(Epoch, Head)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction
        .execute("INSERT INTO owner (shard, epoch) VALUES (?1, 1) ON CONFLICT (shard) DO UPDATE SET epoch = epoch + 1", params![SHARD])?;
    let epoch: i64 = transaction.query_row("SELECT epoch FROM owner WHERE shard = ?1", params![SHARD], |row| row.get(0))?;
    let head = head(&transaction)?;
    transaction.commit()?;
    Ok((Epoch::new(count(epoch)), head))
}

fn append(connection: &mut Connection, append: &Append) -> Result<Head, JournalError> {
    let unknown = |error: rusqlite::Error| JournalError::Unknown(error.to_string());
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unknown)?;
    let epoch: i64 =
        transaction.query_row("SELECT epoch FROM owner WHERE shard = ?1", params![SHARD], |row| row.get(0)).map_err(unknown)?;
    if count(epoch) != append.epoch.get() {
        return Err(JournalError::Deposed { held: append.epoch.get(), now: count(epoch) });
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
    transaction
        .prepare_cached("INSERT INTO segment (shard, number, epoch, events, digest) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![SHARD, number(next.segments), number(append.epoch.get()), append.events, next.digest.as_bytes()])?;
    let mut blob = transaction.prepare_cached("INSERT OR REPLACE INTO blob (shard, key, chunk, bytes) VALUES (?1, ?2, ?3, ?4)")?;
    for part in &append.blobs {
        blob.execute(params![SHARD, part.key, part.chunk, part.bytes])?;
    }
    Ok(())
}

fn read(connection: &Connection, after: u64, limit: u32) -> Result<Vec<Vec<u8>>, JournalError> {
    let unusable = |error: rusqlite::Error| JournalError::Unusable(error.to_string());
    let before = connection
        .query_row("SELECT digest FROM segment WHERE shard = ?1 AND number = ?2", params![SHARD, number(after)], |row| {
            row.get::<_, Vec<u8>>(0)
        })
        .optional()
        .map_err(unusable)?;
    let mut digest = before.and_then(|bytes| SegmentDigest::from_slice(&bytes)).unwrap_or(GENESIS);
    let mut statement = connection
        .prepare_cached("SELECT number, events, digest FROM segment WHERE shard = ?1 AND number > ?2 ORDER BY number LIMIT ?3")
        .map_err(unusable)?;
    let rows = statement
        .query_map(params![SHARD, number(after), limit], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
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
    let mut statement = connection.prepare_cached("SELECT bytes FROM blob WHERE shard = ?1 AND key = ?2 ORDER BY chunk")?;
    statement.query_map(params![SHARD, key], |row| row.get(0))?.collect()
}

fn blob_keys(connection: &Connection, after: &str, limit: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT key FROM blob WHERE shard = ?1 AND key > ?2 ORDER BY key LIMIT ?3")?;
    statement.query_map(params![SHARD, after, limit], |row| row.get(0))?.collect()
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

    fn drop_blobs(&self, key: &str) -> Pending<'_, ()> {
        let key = key.to_owned();
        self.run(move |connection| {
            let dropped = connection.execute("DELETE FROM blob WHERE shard = ?1 AND key = ?2", params![SHARD, key]);
            dropped.map(|_| ()).map_err(|error| JournalError::Unusable(error.to_string()))
        })
    }
}
