//! `larder completions` and `larder man`

use std::path::PathBuf;

use clap::CommandFactory;
use larder::error::{Error, Result};

use super::Cli;
use super::at::YES;
use super::output::to_output;

const EXIT: &str = "\
Exit status: 0 done, 2 failed, or the command line is wrong.";

/// Print the completions for a shell
///
/// bash: larder completions bash > /etc/bash_completion.d/larder
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "larder", &mut script);
        to_output(|out| out.write_all(&script)).map(|()| YES)
    }
}

/// Write the manual pages, one for each command, to a directory
///
/// larder man /usr/local/share/man/man1
#[derive(clap::Args)]
#[command(after_help = EXIT)]
pub struct Man {
    dir: PathBuf,
}

impl Man {
    pub fn run(self) -> Result<u8> {
        let failed = || Error::io(format!("writing manual pages to {}", self.dir.display()));
        std::fs::create_dir_all(&self.dir).map_err(failed())?;
        clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &self.dir).map_err(failed())?;
        Ok(YES)
    }
}
