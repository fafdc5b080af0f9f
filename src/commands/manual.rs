//! Prints the manual of all settings: `default.toml` and the flags in, `docs/configuration.md` out.

use std::io::Write;

use clap::CommandFactory;

use super::Failure;
use crate::cli::Cli;
use crate::config;

pub fn run() -> Result<(), Failure> {
    let flags = Cli::command().get_subcommands().flat_map(|command| command.get_arguments()).filter_map(long).collect();
    std::io::stdout().write_all(with_flags(flags).as_bytes())?;
    Ok(())
}

fn long(argument: &clap::Arg) -> Option<String> {
    argument.get_long().map(str::to_owned)
}

fn with_flags(flags: Vec<String>) -> String {
    config::manual(&flags)
}
