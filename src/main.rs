//! The service program: arguments and environment in, an exit code out.

use std::process::ExitCode;

use clap::Parser;
use vigie::cli::Cli;
use vigie::commands;
use vigie::config::Environment;

fn main() -> ExitCode {
    let variables = std::env::vars_os();
    let environment = Environment::new(
        variables.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
    );
    match commands::run(Cli::parse(), &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
