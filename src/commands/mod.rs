//! What the program does: a parsed call in, output and an exit code out. One command a file.

mod explain;
mod failure;
mod manual;
mod model;
mod samples;
mod score;
mod screen;

use crate::cli::{Cli, Command};
use crate::config::Environment;
pub use failure::Failure;

/// Carries out a call. Data goes to standard output, everything else to standard error.
pub fn run(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    match cli.command {
        Command::Score(args) => score::run(&args, environment),
        Command::Explain(args) => explain::run(&args, environment),
        Command::Model(args) => model::run(&args, environment),
        Command::Manual => manual::run(),
    }
}
