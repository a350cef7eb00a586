//! What there is to know of a mounted store, as JSON and as Prometheus reads it. `docs/metrics.md` explains each
//! figure.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::counters::Counters;
use crate::error::{Error, Result};
use crate::volume::Volume;

/// What a mount knows beside its volume.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// How often each kind of request came.
    pub counters: Arc<Counters>,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether nothing is to be changed through this mount (`-o ro`).
    pub read_only: bool,
}

impl Mounted {
    /// The figures: an object of numbers and texts, sizes in bytes.
    pub fn figures(&self, volume: &Volume) -> Result<Value> {
        let mut figures = serde_json::to_value(volume.stats()?)
            .map_err(|error| Error::io("writing the figures")(error.into()))?;
        if let Some(object) = figures.as_object_mut() {
            object.insert("mountpoint".to_owned(), json!(self.point.display().to_string()));
            object.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
            object.insert("pid".to_owned(), json!(std::process::id()));
            let requests: serde_json::Map<_, _> =
                self.counters.list().map(|(name, count)| (name.to_owned(), json!(count))).collect();
            object.insert("requests".to_owned(), requests.into());
        }
        Ok(figures)
    }
}

/// A metric: its name, the figure that it shows, its type and what it is.
struct Metric(&'static str, &'static str, &'static str, &'static str);

const METRICS: [Metric; 12] = [
    Metric("larder_inodes", "inodes", "gauge", "Inodes in the store, the root included."),
    Metric("larder_content_bytes", "content_bytes", "gauge", "Bytes of content of all files."),
    Metric("larder_stored_bytes", "stored_bytes", "gauge", "Bytes of compressed content in the segments."),
    Metric("larder_disk_bytes", "disk_bytes", "gauge", "Bytes that the store takes on the disk."),
    Metric("larder_size_limit_bytes", "size_limit", "gauge", "The limit on that; absent where none is set."),
    Metric("larder_cache_used_bytes", "cache_used", "gauge", "Bytes of memory for pages and metadata."),
    Metric("larder_cache_dirty_bytes", "cache_dirty", "gauge", "Bytes among these that are not on the disk."),
    Metric("larder_cache_limit_bytes", "cache_limit", "gauge", "The limit on memory for pages and metadata."),
    Metric("larder_cache_hits_total", "cache_hits", "counter", "Page reads answered from memory."),
    Metric("larder_cache_misses_total", "cache_misses", "counter", "Page reads that went to the disk."),
    Metric("larder_journal_batches_total", "batches", "counter", "Changes written to the journal."),
    Metric("larder_flushes_total", "flushes", "counter", "Flushes of the device."),
];

/// The figures in the text format of Prometheus, version 0.0.4.
pub(super) fn metrics(figures: &Value) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, what: &str, values: &mut dyn Iterator<Item = (String, u64)>| {
        let mut values = values.peekable();
        if values.peek().is_some() {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {what}\n# TYPE {name} {kind}\n");
        }
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    for Metric(name, figure, kind, what) in METRICS {
        let value = figures.get(figure).and_then(Value::as_u64);
        metric(name, kind, what, &mut value.map(|value| (String::new(), value)).into_iter());
    }
    let read_only = figures.get("read_only").is_some_and(Value::is_string);
    let what = "1 when the store has turned read-only.";
    metric("larder_read_only", "gauge", what, &mut std::iter::once((String::new(), u64::from(read_only))));
    let requests = figures.get("requests").and_then(Value::as_object).into_iter().flatten();
    let mut requests =
        requests.filter_map(|(kind, count)| Some((format!("{{kind=\"{kind}\"}}"), count.as_u64()?)));
    metric("larder_requests_total", "counter", "Requests of the kernel, by kind.", &mut requests);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_help_and_type_and_is_in_the_documentation() {
        let figures =
            json!({"inodes": 7, "size_limit": null, "read_only": "why", "requests": {"Read": 3, "Write": 4}});
        let text = metrics(&figures);
        assert!(text.contains("# TYPE larder_inodes gauge\nlarder_inodes 7\n"), "{text}");
        assert!(!text.contains("larder_size_limit_bytes"), "{text}");
        assert!(text.contains("\nlarder_read_only 1\n"), "{text}");
        let requests = "larder_requests_total{kind=\"Read\"} 3\nlarder_requests_total{kind=\"Write\"} 4\n";
        assert!(text.contains(requests), "{text}");
        assert_eq!(text.matches("# TYPE larder_requests_total").count(), 1);
        let documented = include_str!("../../docs/metrics.md");
        let names = METRICS.map(|Metric(name, ..)| name);
        for name in names.into_iter().chain(["larder_read_only", "larder_requests_total"]) {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
        }
    }
}
