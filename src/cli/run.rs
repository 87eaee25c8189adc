//! `northgate run`: serves requests until it is told to stop.

use super::ConfigArgument;
use crate::boot::{self, Options};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Start two small origins too, and print what to try. Serves conf/quickstart.yaml, or where that is not at hand a
    /// copy of it, unless `--config` names another file.
    #[arg(long)]
    demo: bool,
}

/// `config_named`: whether `--config` is written; a variable of the environment is not meant for the demo.
pub fn run(arguments: Arguments, config_named: bool) -> ExitCode {
    boot::run(Options {
        config: (config_named || !arguments.demo).then_some(arguments.config.config),
        demo: arguments.demo,
    })
}
