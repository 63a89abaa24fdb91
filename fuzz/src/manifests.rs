//! Manifests: a folder loads whole, or every error says a place that is in the file and what to do; and the small values
//! that manifests are made of.

use kybernis_core::policy::{CompiledSet, PolicySet};
use kybernis_crds::values::{FieldName, GoDuration, Method, Pointer};
use kybernis_crds::{DEFAULT_NAMESPACE, ManifestError, Source, load_sources, lower_namespace};

use crate::input::{choice, some_texts};

const FILE: &str = "a.yaml";

/// `y` one file, `v` one value.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    match kind {
        b'y' => file(rest),
        b'v' => value(some_texts(rest)),
        _ => {}
    }
}

fn file(bytes: &[u8]) {
    let source = Source { file: FILE.to_owned(), bytes: bytes.to_vec() };
    match load_sources(&[source]) {
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without an error");
            errors.iter().for_each(|error| within(bytes, error));
        }
        Ok(loaded) => {
            loaded.warnings().iter().for_each(|warning| within(bytes, warning));
            let namespaces = loaded.namespaces().into_iter().chain([DEFAULT_NAMESPACE]);
            for set in namespaces.map(|namespace| lower_namespace(&loaded, namespace)) {
                let written = serde_json::to_vec(&set).expect("a set is text and numbers");
                let sent: PolicySet = serde_json::from_slice(&written).expect("a set is read as it is written");
                assert_eq!(sent.digest(), set.digest(), "the sidecar would read another set than the ledger sent");
                assert!(CompiledSet::compile(sent).is_ok(), "what holds in the folder does not hold at the sidecar");
            }
        }
    }
}

fn within(bytes: &[u8], error: &ManifestError) {
    assert_eq!(error.file, FILE, "{error}");
    assert!(!error.rule.is_empty() && !error.advice.is_empty(), "{error:?}");
    let line = error.line.unwrap_or_else(|| panic!("nowhere: {error}"));
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split(['\n', '\r']).count();
    assert!((1..=lines).contains(&line), "below the file's {lines} lines: {error}");
}

fn value([text]: [&str; 1]) {
    if let Ok(duration) = GoDuration::new(text) {
        assert_eq!(GoDuration::new(&duration.to_string()), Ok(duration));
    }
    if let Ok(method) = Method::new(text) {
        assert_eq!(method.to_string(), text);
        assert!(http::Method::from_bytes(text.as_bytes()).is_ok());
    }
    if let Ok(name) = FieldName::new(text) {
        assert!(http::HeaderName::from_bytes(text.as_bytes()).is_ok_and(|known| known.as_str() == name.to_string()));
    }
    if Pointer::new(text).is_ok() {
        assert!(kybernis_core::json::Pointer::parse(text).is_ok(), "a pointer that the manifest takes is none to the rules");
    }
}
