//! Several changes that happen together.

use super::{Key, SetOptions};
use crate::error::Result;

/// What a key is set to, and how.
type Value = (Vec<u8>, SetOptions);

/// Changes of keys, to be made all or none by [`Store::apply`](super::Store::apply), in the order in which they were added.
///
/// ```
/// use larder::store::Batch;
///
/// let mut batch = Batch::new();
/// batch.set("accounts/alice", "90")?.set("accounts/bob", "110")?.delete("transfers/17")?;
/// assert_eq!(batch.len(), 3);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Keys with what they are set to; `None` removes one.
    pub(super) changes: Vec<(Key, Option<Value>)>,
}

impl Batch {
    /// The most changes that a batch may have.
    pub const MAX: usize = crate::volume::BATCH_MAX;

    /// One without changes.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds the setting of a key.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<&mut Batch> {
        self.set_with(key, value, &SetOptions::new())
    }

    /// Adds the setting of a key, with options. Durability is that of the batch: the strictest that is asked for.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn set_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: &SetOptions,
    ) -> Result<&mut Batch> {
        self.changes.push((Key::new(key)?, Some((value.into(), *options))));
        Ok(self)
    }

    /// Adds the removal of a key; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<&mut Batch> {
        self.changes.push((Key::new(key)?, None));
        Ok(self)
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
