//! Log lines on standard error: settings in, a subscriber for the whole process out.

use std::io::IsTerminal;

use anyhow::anyhow;
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::{Environment, LogFormat, LogSettings};

/// Starts logging. A later call changes nothing.
pub fn start(settings: &LogSettings, environment: &Environment) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        Failure::call(
            anyhow!(error).context(format!("setting log.log can't be read as a filter: \"{}\"", settings.log)),
        )
        .hint("write a level (error, warn, info, debug, trace) or a filter such as vigie=debug,librdkafka=warn")
    })?;
    let colour = std::io::stderr().is_terminal() && environment.allows_colour();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The error says that logging was started already.
    let _ = match settings.log_format {
        LogFormat::Text => lines.with_ansi(colour).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    Ok(())
}
