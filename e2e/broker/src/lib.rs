//! A far side that misbehaves on purpose.
