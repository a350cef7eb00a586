//! The real disk.

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;
