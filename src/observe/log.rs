//! The log of the gateway itself: what operators should know, on stderr.
//!
//! What clients do goes to the access log and the metrics, never here: Pingora reports every connection that a client
//! resets as an error, which would let anybody flood the log. The level comes from `NORTHGATE_LOG`, in the filter
//! syntax of `tracing` (`debug`, `northgate::edge=trace,info`).

use schemars::JsonSchema;
use serde::Deserialize;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// Names the filter of the log.
pub const FILTER_VARIABLE: &str = "NORTHGATE_LOG";

/// Ours from `info`, the libraries' from `warn`, except where they report what a client or an origin did: that is
/// counted and written to the access log by us.
const DEFAULT_FILTER: &str = "warn,northgate=info,pingora_proxy=off,pingora_core=error,pingora_core::protocols=off,\
                              pingora_core::apps=off,pingora_core::services::listening=off,h2=off,rustls=off";

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{FILTER_VARIABLE}: {0}")]
    Filter(#[from] ParseError),
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    NotUtf8,
    #[error("the log is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Sets up the log of the process, once; what Pingora logs through `log` comes along.
///
/// # Errors
/// If `NORTHGATE_LOG` is no filter, or if the process has a log already.
pub fn init(format: Format) -> Result<(), Error> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => filter,
        Ok(_) | Err(std::env::VarError::NotPresent) => DEFAULT_FILTER.to_owned(),
        Err(std::env::VarError::NotUnicode(_)) => return Err(Error::NotUtf8),
    };
    set_up(format, EnvFilter::try_new(filter)?)
}

fn set_up(format: Format, filter: EnvFilter) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => log.with_ansi(colours()).finish().try_init()?,
        Format::Json => log.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// On a terminal, unless `NO_COLOR` is set to anything (no-color.org).
fn colours() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_one() {
        assert!(EnvFilter::builder().parse(DEFAULT_FILTER).is_ok());
    }
}
