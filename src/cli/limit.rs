//! `northgate limit`: where a key stands in the limits of the running gateway, and how it begins anew.

use super::Format;
use super::client::Answer;
use super::status::{AdminArgs, NoAnswer, Outcome, Table, as_json, duration, read, unexpected};
use crate::admin::{KeyStatus, LimitStatus};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::process::ExitCode;

/// What was asked for is nothing that the gateway has: wrong arguments, as those that can't be read.
const EXIT_USAGE: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the limits, or where a key stands in those that have it.
    Show(KeyArguments),
    /// Let a key begin anew.
    Reset(KeyArguments),
}

#[derive(Debug, clap::Args)]
struct KeyArguments {
    /// Whose: such as `acme` or `203.0.113.7`; a value for each fact, with commas between them. Limits that count all
    /// requests as one have no key.
    key: Option<String>,
    /// Of this limit: `scope/key`, such as `top/rate_limit`.
    #[arg(long, value_name = "SCOPE/KEY")]
    policy: Option<String>,
    /// On this route, where each counts for itself.
    #[arg(long)]
    route: Option<String>,
    #[command(flatten)]
    at: AdminArgs,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let outcome = match &arguments.command {
        Command::Show(arguments) => show(arguments),
        Command::Reset(arguments) => reset(arguments),
    };
    outcome.unwrap_or_else(|outcome| outcome).print()
}

impl KeyArguments {
    /// The path of a limit, or of all.
    fn path(&self, policy: Option<&str>) -> String {
        let mut path = "/v1/limits".to_owned();
        for part in policy.iter().flat_map(|policy| policy.split('/')) {
            path.push('/');
            path.extend(utf8_percent_encode(part, NON_ALPHANUMERIC));
        }
        let parts = [("key", &self.key), ("route", &self.route)];
        let given = parts
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (at, (name, value)) in given.enumerate() {
            path.push(if at == 0 { '?' } else { '&' });
            path.extend([*name, "="]);
            path.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        path
    }

    /// The limits that were asked for, or that have such a key, and the answer itself.
    fn limits(&self) -> Result<(Vec<LimitStatus>, Vec<u8>), Outcome> {
        let body = answered(self.at.ask("GET", &self.path(self.policy.as_deref())))?;
        let limits = match self.policy {
            Some(_) => vec![read(&body)?],
            None => read(&body)?,
        };
        Ok((limits, body))
    }
}

fn answered(answer: Result<Answer, NoAnswer>) -> Result<Vec<u8>, Outcome> {
    match answer {
        Ok(Answer { status: 200, body }) => Ok(body),
        Ok(answer) => {
            let code = if matches!(answer.status, 400 | 404) {
                EXIT_USAGE
            } else {
                1
            };
            Err(Outcome {
                code,
                ..unexpected(&answer)
            })
        }
        Err(error) => Err(Outcome::failed(error)),
    }
}

fn usage(message: impl std::fmt::Display) -> Outcome {
    Outcome {
        code: EXIT_USAGE,
        ..Outcome::failed(message)
    }
}

fn show(arguments: &KeyArguments) -> Result<Outcome, Outcome> {
    let (limits, body) = arguments.limits()?;
    if limits.is_empty() && arguments.key.is_some() {
        return Err(usage(
            "no limit has such a key: `northgate limit show` says by what they count",
        ));
    }
    Ok(match arguments.at.format {
        Format::Json => as_json(&body, 0),
        Format::Text => Outcome {
            stdout: page(&limits, arguments.key.is_none()),
            ..Outcome::default()
        },
    })
}

fn reset(arguments: &KeyArguments) -> Result<Outcome, Outcome> {
    let policy = match &arguments.policy {
        Some(policy) => policy.clone(),
        None => only(arguments)?,
    };
    let path = arguments.path(Some(&policy));
    let body = answered(arguments.at.ask("DELETE", &path))?;
    let limit: LimitStatus = read(&body)?;
    Ok(match arguments.at.format {
        Format::Json => as_json(&body, 0),
        Format::Text => Outcome {
            stdout: page(&[limit], false),
            ..Outcome::default()
        },
    })
}

/// The one limit that has such a key.
fn only(arguments: &KeyArguments) -> Result<String, Outcome> {
    let (limits, _) = arguments.limits()?;
    let mut having = limits.into_iter().filter(|limit| limit.standing.is_some());
    match (having.next(), having.next()) {
        (Some(limit), None) => Ok(limit.policy),
        (None, _) => Err(usage(
            "no limit has such a key: `northgate limit show` says by what they count",
        )),
        (Some(one), Some(other)) => {
            let rest = having.map(|limit| limit.policy);
            let all: Vec<String> = [one.policy, other.policy].into_iter().chain(rest).collect();
            let all = all.join(", ");
            Err(usage(format!(
                "several limits have such a key: say which with `--policy`: {all}"
            )))
        }
    }
}

/// The limits, if they are asked for, and where the key stands.
fn page(limits: &[LimitStatus], overview: bool) -> String {
    let mut text = String::new();
    if overview {
        let heads = [
            "POLICY",
            "LIMIT",
            "BY",
            "ALGORITHM",
            "KEYS",
            "MEMORY",
            "AT MOST",
        ];
        let mut table = Table::new(heads, [false, false, false, false, true, true, true]);
        for limit in limits {
            let by = match (limit.by.is_empty(), limit.per_route) {
                (true, false) => "-".to_owned(),
                (true, true) => "(route)".to_owned(),
                (false, false) => limit.by.join(","),
                (false, true) => format!("{} (route)", limit.by.join(",")),
            };
            table.row([
                limit.policy.clone(),
                limit.limit.clone(),
                by,
                limit.algorithm.clone(),
                limit.keys.to_string(),
                size(limit.bytes),
                size(limit.bytes_max),
            ]);
        }
        text.push_str(&table.text());
    }
    let standings: Vec<(&LimitStatus, &KeyStatus)> = limits
        .iter()
        .filter_map(|limit| Some((limit, limit.standing.as_ref()?)))
        .collect();
    if standings.is_empty() {
        return text;
    }
    if overview {
        text.push('\n');
    }
    let heads = ["POLICY", "LIMIT", "COUNTED", "REMAINING", "MORE AFTER"];
    let mut table = Table::new(heads, [false, false, true, true, true]);
    for (limit, standing) in standings {
        let (remaining, more) = match (standing.exempt, standing.more_after_seconds) {
            (true, _) => ("exempt".to_owned(), "-".to_owned()),
            (false, more) => (
                standing.remaining.to_string(),
                more.map_or("-".to_owned(), duration),
            ),
        };
        table.row([
            limit.policy.clone(),
            standing.limit.clone(),
            standing
                .counted
                .map_or("-".to_owned(), |count| count.to_string()),
            remaining,
            more,
        ]);
    }
    text.push_str(&table.text());
    text
}

/// With one digit behind the point, in the largest unit.
pub(super) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}
