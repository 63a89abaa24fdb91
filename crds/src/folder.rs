//! Which files of a folder are manifests, and their bytes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::ManifestError;
use crate::load::Source;
use crate::yaml::FILE_BYTES_MAX;

/// Most files in one folder.
pub const FILES_MAX: usize = 1000;

/// Their contents, in the order of their names.
pub(crate) fn read_folder(dir: &Path, errors: &mut Vec<ManifestError>) -> Vec<Source> {
    let mut complain = |path: &Path, problem: &str| {
        errors.push(ManifestError::new(&path.display().to_string(), None, "", problem));
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            complain(dir, &format!("cannot be read as a folder ({error}). Name a folder of manifests"));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_manifest(path)).collect();
    paths.sort();
    if paths.len() > FILES_MAX {
        complain(dir, &format!("holds {} files; at most {FILES_MAX} are read. Split the folder", paths.len()));
        return Vec::new();
    }
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let mut bytes = Vec::new();
        // One byte beyond the bound tells a file that is too large from one that just fits.
        let limit = FILE_BYTES_MAX as u64 + 1;
        match fs::File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => sources.push(Source { file: path.display().to_string(), bytes }),
            Err(error) => complain(&path, &format!("cannot be read ({error}). Make it readable, or move it away")),
        }
    }
    sources
}

/// Files by their ending; editors' backups and hidden files are not meant.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let ending = path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
    ending && !hidden && !path.is_dir()
}
