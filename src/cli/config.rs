//! `larder config`

use std::fs::OpenOptions;
use std::path::Path;

use larder::config::{CHANGEABLE, FILE_NAME, NAMES, Settings};
use larder::control::{Request, ask_with};
use larder::error::{Error, Result};
use larder::format::files::is_store;
use larder::mount::session;
use serde_json::json;
use toml_edit::DocumentMut;

use super::at::{At, EXIT, NO, YES};
use super::output::to_output;

/// Show the settings of a store, or change one
///
/// Without a name all settings that apply are shown, defaults included: those of the mount where the store is
/// mounted, else those that a mount would have now. With a name and a value the setting is written to
/// STORE/larder.toml, for the next mount. storage-size-limit and cache-size-limit change in a mounted store at once, too;
/// they last, unless a later mount is given others by flag or environment.
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Config {
    #[command(flatten)]
    at: At,
    /// The setting, as cache-size-limit
    name: Option<String>,
    /// What to set it to
    value: Option<String>,
    /// Show as a JSON object
    #[arg(long, conflicts_with_all = ["value", "unset"])]
    json: bool,
    /// Take the setting out of larder.toml, so that the default applies
    #[arg(long, requires = "name", conflicts_with = "value")]
    unset: bool,
}

impl Config {
    pub fn run(self) -> Result<u8> {
        let path = self.at.path()?;
        let (store, point) = super::store_of(&path)?;
        if !is_store(&store)? {
            return Err(Error::store(&path, "neither a store nor a mount point"));
        }
        let effective = || {
            let text = effective(&store, point.as_deref())?;
            let table: toml::Table =
                text.parse().map_err(|error| Error::Config(format!("the settings of the mount: {error}")))?;
            Ok::<_, Error>((text, table))
        };
        let Some(name) = self.name else {
            let (text, table) = effective()?;
            match self.json {
                true => say!("{}", json!(table))?,
                false => to_output(|out| out.write_all(text.as_bytes()))?,
            }
            return Ok(YES);
        };
        if !NAMES.contains(&name.as_str()) {
            let names = NAMES.join(", ");
            return Err(Error::Config(format!("{name}: no such setting; there are {names}")));
        }
        if self.value.is_none() && !self.unset {
            let (_, mut table) = effective()?;
            table.retain(|other, _| *other == name);
            match self.json {
                true => say!("{}", json!(table))?,
                false => say!("{}", table.get(&name).and_then(toml::Value::as_str).unwrap_or_default())?,
            }
            return Ok(YES);
        }
        let _alone = lock(&store)?;
        let text = Settings::read_file(&store)?.unwrap_or_default();
        let file = store.join(FILE_NAME);
        let mut document: DocumentMut =
            text.parse().map_err(|error| Error::Config(format!("{}: {error}", file.display())))?;
        match self.value {
            Some(value) => _ = document.insert(&name, toml_edit::value(value)),
            None if document.remove(&name).is_none() => return Ok(NO),
            None => {}
        }
        let text = document.to_string();
        // What would keep the store from being mounted is refused now.
        let settings = Settings::load(&store, Some(&text), [], [])?;
        let at_once = point.is_some() && CHANGEABLE.contains(&name.as_str());
        if at_once {
            let change = format!("{name}={}", settings.value_of(&name));
            let request = Request::Set { body: change.len() as u32 };
            session::answered(&store, ask_with(&store, request, change.as_bytes()))?;
        }
        super::replace(&file, &text)?;
        if at_once {
            complain!("{name}: in force, and written for later mounts, unless these are given another");
        } else if point.is_some() {
            let names = CHANGEABLE.join(" and ");
            complain!(
                "{name}: written for the next mount; this one goes on as it is (only {names} change at once)"
            );
        }
        Ok(YES)
    }
}

/// Keeps others from changing settings meanwhile: the file is read, and replaced as a whole, so one change would be lost.
/// The lock is on the directory, as the file is another each time, and ends when what is returned is dropped.
fn lock(store: &Path) -> Result<std::fs::File> {
    let dir = OpenOptions::new().read(true).open(store);
    let locked = dir.and_then(|dir| dir.lock().map(|()| dir));
    locked.map_err(Error::io(format!("locking {}", store.display())))
}

/// The settings that apply, as a `larder.toml`.
fn effective(store: &Path, point: Option<&Path>) -> Result<String> {
    if let Some(point) = point {
        let file = point.join(".larder/config");
        return std::fs::read_to_string(&file).map_err(Error::io(format!("reading {}", file.display())));
    }
    Ok(super::settings_of(store)?.to_toml())
}
