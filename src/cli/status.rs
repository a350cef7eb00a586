//! `larder status`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use larder::control::{Request, ask};
use larder::error::{Error, Result};
use larder::format::files::is_store;
use larder::mount::{session, table};
use serde_json::{Value, json};

use super::human;

/// Show sizes, compression ratio and cache use of mounted stores
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Status {
    /// A store, or a mount point or a path below one; without it all mounted stores
    path: Option<PathBuf>,
    /// Print JSON, one object a store, sizes in bytes
    #[arg(long)]
    json: bool,
}

const EXIT: &str = "\
Exit status: 0 shown, also where the store is not mounted, or none is, 1 failed, or the path leads to no store,
2 the command line is wrong.";

impl Status {
    pub fn run(self) -> Result<ExitCode> {
        let stores = match &self.path {
            Some(path) => vec![super::store_of(path)?.0],
            None => table::stores()?,
        };
        if stores.is_empty() && !self.json {
            say!("no store is mounted")?;
        }
        super::for_each(self.path.is_some(), stores, |store| {
            let figures = match ask(store, Request::Status) {
                Ok(figures) => figures,
                Err(Error::NotFound) if is_store(store)? => json!({"mountpoint": null}),
                Err(Error::NotFound) => {
                    return Err(Error::store(store, "neither a store nor a mount point"));
                }
                Err(error) => return Err(error),
            };
            if self.json {
                let mut object = json!({"store": store.display().to_string()});
                if let (Some(into), Value::Object(from)) = (object.as_object_mut(), figures) {
                    into.extend(from);
                }
                say!("{object}")?;
            } else {
                print(store, &figures)?;
            }
            Ok(())
        })
    }
}

fn print(store: &Path, figures: &Value) -> Result<()> {
    let number = |name: &str| figures.get(name).and_then(Value::as_u64).unwrap_or(0);
    say!("store      {}", store.display())?;
    let Some(point) = figures.get("mountpoint").and_then(Value::as_str) else {
        let death = session::death_of(store).map_or(String::new(), |why| format!(": {why}"));
        return say!("mounted    no{death}");
    };
    match super::unseen(store, figures) {
        None => say!("mounted    {point}")?,
        Some(why) => say!("mounted    no longer: {why}")?,
    }
    if let Some(why) = figures.get("read_only").and_then(Value::as_str) {
        say!("READ-ONLY  {why}")?;
    }
    say!("files      {} (with directories)", number("inodes"))?;
    let (content, stored) = (number("content_bytes"), number("stored_bytes"));
    say!("content    {}, stored in {}, {}", human(content), human(stored), ratio(content, stored))?;
    let limit = figures.get("size_limit").and_then(Value::as_u64);
    let limit = limit.map_or("no limit".to_owned(), |limit| format!("limit {}", human(limit)));
    say!("on disk    {}, {limit}", human(number("disk_bytes")))?;
    let (used, dirty) = (number("cache_used"), number("cache_dirty"));
    say!("cache      {} of {}, {} dirty", human(used), human(number("cache_limit")), human(dirty))?;
    let (hits, misses) = (number("cache_hits"), number("cache_misses"));
    let percent =
        (hits * 100).checked_div(hits + misses).map_or(String::new(), |percent| format!(" ({percent} %)"));
    say!("page reads {} from memory{percent}, {misses} from disk", hits)?;
    say!("journal    {} batches, {} flushes", number("batches"), number("flushes"))
}

fn ratio(content: u64, stored: u64) -> String {
    if stored == 0 { "ratio -".to_owned() } else { format!("ratio {:.2}", content as f64 / stored as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (4096, "4.00 KiB"),
            (64 << 20, "64.0 MiB"),
            (500 << 30, "500 GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(ratio(300, 100), "ratio 3.00");
        assert_eq!(ratio(300, 0), "ratio -");
    }
}
