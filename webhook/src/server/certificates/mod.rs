//! The certificate that API servers check: made and rotated here, or provided.

pub(crate) mod keeper;
pub(crate) mod material;
pub(crate) mod moment;
pub(crate) mod provided;
pub(crate) mod rotation;
pub(crate) mod serving;
