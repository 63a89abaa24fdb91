//! What an earlier life left in the spool: damage is survived, and no whole record before it is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use kybernis_core::ids::{BootId, KeyDigest, Meaning};
use kybernis_proto::v1;
use kybernis_sidecar::fuzz::{span_batches, span_log};
use kybernis_sidecar::spool::Spool;
use prost::Message as _;
use tempfile::TempDir;

use crate::input::{choice, fields};

/// Files in one input.
const FILES: usize = 4;

/// `l` records, one a line, 0xff, and what follows them in the log; `s` files: each a name, LF, content.
pub fn check(data: &[u8]) {
    // One folder for all inputs, one input at a time.
    static FOLDER: LazyLock<Mutex<TempDir>> = LazyLock::new(|| Mutex::new(TempDir::new().expect("a folder can be made")));
    let folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let (kind, rest) = choice(data);
    match kind {
        b'l' => log(&folder.path().join("spans-earlier.log"), rest),
        b's' => open(&folder.path().join("spool"), rest),
        _ => {}
    }
}

fn boot() -> BootId {
    BootId::new("earlier").expect("it is a name")
}

fn log(path: &Path, data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == 0xff);
    let (records, damage) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let records: Vec<(u64, &[u8])> = (1..).zip(records.split(|byte| *byte == b'\n')).collect();
    let mut bytes = Vec::new();
    for (number, record) in &records {
        bytes.extend_from_slice(format!("{number} k ").as_bytes());
        bytes.extend_from_slice(record);
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(damage);
    fs::write(path, bytes).expect("the folder can be written");
    let read = span_log(path).expect("the file can be read");
    assert!(read.len() >= records.len(), "records before the damage are lost");
    for ((number, record), (read_number, read_record)) in records.iter().zip(&read) {
        assert_eq!((*number, *record), (*read_number, &read_record[..]));
    }
    let batches = span_batches(&boot(), &read);
    let sent = batches.iter().flat_map(|batch| (0..).map(|place| batch.first_seq.wrapping_add(place)).zip(&batch.spans));
    assert!(sent.eq(read.iter().map(|(number, record)| (*number, record))), "spans are sent under other numbers");
}

fn open(folder: &Path, data: &[u8]) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).expect("the folder can be made");
    // By their files: of two with one name the later has taken the earlier's place.
    let mut claims = BTreeMap::new();
    for field in fields(data).take(FILES) {
        let mut halves = field.splitn(2, |byte| *byte == b'\n');
        let (name, content) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_file_name(name)) else { continue };
        fs::write(folder.join(name), content).expect("the folder can be written");
        match v1::DecideRequest::decode(content) {
            Ok(claim) if is_claim(name) => claims.insert(name, claim),
            Ok(_) | Err(_) => claims.remove(name),
        };
    }
    let boot = BootId::new("boot").expect("it is a name");
    match Spool::open(folder, &boot) {
        Ok(spool) => {
            let digest = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).ok();
            for claim in claims.values() {
                let meaning = digest(&claim.meaning).map(Meaning::from_bytes);
                assert!(meaning.is_none_or(|meaning| spool.claims.meets(&[], meaning)), "a claim is forgotten");
                for key in claim.keys.iter().filter_map(|key| digest(key)).map(KeyDigest::from_bytes) {
                    assert!(spool.claims.meets(&[key], Meaning::from_bytes([0; 32])), "a claim's key is forgotten");
                }
            }
        }
        Err(error) => assert!(error.path.starts_with(folder), "{error}"),
    }
}

fn is_file_name(name: &str) -> bool {
    (1..=200).contains(&name.len()) && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// As the spool writes them: two spellings of one number would be one claim.
fn is_claim(name: &str) -> bool {
    name.strip_suffix(".claim").and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| name == format!("{number:020}.claim"))
}
