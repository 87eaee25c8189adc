//! `northgate check`: loads and compiles a configuration as `run` would, and says what is wrong with it.

use super::{ConfigArgument, EXIT_CONFIG, Format};
use crate::boot::configuration::{self, Refused};
use crate::diagnostic::Counts;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Treat warnings, such as an expired certificate, as errors.
    #[arg(long)]
    strict: bool,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    crate::boot::install_crypto();
    let path = &arguments.config.config;
    let (diagnostics, sources, refused) = match configuration::check(path) {
        Ok(checked) => (checked.snapshot.warnings, checked.loaded.sources, false),
        Err(Refused {
            diagnostics,
            sources,
            ..
        }) => (diagnostics, sources, true),
    };
    let counts = Counts::of(&diagnostics);
    let failed = refused || (arguments.strict && counts.warnings > 0);
    let code = if failed { EXIT_CONFIG } else { 0 };
    match arguments.format {
        Format::Json => {
            let report = serde_json::json!({
                "valid": !failed,
                "diagnostics": sources.to_json(&diagnostics),
            });
            super::print(&format!("{report:#}\n"), code)
        }
        Format::Text => {
            super::complain(&crate::boot::rendered(&diagnostics, &sources));
            if failed {
                super::complain(&format!("{}: not valid\n", path.display()));
                ExitCode::from(code)
            } else {
                super::print(&format!("{}: valid\n", path.display()), code)
            }
        }
    }
}
