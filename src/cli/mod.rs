//! The command line: one subcommand a file. Exit codes: 0, 1 failed, 2 usage, 78 configuration (`sysexits.h`).

mod check;
pub mod client;
mod explain;
mod run;
mod schema;
pub mod status;

use clap::{Parser, Subcommand, ValueEnum};
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
    /// Make the running gateway take its configuration anew, and wait for it.
    Reload(status::ReloadArgs),
    /// Show what the running gateway is doing.
    Status(status::StatusArgs),
    /// Print the JSON schema of the configuration.
    Schema,
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgument {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "NORTHGATE_CONFIG",
        default_value = "/etc/northgate/northgate.yaml"
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
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Reload(arguments) => status::reload(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Schema => schema::run(),
    }
}

/// An exit code, with why on stderr.
pub(crate) fn fail(code: u8, message: impl std::fmt::Display) -> ExitCode {
    eprintln!("northgate: {message}");
    ExitCode::from(code)
}
