//! The access log: one line for each request (design 9).
//!
//! The thread of the request formats its line straight into a buffer that it shares with few others; one background
//! thread takes the full buffers, gives back empty ones, and writes each with one call. A request never waits for a
//! disk: at the bound of the buffer its line is dropped and counted (`northgate_access_log_dropped_total`), and so are
//! lines that could not be written. Lines of different threads may be a few milliseconds out of order.
//!
//! Nothing a client sends can forge a line: JSON and the combined format escape control bytes, quotes, and what is not
//! UTF-8. Values of query parameters that look like credentials are masked, in the referrer too.
//!
//! ```yaml
//! access_log: {path: /var/log/northgate/access.log, format: json, fields: {add: tls_version, drop: referer}}
//! ```

mod escape;
mod fields;
mod layout;
pub mod mask;
mod sample;
mod writer;

use crate::units::OneOrMany;
pub use fields::{FIELDS, Field, FieldName, Record};
use layout::Layout;
use sample::Sampling;
pub use sample::Share;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
pub use writer::AccessLogs;
use writer::Destination;

/// Where and how requests are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLogConfig {
    /// The file that lines are appended to, relative to this one; `-`, the default, is stdout. SIGUSR1 opens it anew.
    #[serde(default)]
    pub path: LogPath,
    /// `json` (default) or `combined`, as web servers write it.
    #[serde(default)]
    pub format: Format,
    /// Changes which fields a JSON line has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<FieldChoice>,
    /// Logs this share of all requests, chosen at random. All by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Share>,
}

impl AccessLogConfig {
    /// Finds settings that contradict each other or would change nothing.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        Layout::new(self).map(drop)
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object per line; a fact that is not known has no field.
    #[default]
    Json,
    /// NCSA's combined format.
    Combined,
}

/// Fields beyond the usual, and usual ones to leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldChoice {
    /// Adds fields that are not written by default, and `claim.<path>`, claims of who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<OneOrMany<FieldName>>,
    /// Leaves out fields that are written by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<OneOrMany<FieldName>>,
}

impl FieldChoice {
    fn added(&self) -> impl Iterator<Item = &FieldName> {
        self.add.iter().flat_map(|names| &names.0)
    }

    fn dropped(&self) -> impl Iterator<Item = &FieldName> {
        self.drop.iter().flat_map(|names| &names.0)
    }

    /// The claims of who calls that are added.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.added().filter_map(|name| match name {
            FieldName::Known(_) => None,
            FieldName::Claim(path) => Some(&**path),
        })
    }
}

/// A file, or `-` for stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("minLength" = 1))]
pub enum LogPath {
    #[default]
    Stdout,
    File(PathBuf),
}

impl TryFrom<String> for LogPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        match path.as_str() {
            "" => Err("a path, or `-` for stdout, is expected"),
            "-" => Ok(LogPath::Stdout),
            _ => Ok(LogPath::File(path.into())),
        }
    }
}

impl LogPath {
    /// As a sentence names it.
    pub(crate) fn shown(&self) -> std::borrow::Cow<'_, str> {
        match self {
            LogPath::Stdout => "stdout".into(),
            LogPath::File(path) => path.to_string_lossy(),
        }
    }
}

impl From<LogPath> for String {
    fn from(path: LogPath) -> Self {
        path.to_string()
    }
}

impl std::fmt::Display for LogPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogPath::Stdout => f.write_str("-"),
            LogPath::File(path) => path.display().fmt(f),
        }
    }
}

/// Why a log could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Config(String),
    #[error("cannot open {}: {source}", .path.shown())]
    Open { path: LogPath, source: io::Error },
}

/// One access log as configured. Cheap to make anew for a reload: buffer and file belong to the destination.
pub struct AccessLog {
    destination: Arc<Destination>,
    layout: Layout,
    sampling: Sampling,
}

impl AccessLog {
    /// Logs one request, unless it is not in the sample. Never waits for the destination.
    pub fn write(&self, record: &Record<'_>) {
        if self.sampling.takes() {
            self.destination
                .append(|line, clock| self.layout.write(record, clock, line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: serde_json::Value) -> Result<AccessLogConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_log_needs_no_settings() {
        let config = config(json!({})).unwrap();
        assert_eq!(config, AccessLogConfig::default());
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            json!({"path": "/var/log/a.log", "format": "combined", "sample": "12.5%"}),
            json!({"path": "-", "fields": {"add": ["peer", "own_ms"], "drop": "time"}}),
        ] {
            let first = config(value).unwrap();
            let again = config(serde_json::to_value(&first).unwrap()).unwrap();
            assert_eq!(first, again);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = config(json!({"fields": {"add": "tls_verison"}})).unwrap_err();
        assert!(
            unknown.contains("unknown variant `tls_verison`"),
            "{unknown}"
        );
        assert!(config(json!({"path": ""})).unwrap_err().contains("stdout"));
        assert!(config(json!({"sample": "120%"})).is_err());
        assert!(config(json!({"pathh": "-"})).is_err());
    }

    #[test]
    fn settings_without_effect_are_refused() {
        let refused = |value| config(value).unwrap().check().unwrap_err();
        let said = refused(json!({"format": "combined", "fields": {"add": "peer"}}));
        assert!(said.contains("combined"), "{said}");
        let said = refused(json!({"fields": {"add": "status"}}));
        assert!(said.contains("`status` is written by default"), "{said}");
        let said = refused(json!({"fields": {"drop": ["peer"]}}));
        assert!(said.contains("`peer` is not written by default"), "{said}");
        assert!(refused(json!({"fields": {}})).contains("neither"));
    }
}
