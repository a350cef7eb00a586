//! `larder resolve`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::error::Result;
use larder::mount::table;
use larder::store::{Key, Store};

use super::at::{At, NO, YES};
use super::output::to_output;

/// Print the path at which a key is found in its mounted store, or the key of such a path
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 done, 1 the store is not mounted, or the path is in none, 2 failed.")]
pub struct Resolve {
    #[command(flatten)]
    at: At,
    /// The key; it need not be there
    #[arg(required_unless_present = "path")]
    key: Option<OsString>,
    /// The other way round: the path of a file in a mounted store
    #[arg(short, long, conflicts_with = "key")]
    path: Option<PathBuf>,
}

impl Resolve {
    pub fn run(self) -> Result<u8> {
        let found = match (&self.key, &self.path) {
            (Some(key), _) => {
                let key = Key::new(key.as_bytes())?;
                let path = self.at.path()?;
                match table::find(&path)?.1 {
                    Some(_) => Store::connect(&path)?.resolve(key)?.map(PathBuf::into_os_string),
                    None => None,
                }
            }
            (None, Some(path)) => {
                // As a shell has it: the directory is resolved, the name is taken as it is.
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let resolved = table::resolve(parent.unwrap_or(std::path::Path::new(".")));
                let resolved = resolved.map_err(larder::Error::io(format!("finding {}", path.display())))?;
                match table::within(&resolved)? {
                    Some((point, dir)) => {
                        let full = dir.join(path.file_name().unwrap_or_default());
                        let key = Store::connect(point)?.key_of(&full)?;
                        key.map(|key| std::os::unix::ffi::OsStringExt::from_vec(key.as_bytes().to_vec()))
                    }
                    None => None,
                }
            }
            (None, None) => None,
        };
        match found {
            Some(found) => to_output(|output| {
                output.write_all(found.as_bytes())?;
                output.write_all(b"\n")
            })
            .map(|()| YES),
            None => {
                complain!("larder: it is in no mounted store");
                Ok(NO)
            }
        }
    }
}
