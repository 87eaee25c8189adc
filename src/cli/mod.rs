//! The command line: one subcommand a file. Exit codes: 0, 1 failed, 2 usage, 78 configuration (`sysexits.h`).

mod check;
pub mod client;
mod explain;
mod key;
mod limit;
mod run;
mod schema;
pub mod status;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub use crate::boot::EXIT_CONFIG;

/// An API gateway: one binary at the edge of your services, one YAML file, safe by default.
#[derive(Debug, Parser)]
#[command(
    name = "northgate",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests.
    Run(run::Arguments),
    /// Say what is wrong with a configuration. Binds nothing, asks no network.
    Check(check::Arguments),
    /// Show what would happen to a request, and why.
    Explain(explain::Arguments),
    /// Make API keys, digests of keys and hashes of passwords, and see whom they let in.
    Key(key::Arguments),
    /// Show where callers stand in the limits of the running gateway, and let one begin anew.
    Limit(limit::Arguments),
    /// Show what callers have used of their quotas, let one begin anew, or use more.
    Quota(limit::QuotaArguments),
    /// Make the running gateway take its configuration anew, and wait for it.
    Reload(status::ReloadArgs),
    /// Show what the running gateway is doing.
    Status(status::StatusArgs),
    /// Print the JSON schema of the configuration.
    Schema,
}

/// Where an installed configuration is.
pub const DEFAULT_CONFIG: &str = "/etc/northgate/northgate.yaml";

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgument {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "NORTHGATE_CONFIG",
        default_value = DEFAULT_CONFIG
    )]
    pub config: PathBuf,
}

/// For people, or for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let config_named = matches
        .subcommand_matches("run")
        .is_some_and(|run| run.value_source("config") == Some(ValueSource::CommandLine));
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match arguments.command {
        Command::Run(arguments) => run::run(arguments, config_named),
        Command::Check(arguments) => check::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Key(arguments) => key::run(arguments),
        Command::Limit(arguments) => limit::run(&arguments),
        Command::Quota(arguments) => limit::run_quota(arguments),
        Command::Reload(arguments) => status::reload(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Schema => schema::run(),
    }
}

/// An exit code, with why on stderr.
pub(crate) fn fail(code: u8, message: impl std::fmt::Display) -> ExitCode {
    complain(&format!("northgate: {message}\n"));
    ExitCode::from(code)
}

/// Writes to stdout, and ends with `code`; a success that could not be written is none. A reader that has gone away,
/// such as `head`, is no failure: `print!` would panic.
pub(crate) fn print(text: &str, code: u8) -> ExitCode {
    let written = std::io::stdout().write_all(text.as_bytes());
    match written.and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let message = format_args!("can't write to stdout: {error}");
            fail(if code == 0 { 1 } else { code }, message)
        }
        _ => ExitCode::from(code),
    }
}

/// Writes to stderr; if that fails, there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
