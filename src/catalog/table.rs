//! What was journalled since the last checkpoint, in memory.
//!
//! A scan must see one moment of the table without holding its lock. It borrows the table: the layer
//! that is being written is set aside, shared, and what comes meanwhile goes into a new one above it.
//! Once the last scan is over, the layer above is folded back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};
use std::sync::Arc;

use super::Value;
use crate::format::{Key, Short};

/// Keys with their values; `None` hides what lies below.
pub type Layer = BTreeMap<Short, Option<Held>>;

/// A value in the table.
#[derive(Clone, Debug)]
pub enum Held {
    /// In memory of its own.
    Bytes(Value),
    /// These bytes and behind them content that others, such as the cache of pages, hold, too.
    Content(Head, Arc<Vec<u8>>),
}

/// The most bytes of a [`Head`]: an entry of the table takes no more room for it.
pub(super) const HEAD: usize = 7;
const _: () = assert!(size_of::<Option<Held>>() == size_of::<Value>());

/// Memory of content beside its bytes: the block that makes it one to share, and the allocator's part.
const SHARE: usize = 48;

/// A few bytes, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Head([u8; HEAD], u8);

impl Held {
    /// Bytes of memory beside the entry's own.
    fn memory(&self) -> usize {
        match self {
            Held::Bytes(value) => value.len(),
            Held::Content(_, content) => content.len() + SHARE,
        }
    }

    /// The value.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Held::Bytes(value) => value.into(),
            Held::Content(Head(head, len), content) => [&head[..usize::from(*len)], content].concat().into(),
        }
    }
}

impl From<Value> for Held {
    fn from(value: Value) -> Held {
        Held::Bytes(value)
    }
}

/// A value that a batch puts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Put<'a> {
    Bytes(&'a [u8]),
    /// At most [`HEAD`] bytes, and content behind them.
    Content(&'a [u8], &'a Arc<Vec<u8>>),
}

impl From<Put<'_>> for Held {
    fn from(put: Put<'_>) -> Held {
        match put {
            Put::Bytes(value) => Held::Bytes(value.to_vec()),
            Put::Content(bytes, content) => {
                let mut head = [0; HEAD];
                head[..bytes.len()].copy_from_slice(bytes);
                Held::Content(Head(head, bytes.len() as u8), content.clone())
            }
        }
    }
}

/// Layers of one moment, the newest last.
pub(super) type Layers = Vec<Arc<Layer>>;

/// Memory of an entry beside key and value: 56 bytes in nodes that are two thirds full, of which most keys take none beside, and
/// the allocator's share of a block.
pub(super) const OVERHEAD: usize = 96;

/// A range with no more entries than this is copied for a scan: cheaper than a new layer.
const COPIED: usize = 64;

/// The most layers that are set aside. Each is looked at by every `get`; only scans that overlap
/// without end while batches are applied come so far, and then ranges are copied again.
const SHARED: usize = 8;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    active: Layer,
    shared: Layers,
    bytes: usize,
}

fn cost(key: &[u8], value: Option<&Held>) -> usize {
    OVERHEAD + key.len() + value.map_or(0, Held::memory)
}

/// Tells whether a range is one that can hold something; `BTreeMap::range` panics on others.
pub(super) fn is_empty_range(range: &Range<Key>) -> bool {
    range.start >= range.end
}

fn bounds(range: &Range<Key>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()))
}

/// The entries of a layer within a range that is not empty.
pub(super) fn within<'a>(
    layer: &'a Layer,
    range: &Range<Key>,
) -> impl Iterator<Item = (&'a Short, &'a Option<Held>)> {
    layer.range::<[u8], _>(bounds(range))
}

