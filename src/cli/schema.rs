//! `northgate schema`: the JSON schema of the configuration, for editors.

use std::process::ExitCode;

pub fn run() -> ExitCode {
    super::print(&crate::config::schema::text(), 0)
}
