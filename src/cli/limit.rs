//! `northgate limit` and `northgate quota`: where a key stands in the limits or quotas of the running gateway, how it begins
//! anew, and how it gets more of a quota.

use super::Format;
use super::client::Answer;
use super::status::{AdminArgs, NoAnswer, Outcome, Table, as_json, duration, read, unexpected};
use crate::admin::{Counted, LimitStatus};
use crate::policy::counting::KeyStatus;
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
pub struct QuotaArguments {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QuotaCommand {
    /// Show the quotas, or where a key stands in those that have it.
    Show(KeyArguments),
    /// Let a key begin anew: it has used nothing, and was granted nothing.
    Reset(KeyArguments),
    /// Let a key use more until its period is over.
    Grant(GrantArguments),
}

#[derive(Debug, clap::Args)]
struct GrantArguments {
    /// Whose: such as `acme`; a value for each fact, with commas between them.
    whose: String,
    /// How much more.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    amount: u64,
    /// Of this quota: `scope/key`, such as `top/quota`.
    #[arg(long, value_name = "SCOPE/KEY")]
    policy: Option<String>,
    /// On this route, where each counts for itself.
    #[arg(long)]
    route: Option<String>,
    #[command(flatten)]
    at: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct KeyArguments {
    /// Whose: such as `acme` or `203.0.113.7`; a value for each fact, with commas between them. Limits that count all
    /// requests as one have no key.
    key: Option<String>,
    /// Of this one: `scope/key`, such as `top/rate_limit`.
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
        Command::Show(arguments) => show(Counted::Limits, arguments),
        Command::Reset(arguments) => reset(Counted::Limits, arguments),
    };
    outcome.unwrap_or_else(|outcome| outcome).print()
}

pub fn run_quota(arguments: QuotaArguments) -> ExitCode {
    let outcome = match arguments.command {
        QuotaCommand::Show(arguments) => show(Counted::Quotas, &arguments),
        QuotaCommand::Reset(arguments) => reset(Counted::Quotas, &arguments),
        QuotaCommand::Grant(arguments) => grant(arguments),
    };
    outcome.unwrap_or_else(|outcome| outcome).print()
}

impl KeyArguments {
    /// The path of a limit, or of all.
    fn path(&self, counted: Counted, policy: Option<&str>) -> String {
        let mut path = counted.path().to_owned();
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
    fn limits(&self, counted: Counted) -> Result<(Vec<LimitStatus>, Vec<u8>), Outcome> {
        let path = self.path(counted, self.policy.as_deref());
        let body = answered(self.at.ask("GET", &path))?;
        let limits = match self.policy {
            Some(_) => vec![read(&body)?],
            None => read(&body)?,
        };
        Ok((limits, body))
    }

    /// The one that is meant.
    fn which(&self, counted: Counted) -> Result<String, Outcome> {
        match &self.policy {
            Some(policy) => Ok(policy.clone()),
            None => only(counted, self),
        }
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

fn show(counted: Counted, arguments: &KeyArguments) -> Result<Outcome, Outcome> {
    let (limits, body) = arguments.limits(counted)?;
    if limits.is_empty() && arguments.key.is_some() {
        return Err(no_such_key(counted));
    }
    Ok(match arguments.at.format {
        Format::Json => as_json(&body, 0),
        Format::Text => Outcome {
            stdout: page(counted, &limits, arguments.key.is_none()),
            ..Outcome::default()
        },
    })
}

fn no_such_key(counted: Counted) -> Outcome {
    let name = counted.name();
    usage(format!(
        "no {name} has such a key: `northgate {name} show` says by what they count"
    ))
}

fn reset(counted: Counted, arguments: &KeyArguments) -> Result<Outcome, Outcome> {
    let policy = arguments.which(counted)?;
    let path = arguments.path(counted, Some(&policy));
    changed(counted, &arguments.at, "DELETE", &path)
}

fn grant(arguments: GrantArguments) -> Result<Outcome, Outcome> {
    let (counted, amount) = (Counted::Quotas, arguments.amount);
    let arguments = KeyArguments {
        key: Some(arguments.whose),
        policy: arguments.policy,
        route: arguments.route,
        at: arguments.at,
    };
    let policy = arguments.which(counted)?;
    let path = arguments.path(counted, Some(&policy));
    changed(
        counted,
        &arguments.at,
        "POST",
        &format!("{path}&grant={amount}"),
    )
}

/// Changes where a key stands, and says where it does then.
fn changed(
    counted: Counted,
    at: &AdminArgs,
    method: &'static str,
    path: &str,
) -> Result<Outcome, Outcome> {
    let body = answered(at.ask(method, path))?;
    let limit: LimitStatus = read(&body)?;
    Ok(match at.format {
        Format::Json => as_json(&body, 0),
        Format::Text => Outcome {
            stdout: page(counted, &[limit], false),
            ..Outcome::default()
        },
    })
}

/// The one limit that has such a key.
fn only(counted: Counted, arguments: &KeyArguments) -> Result<String, Outcome> {
    let (limits, _) = arguments.limits(counted)?;
    let mut having = limits.into_iter().filter(|limit| limit.standing.is_some());
    match (having.next(), having.next()) {
        (Some(limit), None) => Ok(limit.policy),
        (None, _) => Err(no_such_key(counted)),
        (Some(one), Some(other)) => {
            let rest = having.map(|limit| limit.policy);
            let all: Vec<String> = [one.policy, other.policy].into_iter().chain(rest).collect();
            let (all, name) = (all.join(", "), counted.name());
            Err(usage(format!(
                "several {name}s have such a key: say which with `--policy`: {all}"
            )))
        }
    }
}

/// The limits, if they are asked for, and where the key stands.
fn page(counted: Counted, limits: &[LimitStatus], overview: bool) -> String {
    let mut text = String::new();
    if overview {
        let heads = [
            "POLICY",
            "LIMIT",
            "BY",
            match counted {
                Counted::Limits => "ALGORITHM",
                Counted::Quotas => "PERIOD",
            },
            "KEYS",
            "MEMORY",
            "AT MOST",
        ];
        let mut table = Table::new(heads, [false, false, false, false, true, true, true]);
        for limit in limits {
            let all = &limit.overview;
            let by = match (all.by.is_empty(), all.per_route) {
                (true, false) => "-".to_owned(),
                (true, true) => "(route)".to_owned(),
                (false, false) => all.by.join(","),
                (false, true) => format!("{} (route)", all.by.join(",")),
            };
            table.row([
                limit.policy.clone(),
                all.limit.clone(),
                by,
                match &all.store {
                    Some(store) => format!("{} in {}", all.algorithm, store.name),
                    None => all.algorithm.clone(),
                },
                all.keys.to_string(),
                size(all.bytes),
                size(all.bytes_max),
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
    text.push_str(&match counted {
        Counted::Limits => standings_of_limits(&standings),
        Counted::Quotas => standings_of_quotas(&standings),
    });
    text
}

fn standings_of_limits(standings: &[(&LimitStatus, &KeyStatus)]) -> String {
    let heads = ["POLICY", "LIMIT", "COUNTED", "REMAINING", "MORE AFTER"];
    let mut table = Table::new(heads, [false, false, true, true, true]);
    for (limit, standing) in standings {
        let (remaining, more) = match (standing.exempt, standing.more_after_seconds) {
            (true, _) => ("exempt".to_owned(), "-".to_owned()),
            (false, more) => (
                match standing.away {
                    true => format!("{} here: the store is away", standing.remaining),
                    false => standing.remaining.to_string(),
                },
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
    table.text()
}

fn standings_of_quotas(standings: &[(&LimitStatus, &KeyStatus)]) -> String {
    let heads = [
        "POLICY",
        "QUOTA",
        "USED",
        "GRANTED",
        "REMAINING",
        "RESETS AT",
    ];
    let mut table = Table::new(heads, [false, false, true, true, true, false]);
    for (limit, standing) in standings {
        let count = |count: Option<u64>| count.unwrap_or_default().to_string();
        table.row([
            limit.policy.clone(),
            standing.limit.clone(),
            count(standing.counted),
            count(standing.granted),
            match standing.exempt {
                true => "exempt".to_owned(),
                false => standing.remaining.to_string(),
            },
            standing.resets_at.clone().unwrap_or_default(),
        ]);
    }
    table.text()
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
