//! `northgate check`: loads and compiles a configuration as `run` would, and says what is wrong with it.

use super::{ConfigArgument, EXIT_CONFIG, Format};
use crate::boot::configuration::{self, Refused};
use crate::diagnostic::Diagnostic;
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
        Err(Refused { diagnostics, sources }) => (diagnostics, sources, true),
    };
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let failed = refused || (arguments.strict && warnings > 0);
    match arguments.format {
        Format::Json => print_json(&diagnostics, &sources, failed),
        Format::Text => {
            eprint!("{}", crate::boot::rendered(&diagnostics, &sources));
            let summary = crate::boot::summary(errors, warnings);
            if failed {
                eprintln!("{}: {summary}", path.display());
            } else if warnings > 0 {
                println!("{}: valid, {summary}", path.display());
            } else {
                println!("{}: valid", path.display());
            }
        }
    }
    if failed { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS }
}

fn print_json(diagnostics: &[Diagnostic], sources: &crate::diagnostic::Sources, failed: bool) {
    let report = serde_json::json!({
        "valid": !failed,
        "diagnostics": crate::diagnostic::json(diagnostics, sources),
    });
    println!("{report:#}");
}
