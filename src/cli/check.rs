//! `larder check`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use larder::check::{self, Options, Progress, Report, Severity};
use larder::clock::Clock;
use larder::error::Result;
use larder::io::RealDisk;

/// Check a store that is not mounted: every structure, reference, count and frame; mend it if asked to
///
/// Without --repair nothing in the store is changed. What is found is printed, one finding a line: how bad it is,
/// where, what is wrong, and what to do. Notes tell of what a crash leaves and the next mount puts in order: they are
/// nothing wrong.
///
/// With --repair what can be mended is mended, and printed. Nothing that is stored is deleted: what lost its name gets
/// one in lost+found, what is taken out of use is kept in STORE/damaged. Content that cannot be read stays an error
/// to read, and an index that is damaged is left as it is.
///
/// With --rebuild, where the index is damaged or missing, it is made anew before: from the newest backup of the catalog
/// in STORE/backup, what the journal still has, and the frames of content that are newer than both. What was renamed or
/// deleted after the backup, and is not in the journal, is as it was; new files without a name come into lost+found.
///
/// Exit status, as of fsck(8): 0 when nothing is wrong, 1 when all that was wrong has been mended, 4 when something is
/// wrong, 8 when the store could not be checked or mended.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("mending").multiple(true))]
pub struct Check {
    /// The store
    store: PathBuf,
    /// Mend what can be mended
    #[arg(long, conflicts_with = "quick", group = "mending")]
    repair: bool,
    /// As --repair; and make the catalog anew where its index is damaged or missing
    #[arg(long, conflicts_with = "quick", group = "mending")]
    rebuild: bool,
    /// With --repair or --rebuild: change nothing, as without them
    #[arg(long, requires = "mending")]
    dry_run: bool,
    /// Leave the content unread: check the catalog, and that all frames have their place
    #[arg(long)]
    quick: bool,
    /// Print the findings and the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Exit statuses, those of fsck(8).
mod status {
    pub const MENDED: u8 = 1;
    pub const WRONG: u8 = 4;
    pub const FAILED: u8 = 8;
}

impl Check {
    pub fn run(self) -> Result<ExitCode> {
        let done = if (self.repair || self.rebuild) && !self.dry_run { self.repair() } else { self.check() };
        done.or_else(|error| {
            complain!("larder: {error}");
            Ok(ExitCode::from(status::FAILED))
        })
    }

    fn check(&self) -> Result<ExitCode> {
        let store = super::store_of(&self.store)?.0;
        let options = Options { content: !self.quick, ..Options::default() };
        let bar = bar();
        let report = check::check(Arc::new(RealDisk), &store, &options, &|progress| show(&bar, progress))?;
        bar.finish_and_clear();
        match self.json {
            true => print_json(&report)?,
            false => self.print(&report)?,
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(status::WRONG) })
    }

    fn repair(&self) -> Result<ExitCode> {
        let store = super::store_of(&self.store)?.0;
        let bar = bar();
        let disk = Arc::new(RealDisk);
        let repaired =
            check::repair(disk, &store, self.rebuild, &Options::default(), &Clock::System, &|progress| {
                show(&bar, progress)
            })?;
        bar.finish_and_clear();
        if self.json {
            print_json(&repaired)?;
        } else {
            if !repaired.found.is_clean() {
                repaired.found.findings.iter().try_for_each(|finding| say!("{finding}"))?;
            }
            repaired.done.iter().try_for_each(|action| say!("mended: {action}"))?;
            if repaired.omitted > 0 {
                say!("... and {} more", repaired.omitted)?;
            }
            if !repaired.found.is_clean() {
                say!("what is left:")?;
            }
            self.print(&repaired.left)?;
        }
        Ok(match (repaired.found.is_clean(), repaired.left.is_clean()) {
            (true, _) => ExitCode::SUCCESS,
            (false, true) => ExitCode::from(status::MENDED),
            (false, false) => ExitCode::from(status::WRONG),
        })
    }

    fn print(&self, report: &Report) -> Result<()> {
        report.findings.iter().try_for_each(|finding| say!("{finding}"))?;
        if report.omitted > 0 {
            say!("... and {} more", report.omitted)?;
        }
        let figures = &report.figures;
        if !report.complete {
            return say!("without a catalog, nothing else can be checked");
        }
        say!(
            "{} inodes, {} names, {} pages ({} frames verified), {} of {} in segments live",
            figures.inodes,
            figures.entries,
            figures.pages,
            figures.verified,
            super::human(figures.live_bytes),
            super::human(figures.segment_bytes),
        )?;
        let notes = report.findings.iter().filter(|finding| finding.severity == Severity::Note).count();
        match report.is_clean() {
            true if notes > 0 => say!("nothing is wrong; notes: {notes}"),
            true => say!("nothing is wrong"),
            false => say!("errors: {}, warnings: {}, notes: {notes}", report.errors, report.warnings),
        }
    }
}

fn print_json(what: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(what);
    say!("{}", text.map_err(|error| larder::Error::io("writing the findings")(error.into()))?)
}

/// A line of progress where a person waits; elsewhere none.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    if bar.is_hidden() {
        return;
    }
    if progress.total > 0 && bar.length() != Some(progress.total) {
        bar.set_length(progress.total);
        let line = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        // Fails only for templates that are none.
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
    }
    bar.set_position(progress.done);
    if bar.message() != progress.stage {
        bar.set_message(progress.stage);
    }
}
