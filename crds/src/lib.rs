//! The manifests that people write, as types.
