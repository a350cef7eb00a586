//! What recovery asks of batches that no mark vouches for.

use super::Batch;
use crate::error::Result;
use crate::format::{PageRecord, decode, keys};
use crate::pages::{LocalSegments, frame};

/// Whether all frames that a batch names are whole on the disk. Errors: the disk cannot be asked.
pub fn frames_are_whole(segments: &LocalSegments, batch: &Batch) -> Result<bool> {
    for (key, value) in batch.changes() {
        let Some(value) = value.filter(|_| key.first() == Some(&keys::PAGE)) else { continue };
        let whole = decode::<PageRecord>(value, "page record").and_then(|record| {
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