impl Table {
    /// Bytes of memory, estimated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.shared.is_empty()
    }

    /// What the table says of a key, when it says anything.
    pub fn get(&self, key: &[u8]) -> Option<&Option<Held>> {
        self.active.get(key).or_else(|| find(&self.shared, key))
    }

    /// Takes in changes that belong together.
    pub fn apply<'a>(&mut self, changes: impl Iterator<Item = (&'a [u8], Option<Put<'a>>)>) {
        self.fold();
        for (key, value) in changes {
            match self.active.entry(key.into()) {
                Entry::Vacant(place) => {
                    let value = value.map(Held::from);
                    self.bytes += cost(key, value.as_ref());
                    place.insert(value);
                }
                Entry::Occupied(mut there) => {
                    let old = there.get_mut();
                    self.bytes -= old.as_ref().map_or(0, Held::memory);
                    match (&mut *old, value) {
                        // Some keys change with nearly every batch: in the memory that they have.
                        (Some(Held::Bytes(old)), Some(Put::Bytes(value)))
                            if old.capacity() <= 2 * value.len() =>
                        {
                            old.clear();
                            old.extend_from_slice(value);
                        }
                        (old, value) => *old = value.map(Held::from),
                    }
                    self.bytes += old.as_ref().map_or(0, Held::memory);
                }
            }
        }
    }

    fn insert(&mut self, key: Short, value: Option<Held>) {
        self.bytes += cost(&key, value.as_ref());
        let key_len = key.len();
        if let Some(old) = self.active.insert(key, value) {
            self.bytes -= OVERHEAD + key_len + old.map_or(0, |value| value.memory());
        }
    }

    /// Takes back layers that no scan holds any longer.
    fn fold(&mut self) {
        while let Some(layer) = self.shared.pop() {
            match Arc::try_unwrap(layer) {
                Ok(below) => {
                    for (key, value) in std::mem::replace(&mut self.active, below) {
                        self.bytes -= cost(&key, value.as_ref());
                        self.insert(key, value);
                    }
                }
                Err(held) => {
                    self.shared.push(held);
                    break;
                }
            }
        }
    }

    /// The table as of now, at least within the range.
    pub fn moment(&mut self, range: &Range<Key>) -> Layers {
        self.fold();
        let few = within(&self.active, range).nth(COPIED).is_none();
        if few || self.shared.len() >= SHARED {
            let mut layers = self.shared.clone();
            layers.push(Arc::new(within(&self.active, range).map(|(k, v)| (k.clone(), v.clone())).collect()));
            return layers;
        }
        self.shared.push(Arc::new(std::mem::take(&mut self.active)));
        self.shared.clone()
    }

    /// Empties the table into layers.
    pub fn freeze(&mut self) -> Layers {
        let mut layers = std::mem::take(&mut self.shared);
        layers.push(Arc::new(std::mem::take(&mut self.active)));
        self.bytes = 0;
        layers
    }
}

/// What layers say of a key, when they say anything.
pub(super) fn find<'a>(layers: &'a [Arc<Layer>], key: &[u8]) -> Option<&'a Option<Held>> {
    layers.iter().rev().find_map(|layer| layer.get(key))
}

/// The entries of several layers in order; of those with the same key, the newest layer's.
pub(super) struct Merged<'a, I: Iterator> {
    /// The newest last.
    sources: Vec<std::iter::Peekable<I>>,
    _layers: std::marker::PhantomData<&'a Layer>,
}

/// Merges iterators over layers, the newest last.
pub(super) fn merge<'a, I>(sources: impl IntoIterator<Item = I>) -> Merged<'a, I>
where
    I: Iterator<Item = (&'a Short, &'a Option<Held>)>,
{
    Merged {
        sources: sources.into_iter().map(Iterator::peekable).collect(),
        _layers: std::marker::PhantomData,
    }
}

impl<'a, I: Iterator<Item = (&'a Short, &'a Option<Held>)>> Iterator for Merged<'a, I> {
    type Item = (&'a Short, &'a Option<Held>);

    fn next(&mut self) -> Option<Self::Item> {
        let least = self.sources.iter_mut().filter_map(|s| s.peek().map(|(key, _)| *key)).min()?;
        let mut newest = None;
        for source in &mut self.sources {
            if let Some(entry) = source.next_if(|(key, _)| *key == least) {
                newest = Some(entry);
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_held_whatever_was_put_over_what() {
        let contents = [300, 70_000].map(|len| Arc::new(vec![7; len]));
        let puts = [
            None,
            Some(Put::Bytes(b"")),
            Some(Put::Bytes(&[1; 1000])),
            Some(Put::Bytes(&[2; 400])),
            Some(Put::Content(b"head", &contents[0])),
            Some(Put::Content(&[3; HEAD], &contents[1])),
        ];
        let mut table = Table::default();
        for (n, first) in puts.into_iter().enumerate() {
            for (m, then) in puts.into_iter().enumerate() {
                let key = [n as u8, m as u8];
                table.apply([(&key[..], first), (&key[..], then)].into_iter());
                let expected = then.map(|put| Held::from(put).bytes().into_owned());
                assert_eq!(table.get(&key).unwrap().as_ref().map(|held| held.bytes().into_owned()), expected);
            }
            // What is set aside for a scan comes back over what was put meanwhile.
            let moment = table.moment(&(vec![0]..vec![9]));
            table.apply([(&[n as u8, 1][..], puts[n])].into_iter());
            drop(moment);
            table.fold();
            let counted: usize = table.active.iter().map(|(key, value)| cost(key, value.as_ref())).sum();
            assert_eq!(table.bytes(), counted);
        }
        assert!(contents.iter().all(|content| Arc::strong_count(content) > 6));
        table.freeze();
        assert!(contents.iter().all(|content| Arc::strong_count(content) == 1));
        assert_eq!(table.bytes(), 0);
    }
}
