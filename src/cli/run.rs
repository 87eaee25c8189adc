//! `northgate run`: serves requests until it is told to stop.

use super::ConfigArgument;
use crate::boot::{self, Options};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Start two small origins too, and print what to try. Uses conf/quickstart.yaml unless `--config` names another.
    #[arg(long)]
    demo: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let config = match arguments.demo
        && arguments.config.config == PathBuf::from("/etc/northgate/northgate.yaml")
    {
        true => PathBuf::from("conf/quickstart.yaml"),
        false => arguments.config.config,
    };
    boot::run(Options {
        config,
        demo: arguments.demo,
    })
}
