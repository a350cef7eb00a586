//! The options of mount(8), as they come with `-o` or from fstab.

use std::path::Path;

use fuser::{MountOption, SessionACL};

use super::requests::MAX_IO;
use crate::config::NAMES;
use crate::error::{Error, Result};

/// Options that mean something to mount(8), systemd or the boot, and nothing to a filesystem.
const NOT_OURS: [&str; 21] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nofail",
    "_netdev",
    "async",
    "norelatime",
    "owner",
    "group",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "nodiratime",
    "silent",
    "loud",
    "nomand",
    "noiversion",
    "exclusive",
];

/// Starts of such options that have a value.
const NOT_OURS_WITH_VALUE: [&str; 6] = ["x-", "X-", "comment=", "user=", "uhelper=", "helper="];

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Users other than the one who mounts may come in.
    pub allow_other: bool,
    /// The option that asks for what a mount cannot do: that reading changes access times. The kernel keeps none of a FUSE
    /// filesystem's, so each mount is `noatime`, and says so in /proc/mounts.
    pub access_times: Option<String>,
    flags: Vec<MountOption>,
    /// Settings of the store that came among the options, by name: `-o storage-size-limit=10GiB`.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// Parses comma-separated options. Later ones win over earlier ones that contradict them.
    /// Errors: one that is not known.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Options> {
        let mut options = Options::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            let flag = match option {
                "" => continue,
                "allow_other" => {
                    options.allow_other = true;
                    continue;
                }
                "ro" => MountOption::RO,
                "rw" => MountOption::RW,
                "dev" => MountOption::Dev,
                "nodev" => MountOption::NoDev,
                "suid" => MountOption::Suid,
                "nosuid" => MountOption::NoSuid,
                "exec" => MountOption::Exec,
                "noexec" => MountOption::NoExec,
                "noatime" => {
                    options.access_times = None;
                    continue;
                }
                "atime" | "relatime" | "strictatime" | "diratime" => {
                    options.access_times = Some(option.to_owned());
                    continue;
                }
                "sync" => MountOption::Sync,
                "dirsync" => {
                    return Err(Error::Config(
                        "-o dirsync: a name is durable after fsync of its directory, or the commit-interval, and not \
                         when the call returns: leave it out"
                            .to_owned(),
                    ));
                }
                known if NOT_OURS.contains(&known) => continue,
                known if NOT_OURS_WITH_VALUE.iter().any(|start| known.starts_with(start)) => continue,
                other => match other.split_once('=') {
                    Some((name, value)) if NAMES.contains(&name) => {
                        options.settings.push((name.to_owned(), value.to_owned()));
                        continue;
                    }
                    _ => {
                        return Err(Error::Config(format!(
                            "-o {other}: not an option of this filesystem; it knows ro, nodev, nosuid, noexec, \
                             noatime, sync, allow_other and the settings of `larder mount --help`"
                        )));
                    }
                },
            };
            options.set(flag);
        }
        Ok(options)
    }

    /// Whether nothing is to be changed through the mount.
    pub fn is_read_only(&self) -> bool {
        self.flags.contains(&MountOption::RO)
    }

    fn set(&mut self, flag: MountOption) {
        let opposite = match flag {
            MountOption::RO => MountOption::RW,
            MountOption::RW => MountOption::RO,
            MountOption::Dev => MountOption::NoDev,
            MountOption::NoDev => MountOption::Dev,
            MountOption::Suid => MountOption::NoSuid,
            MountOption::NoSuid => MountOption::Suid,
            MountOption::Exec => MountOption::NoExec,
            MountOption::NoExec => MountOption::Exec,
            _ => flag.clone(),
        };
        self.flags.retain(|other| *other != opposite && *other != flag);
        self.flags.push(flag);
    }

    /// What fuser is to mount with. Root gets what a local filesystem would have: device files, suid
    /// bits and other users; everyone else what `fusermount3` grants.
    pub(super) fn config(&self, store: &Path, root: bool) -> fuser::Config {
        let mut options = self.clone();
        if root {
            for (flag, opposite) in
                [(MountOption::Dev, MountOption::NoDev), (MountOption::Suid, MountOption::NoSuid)]
            {
                if !options.flags.contains(&opposite) {
                    options.set(flag);
                }
            }
        }
        let mut config = fuser::Config::default();
        config.mount_options = options.flags;
        // fusermount3 gets all options in one string; a comma in the path would begin another one.
        let name = store.display().to_string();
        let name = if root { name } else { name.replace('\\', r"\\").replace(',', r"\,") };
        config.mount_options.extend([
            MountOption::FSName(name),
            // As a custom option, since fuser keeps `Subtype` from the kernel when root mounts; with it
            // the type shows as fuse.larder.
            MountOption::CUSTOM("subtype=larder".to_owned()),
            MountOption::CUSTOM(format!("max_read={MAX_IO}")),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
        ]);
        config.acl = if root || self.allow_other { SessionACL::All } else { SessionACL::Owner };
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_contradicting_options_wins() {
        let options = Options::parse(["ro,nodev", "rw"]).unwrap();
        assert_eq!(options.flags, [MountOption::NoDev, MountOption::RW]);
        let config = options.config(Path::new("/store"), true);
        assert!(config.mount_options.contains(&MountOption::NoDev));
        assert!(!config.mount_options.contains(&MountOption::Dev));
        assert!(config.mount_options.contains(&MountOption::Suid));
        assert_eq!(config.acl, SessionACL::All);
    }

    #[test]
    fn what_fstab_says_to_others_is_passed_over_and_settings_are_kept() {
        let options =
            Options::parse(["defaults,nofail,x-systemd.automount,storage-size-limit=1G,allow_other"])
                .unwrap();
        assert_eq!(options.flags, []);
        assert!(options.allow_other);
        assert_eq!(options.settings, [("storage-size-limit".to_owned(), "1G".to_owned())]);
        assert_eq!(options.config(Path::new("/s"), false).acl, SessionACL::All);
        assert_eq!(Options::default().config(Path::new("/s"), false).acl, SessionACL::Owner);
    }

    #[test]
    fn a_mount_is_noatime_and_an_option_that_asks_for_access_times_is_told() {
        for asked in ["atime", "relatime", "strictatime", "diratime"] {
            let options = Options::parse(["noatime", asked]).unwrap();
            assert_eq!(options.access_times.as_deref(), Some(asked));
            let config = options.config(Path::new("/s"), true);
            assert!(config.mount_options.contains(&MountOption::NoAtime));
        }
        for honoured in ["relatime,noatime", "nodiratime,nostrictatime,norelatime", "rw"] {
            assert_eq!(Options::parse([honoured]).unwrap().access_times, None, "{honoured}");
        }
    }

    #[test]
    fn a_comma_in_the_stores_path_is_no_option() {
        let store = Path::new(r"/a\b,allow_other");
        let fsname = |root| {
            Options::default().config(store, root).mount_options.into_iter().find_map(|option| match option {
                MountOption::FSName(name) => Some(name),
                _ => None,
            })
        };
        assert_eq!(fsname(false).as_deref(), Some(r"/a\\b\,allow_other"));
        assert_eq!(fsname(true).as_deref(), Some(r"/a\b,allow_other"));
    }

    #[test]
    fn an_unknown_option_is_refused_by_name_and_so_is_one_that_could_not_be_kept() {
        assert!(Options::parse(["sync,dirsync"]).unwrap_err().to_string().contains("fsync of its directory"));
        let error = Options::parse(["ro,fancy"]).unwrap_err().to_string();
        assert!(error.starts_with("-o fancy:"), "{error}");
        assert!(Options::parse(["no-such-setting=3"]).is_err());
    }
}
