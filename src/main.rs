//! The `larder` command.

// `println!` and its like panic where the reader has gone away.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
