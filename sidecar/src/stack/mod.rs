//! The decision stack.
