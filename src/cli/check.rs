//! `larder check`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use larder::check::{self, Options, Progress, Report, Severity};
use larder::error::Result;
use larder::io::RealDisk;

/// Check a store that is not mounted: every structure, reference, count and frame
///
/// Nothing in the store is changed. What is found is printed, one finding a line: how bad it is, where, what
/// is wrong, and what to do. Notes tell of what a crash leaves and the next mount puts in order: they are
/// nothing wrong.
///
/// Exit status: 0 when nothing is wrong, 1 when something is, 2 when the store could not be checked.
#[derive(clap::Args)]
pub struct Check {
    /// The store
    store: PathBuf,
    /// Leave the content unread: check the catalog, and that all frames have their place
    #[arg(long)]
    quick: bool,
    /// Print the findings and the figures as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> Result<ExitCode> {
        let report = match self.check() {
            Ok(report) => report,
            Err(error) => {
                eprintln!("larder: {error}");
                return Ok(ExitCode::from(2));
            }
        };
        if self.json {
            let text = serde_json::to_string(&report);
            println!("{}", text.map_err(|error| larder::Error::io("writing the findings")(error.into()))?);
        } else {
            self.print(&report);
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn check(&self) -> Result<Report> {
        let store = super::store_of(&self.store)?.0;
        let options = Options { content: !self.quick, ..Options::default() };
        let bar = bar();
        let report = check::check(Arc::new(RealDisk), &store, &options, &|progress| show(&bar, progress));
        bar.finish_and_clear();
        report
    }

    fn print(&self, report: &Report) {
        report.findings.iter().for_each(|finding| println!("{finding}"));
        if report.omitted > 0 {
            println!("... and {} more", report.omitted);
        }
        let figures = &report.figures;
        println!(
            "{} inodes, {} names, {} pages ({} frames verified), {} of {} in segments live",
            figures.inodes,
            figures.entries,
            figures.pages,
            figures.verified,
            super::human(figures.live_bytes),
            super::human(figures.segment_bytes),
        );
        let notes = report.findings.iter().filter(|finding| finding.severity == Severity::Note).count();
        match report.is_clean() {
            true if notes > 0 => println!("nothing is wrong; {notes} notes"),
            true => println!("nothing is wrong"),
            false => println!("{} errors, {} warnings, {notes} notes", report.errors, report.warnings),
        }
        if !report.complete {
            println!("the check could not go on: without a catalog, nothing else can be checked");
        }
    }
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
