//! The control plane: journal, engine and the calls of sidecars.
