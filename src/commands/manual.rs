//! Prints the manual of all settings: `default.toml` and the flags in, `docs/configuration.md` out.

use std::io::Write;

use clap::CommandFactory;

use super::Failure;
use crate::cli::Cli;
use crate::config;

/// Heading in the help under which flags are settings.
const HEADING: &str = "Settings";

pub fn run() -> Result<(), Failure> {
    let command = Cli::command();
    let arguments = command.get_subcommands().flat_map(|command| command.get_arguments());
    let settings = arguments.filter(|argument| argument.get_help_heading() == Some(HEADING));
    let flags: Vec<String> = settings.filter_map(|argument| argument.get_long().map(str::to_owned)).collect();
    std::io::stdout().write_all(config::manual(&flags).as_bytes())?;
    Ok(())
}
