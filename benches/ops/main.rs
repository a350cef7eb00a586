//! Times what a program does to a directory, and makes the data that it is done with. `scripts/bench`
//! runs it on Larder, on the null filesystem and on a plain directory.
//!
//! Figures go to standard output, one a line: `name<TAB>value<TAB>unit`.

mod beside;
mod bulk;
mod micro;
mod text;

use std::io;
use std::path::Path;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const USAGE: &str = "\
usage: ops micro DIR [-t THREADS] [--pin CPU] [--only OP,OP...]   µs an operation, each timed in a new directory
       ops write FILE MIB        write that much text that lz4 halves, then fsync: MB/s
       ops read FILE             read it to the end: MB/s
       ops fsync-create DIR N    create N small files, each with an fsync: seconds
       ops beside DIR N          create N files alone, and N beside a thread that fsyncs: µs, 50 and 99 % of them
       ops tree DIR N            make N source files in 400 directories, the same ones each time
       ops million DIR N         make N files of a few bytes, 1,000 a directory: seconds";

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["micro", dir, options @ ..] => micro::run(Path::new(dir), &micro_options(options)?),
        ["write", file, mib] => bulk::write(Path::new(file), number(mib)?),
        ["read", file] => bulk::read(Path::new(file)),
        ["fsync-create", dir, count] => bulk::create_and_fsync(Path::new(dir), number(count)?),
        ["beside", dir, count] => beside::run(Path::new(dir), number(count)?),
        ["tree", dir, count] => bulk::source_tree(Path::new(dir), number(count)?),
        ["million", dir, count] => bulk::many_files(Path::new(dir), number(count)?),
        // `cargo bench` starts every bench with --bench.
        [] | ["--bench", ..] => {
            eprintln!("{USAGE}\n(scripts/bench calls it)");
            Ok(())
        }
        _ => Err(usage()),
    }
}

fn micro_options(args: &[&str]) -> io::Result<micro::Options> {
    let mut options = micro::Options { threads: 1, only: Vec::new() };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(usage)?;
        match *flag {
            "-t" => options.threads = number(value)?,
            "--pin" => pin(number(value)?)?,
            "--only" => options.only = value.split(',').map(str::to_owned).collect(),
            _ => return Err(usage()),
        }
    }
    Ok(options)
}

/// Keeps this process, and the threads that it starts from now on, on one processor.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number\n{USAGE}")))
}

fn usage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, USAGE)
}
