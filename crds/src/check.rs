//! What `kybernis check DIR` tells: one line for each finding, and whether the folder may be used.

use std::fmt;
use std::path::Path;

use crate::error::ManifestError;
use crate::load::load;

/// The findings on a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What keeps the folder from being used.
    pub errors: Vec<ManifestError>,
    /// What somebody should know.
    pub warnings: Vec<ManifestError>,
    /// How many objects hold; 0 where any error is.
    pub objects: usize,
}

impl Report {
    /// Whether the folder may be used.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Reads a folder as `load` does and reports.
pub fn check(dir: &Path) -> Report {
    match load(dir) {
        Ok(loaded) => Report { errors: Vec::new(), warnings: loaded.warnings().to_vec(), objects: loaded.len() },
        Err(errors) => Report { errors, warnings: Vec::new(), objects: 0 },
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        match (self.errors.len(), self.objects) {
            (0, 1) => f.write_str("1 object, no errors"),
            (0, objects) => write!(f, "{objects} objects, no errors"),
            (1, _) => f.write_str("1 error"),
            (errors, _) => write!(f, "{errors} errors"),
        }
    }
}
