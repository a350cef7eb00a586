//! A file's content in memory, sparse: stores reserve segments of many MiB of which little is written.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const BLOCK: u64 = 4096;

/// Bytes that were never written are zeros and take no room. Clones share their blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK as usize]>>,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let (now, later) = rest.split_at(rest.len().min(BLOCK as usize - within));
            let block = self.blocks.entry(at / BLOCK).or_insert_with(|| Arc::new([0; BLOCK as usize]));
            if let Some(place) = Arc::make_mut(block).get_mut(within..within + now.len()) {
                place.copy_from_slice(now);
            }
            at += now.len() as u64;
            rest = later;
        }
        self.len = self.len.max(at);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        for (number, block) in self.blocks.range_mut(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let hole = offset.saturating_sub(start) as usize..(end - start).min(BLOCK) as usize;
            if let Some(hole) = Arc::make_mut(block).get_mut(hole) {
                hole.fill(0);
            }
        }
        self.blocks.retain(|n, _| *n < offset.div_ceil(BLOCK) || *n >= end / BLOCK);
    }

    /// Fills `buf` from `offset`, up to the end.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let Some(mut rest) = buf.get_mut(..count) else { return 0 };
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(BLOCK as usize - within));
            match self.blocks.get(&(at / BLOCK)).and_then(|b| b.get(within..within + now.len())) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            at += now.len() as u64;
            rest = later;
        }
        count
    }
}
