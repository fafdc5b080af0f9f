//! How a command ends when it does not succeed: an error in, lines on standard error and an exit code out.

use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::http::{HttpError, TlsError};
use crate::models::LoadError;
use crate::models::registry::RegistryError;
use crate::stream::StreamError;
use crate::stream::topics::TopicError;

/// The work failed, or a gate was not met.
const WORK: u8 = 1;
/// The call or the configuration was wrong.
const CALL: u8 = 2;

/// Why a command ends early: what happened, the next step, the exit code.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The work failed.
    pub fn work(error: impl Into<anyhow::Error>) -> Failure {
        Failure { error: error.into(), hint: None, code: WORK }
    }

    /// The call was wrong.
    pub fn call(error: impl Into<anyhow::Error>) -> Failure {
        Failure { error: error.into(), hint: None, code: CALL }
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What happened, with its causes, each once.
    pub fn fact(&self) -> String {
        let mut said = self.error.to_string();
        for cause in self.error.chain().skip(1) {
            let cause = cause.to_string();
            // Some libraries repeat their source in their own text.
            if !said.contains(&cause) {
                said.push_str(": ");
                said.push_str(&cause);
            }
        }
        said
    }

    /// The hint.
    pub fn next_step(&self) -> Option<String> {
        self.hint.clone()
    }

    /// Prints the error with its causes, each once, and the hint; returns the exit code.
    pub fn report(&self) -> ExitCode {
        // Whoever read our output has had enough (`vigie score … | head`): nothing went wrong.
        if self.error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("{self}");
        ExitCode::from(self.code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.fact())?;
        self.hint.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::work(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::work(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let hint = error.hint.clone();
        Failure::call(error).hint(hint)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        let hint = error.hint();
        Failure::work(error).hint(hint)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        let hint = error.hint();
        Failure::work(error).hint(hint)
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Failure {
        let hint = error.hint();
        let failure = match error {
            HttpError::Address { .. } | HttpError::Tls(TlsError::Half { .. }) => Failure::call(error),
            _ => Failure::work(error),
        };
        failure.hint(hint)
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Failure {
        let hint = error.hint();
        let failure = if error.is_configuration() { Failure::call(error) } else { Failure::work(error) };
        hint.into_iter().fold(failure, Failure::hint)
    }
}

impl From<TopicError> for Failure {
    fn from(error: TopicError) -> Failure {
        let hint = error.hint();
        Failure::work(error).hint(hint)
    }
}
