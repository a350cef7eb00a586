//! What several test programs need.

pub mod disk;
pub mod mounted;
pub mod random;
pub mod sys;
