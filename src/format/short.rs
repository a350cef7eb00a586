//! Bytes that are few nearly always.

use std::borrow::Borrow;
use std::ops::Deref;

use smallvec::SmallVec;

/// Bytes of which up to 24 lie where they are used: to look at them takes no further place in memory.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Short(SmallVec<[u8; 24]>);

// `SmallVec`'s own `From` and `Clone` go byte by byte.
impl From<&[u8]> for Short {
    fn from(bytes: &[u8]) -> Short {
        Short(SmallVec::from_slice(bytes))
    }
}

impl Clone for Short {
    fn clone(&self) -> Short {
        Short::from(&**self)
    }
}

impl Deref for Short {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Short {
    fn borrow(&self) -> &[u8] {
        self
    }
}
