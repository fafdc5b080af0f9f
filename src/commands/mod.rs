//! What the program does: a parsed call in, output and an exit code out. One command a file.

mod bench;
mod check;
mod demo;
mod explain;
mod failure;
mod logging;
mod manual;
mod model;
mod replay;
mod roundtrip;
mod samples;
mod score;
mod screen;
mod serve;

use crate::cli::{Cli, Command};
use crate::config::Environment;
pub use failure::Failure;

/// Carries out a call. Data goes to standard output, everything else to standard error.
pub fn run(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    match cli.command {
        Command::Demo(args) => demo::run(&args, environment),
        Command::Serve(args) => serve::run(&args, environment),
        Command::Check(args) => check::run(&args, environment),
        Command::Replay(args) => replay::run(&args, environment),
        Command::Bench(args) => bench::run(&args, environment),
        Command::Score(args) => score::run(&args, environment),
        Command::Explain(args) => explain::run(&args, environment),
        Command::Model(args) => model::run(&args, environment),
        Command::Manual => manual::run(),
    }
}
