//! The log of the gateway itself: what operators should know, on stderr.
//!
//! What clients do goes to the access log and the metrics, never here: Pingora reports every connection that a client
//! resets as an error, which would let anybody flood the log. The level comes from `NORTHGATE_LOG`, in the filter
//! syntax of `tracing` (`debug`, `northgate::edge=trace,info`).

use schemars::JsonSchema;
use serde::Deserialize;
use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Names the filter of the log.
pub const FILTER_VARIABLE: &str = "NORTHGATE_LOG";

/// Ours from `info`, the libraries' from `warn`, except where they report what a client or an origin did: that is
/// counted and written to the access log by us.
const DEFAULT_FILTER: &str = "warn,northgate=info,pingora_proxy=off,pingora_core=error,pingora_core::protocols=off,\
                              pingora_core::apps=off,pingora_core::connectors=off,pingora_core::services::listening=off,h2=off,rustls=off";

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
    subscriber(format, filter, std::io::stderr).try_init()?;
    Ok(())
}

fn subscriber<W>(format: Format, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        Format::Text => Box::new(log.with_ansi(colours()).finish()),
        Format::Json => Box::new(log.json().flatten_event(true).finish()),
    }
}

/// On a terminal, unless `NO_COLOR` is set to anything (no-color.org).
fn colours() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log with the default filter holds after these events.
    fn logged(format: Format, events: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let filter = EnvFilter::builder().parse(DEFAULT_FILTER).unwrap();
        let log = subscriber(format, filter, file.reopen().unwrap());
        tracing::subscriber::with_default(log, events);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn what_clients_do_is_not_logged_and_what_operators_need_is() {
        let log = logged(Format::Text, || {
            tracing::info!(target: "northgate::boot", "kept one");
            tracing::error!(target: "pingora_core::server", "kept two");
            tracing::warn!(target: "notify", "kept three");
            tracing::debug!(target: "northgate::boot", "noise");
            tracing::error!(target: "pingora_proxy", "noise");
            tracing::error!(target: "pingora_proxy::proxy_h1", "noise");
            tracing::error!(target: "pingora_core::protocols::http::v1", "noise");
            tracing::error!(target: "pingora_core::services::listening", "noise");
            tracing::warn!(target: "rustls::conn", "noise");
        });
        assert_eq!(log.matches("kept").count(), 3, "{log}");
        assert!(!log.contains("noise") && !log.contains('\x1b'), "{log}");
    }

    #[test]
    fn json_lines_are_objects() {
        let log = logged(
            Format::Json,
            || tracing::info!(target: "northgate", generation = 7, "a \"b\"\n"),
        );
        let line: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
        assert_eq!(
            (&line["message"], &line["generation"]),
            (&"a \"b\"\n".into(), &7.into())
        );
    }
}
