//! What recovery asks of batches that no mark vouches for.

use std::collections::HashSet;

use super::Batch;
use crate::error::Result;
use crate::format::{PageRecord, decode, keys};
use crate::pages::{LocalSegments, frame};

/// Whether all frames that a batch names are whole on the disk. Errors: the disk cannot be asked.
pub fn frames_are_whole(segments: &LocalSegments, batch: &Batch) -> Result<bool> {
    // Frames that get another owner: a batch before this one named them, and was looked at, or vouched for.
    let shared: HashSet<&[u8]> = batch
        .changes()
        .filter(|(key, value)| key.first() == Some(&keys::OWNERS) && value.is_some())
        .map(|(key, _)| key)
        .collect();
    for (key, value) in batch.changes() {
        let Some(value) = value.filter(|_| key.first() == Some(&keys::PAGE)) else { continue };
        let record = decode::<PageRecord>(value, "page record");
        let known = |record: &PageRecord| {
            shared.contains(&keys::owners(record.extent.segment, record.extent.offset)[..])
        };
        if record.as_ref().is_ok_and(known) {
            continue;
        }
        let whole = record.and_then(|record| {
            let bytes = segments.read_from_disk(record.extent)?;
            frame::open(&bytes, record.checksum)
        });
        match whole {
            Ok(_) => {}
            // Also a place that cannot be read has nothing that could be brought back.
            Err(error) if error.is_damage() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
