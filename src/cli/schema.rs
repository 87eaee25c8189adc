//! `northgate schema`: the JSON schema of the configuration, for editors.

use std::process::ExitCode;

pub fn run() -> ExitCode {
    print!("{}", crate::config::schema::text());
    ExitCode::SUCCESS
}
