//! `northgate status` and `northgate reload`: what a running gateway says, for people or as JSON.

mod locate;

use super::client::{AdminAddress, Answer, ClientError, ask};
use super::limit::size;
use super::{ConfigArgument, DEFAULT_CONFIG, EXIT_CONFIG, Format};
use crate::admin::{
    EndpointStatus, IssuerStatus, OverloadStatus, ReloadFailure, ReloadReport, ServiceStatus,
    Status, StoreStatus, default_sockets,
};
use clap::Args;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

/// Which gateway is asked, and how the answer is printed.
#[derive(Args, Clone, Debug)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where the gateway's admin API listens: unix:/path or ip:port. Without it, where the configuration says.
    #[arg(long, env = "NORTHGATE_ADMIN", value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// How to print the answer; json is what the admin API says.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

impl AdminArgs {
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Answer, NoAnswer> {
        let mut unread = None;
        let configured = match self.admin {
            Some(_) => Vec::new(),
            None => locate::configured(&self.config.config).unwrap_or_else(|error| {
                unread = Some(unread_note(&self.config.config, &error));
                Vec::new()
            }),
        };
        let answer = ask(&places(self.admin.as_ref(), configured), method, path);
        match (answer, unread) {
            (Ok(answer), Some(note)) if self.config.config.as_os_str() != DEFAULT_CONFIG => {
                // somebody answers at the usual place, and it may not be the one that was meant
                super::complain(&format!("northgate: {note}\n"));
                Ok(answer)
            }
            (Ok(answer), _) => Ok(answer),
            (Err(error), note) => Err(NoAnswer { error, note }),
        }
    }
}

/// Says that the file does not tell where the gateway is.
fn unread_note(file: &Path, error: &std::io::Error) -> String {
    format!(
        "{} can't be read ({error}), so that the usual places were asked; `--admin` names another",
        file.display()
    )
}

/// Why there is no answer, and what else may be the reason.
#[derive(Debug)]
pub(super) struct NoAnswer {
    error: ClientError,
    note: Option<String>,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)?;
        match &self.note {
            Some(note) => write!(f, "\n  {note}"),
            None => Ok(()),
        }
    }
}

/// Where to look: what the arguments name, else what the configuration does, else the usual places.
fn places(named: Option<&AdminAddress>, configured: Vec<AdminAddress>) -> Vec<AdminAddress> {
    match named {
        Some(named) => vec![named.clone()],
        None if configured.is_empty() => default_sockets()
            .into_iter()
            .map(AdminAddress::Unix)
            .collect(),
        None => configured,
    }
}

/// Arguments of `northgate status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    at: AdminArgs,
}

/// Arguments of `northgate reload`.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    at: AdminArgs,
}

/// What a command prints, and how it ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) code: u8,
}

impl Outcome {
    pub(super) fn failed(message: impl std::fmt::Display) -> Self {
        Self {
            stderr: format!("northgate: {message}\n"),
            code: 1,
            ..Self::default()
        }
    }

    pub(super) fn print(self) -> ExitCode {
        let code = super::print(&self.stdout, self.code);
        super::complain(&self.stderr);
        code
    }
}

/// Runs `northgate status`: 0 when the gateway answered, 1 when nobody did.
pub fn status(args: &StatusArgs) -> ExitCode {
    let answer = args.at.ask("GET", "/v1/status");
    status_outcome(answer, args.at.format, Colours::of_stdout()).print()
}

/// Runs `northgate reload`: 0 when the new configuration serves, 78 when it was refused, 1 when nobody answers.
pub fn reload(args: &ReloadArgs) -> ExitCode {
    let answer = args.at.ask("POST", "/v1/reload");
    reload_outcome(answer, args.at.format).print()
}

fn status_outcome(answer: Result<Answer, NoAnswer>, format: Format, colours: Colours) -> Outcome {
    let body = match answer {
        Ok(Answer { status: 200, body }) => body,
        Ok(answer) => return unexpected(&answer),
        Err(error) => return Outcome::failed(error),
    };
    match (format, read::<Status>(&body)) {
        (Format::Json, _) => as_json(&body, 0),
        (Format::Text, Ok(status)) => Outcome {
            stdout: Page::new(colours).of(&status),
            ..Outcome::default()
        },
        (Format::Text, Err(outcome)) => outcome,
    }
}

fn reload_outcome(answer: Result<Answer, NoAnswer>, format: Format) -> Outcome {
    match answer {
        Ok(Answer { status: 200, body }) => match (format, read(&body)) {
            (Format::Json, _) => as_json(&body, 0),
            (Format::Text, Ok(report)) => accepted(&report),
            (Format::Text, Err(outcome)) => outcome,
        },
        Ok(Answer { status: 422, body }) => match (format, read::<ReloadFailure>(&body)) {
            (Format::Json, _) => as_json(&body, EXIT_CONFIG),
            (Format::Text, Ok(failure)) => refused(&failure),
            (Format::Text, Err(outcome)) => outcome,
        },
        Ok(answer) => unexpected(&answer),
        Err(error) => Outcome::failed(error),
    }
}

fn accepted(report: &ReloadReport) -> Outcome {
    let mut stderr = String::new();
    for warning in &report.warnings {
        stderr.extend([warning.trim_end(), "\n"]);
    }
    for setting in &report.restart_required {
        stderr.extend(["restart required: ", setting, "\n"]);
    }
    Outcome {
        stdout: format!("generation {} serves\n", report.generation),
        stderr,
        code: 0,
    }
}

fn refused(failure: &ReloadFailure) -> Outcome {
    let text = failure.text.trim_end();
    Outcome {
        stderr: format!(
            "{text}\n\nnorthgate: the configuration was refused; the running one goes on\n"
        ),
        code: EXIT_CONFIG,
        ..Outcome::default()
    }
}

/// A problem in place of what was asked for; its detail is for people.
pub(super) fn unexpected(answer: &Answer) -> Outcome {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let member = |name: &str| problem.get(name).and_then(|value| value.as_str());
    let title = member("title").unwrap_or("unexpected answer");
    let detail = member("detail").map(|detail| format!(": {detail}"));
    Outcome::failed(format!(
        "{title} ({}){}",
        answer.status,
        detail.unwrap_or_default()
    ))
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Outcome> {
    serde_json::from_slice(body)
        .map_err(|error| Outcome::failed(format!("the answer is that of another version: {error}")))
}

pub(super) fn as_json(body: &[u8], code: u8) -> Outcome {
    Outcome {
        stdout: format!("{}\n", String::from_utf8_lossy(body).trim_end()),
        code,
        ..Outcome::default()
    }
}

/// Whether words are coloured.
#[derive(Clone, Copy)]
struct Colours(bool);

impl Colours {
    /// On a terminal, unless `NO_COLOR` is set to anything (no-color.org).
    fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(std::io::stdout().is_terminal() && !refused)
    }

    fn paint(self, colour: Colour, text: &str) -> String {
        if self.0 {
            format!("\x1b[{}m{text}\x1b[0m", colour as u8)
        } else {
            text.to_owned()
        }
    }
}

/// SGR parameters (ECMA-48 §8.3.117).
#[derive(Clone, Copy)]
enum Colour {
    Bold = 1,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// The status as a page of text.
struct Page {
    text: String,
    colours: Colours,
}

impl Page {
    fn new(colours: Colours) -> Self {
        let text = String::new();
        Self { text, colours }
    }

    fn of(mut self, status: &Status) -> String {
        self.summary(status);
        self.overload(&status.overload);
        self.last_reload(status);
        self.kept(status);
        self.restarted(status);
        for setting in &status.restart_required {
            self.line(
                "",
                &self
                    .colours
                    .paint(Colour::Yellow, &format!("restart required: {setting}")),
            );
        }
        self.listeners(status);
        self.services(&status.services);
        self.issuers(&status.issuers);
        self.stores(&status.stores);
        self.text
    }

    fn summary(&mut self, status: &Status) {
        let state = match (status.draining, status.not_ready.as_slice()) {
            (true, _) => self.colours.paint(Colour::Yellow, "draining"),
            (false, []) => self.colours.paint(Colour::Green, "ready"),
            (false, reasons) => self
                .colours
                .paint(Colour::Red, &format!("not ready: {}", reasons.join(", "))),
        };
        let (version, pid, uptime) = (&status.version, status.pid, duration(status.uptime_seconds));
        self.line(
            "northgate",
            &format!("{version}, pid {pid}, up {uptime}, {state}"),
        );
    }

    /// What it has in hand, and what it leaves undone for that.
    fn overload(&mut self, overload: &OverloadStatus) {
        if overload.state.is_empty() {
            // an older gateway says nothing
            return;
        }
        let (now, most) = (overload.requests_in_flight, overload.requests_max);
        let mut line = format!("{now} of {most} requests in flight");
        if let (Some(bytes), Some(most)) = (overload.memory_bytes, overload.memory_bytes_max) {
            let _ = write!(line, ", {} of {} of memory", size(bytes), size(most));
        }
        let does = match overload.state.as_str() {
            "normal" => String::new(),
            "no_copies" => ", no request is copied".to_owned(),
            "no_waiting" => ", nobody waits for a place".to_owned(),
            _ => format!(", {} % of new requests refused", overload.refused_percent),
        };
        let colour = match overload.state.as_str() {
            "refusing_some" | "refusing_all" => Colour::Red,
            _ => Colour::Yellow,
        };
        if !does.is_empty() {
            line.push_str(&self.colours.paint(colour, &does));
        }
        self.line("in hand", &line);
    }

    fn last_reload(&mut self, status: &Status) {
        let generation = status.generation;
        let Some(reload) = &status.last_reload else {
            return self.line(
                "generation",
                &format!("{generation}, since {}", status.started_at),
            );
        };
        let (at, took) = (&reload.at, reload.duration_ms);
        let outcome = if reload.success {
            format!("reloaded {at} in {took} ms")
        } else {
            self.colours
                .paint(Colour::Red, &format!("reload refused {at}"))
        };
        self.line("generation", &format!("{generation}, {outcome}"));
        let error = reload.error.iter().flat_map(|error| error.lines());
        for line in error.chain(reload.warnings.iter().flat_map(|warning| warning.lines())) {
            self.line("", line);
        }
    }

    fn kept(&mut self, status: &Status) {
        for include in &status.kept {
            let (name, since) = (&include.name, &include.since);
            let line = format!("{name}: its files have mistakes, and stay as they were at {since}");
            self.line("kept", &self.colours.paint(Colour::Red, &line));
            for line in include.error.lines() {
                self.line("", line);
            }
        }
    }

    fn restarted(&mut self, status: &Status) {
        for restarted in &status.restarted {
            let (task, at) = (&restarted.task, &restarted.last_at);
            let times = restarted.restarts;
            let line = format!("{task}: started again {times} times, last after {at}");
            self.line("restarted", &self.colours.paint(Colour::Red, &line));
            for line in restarted.reason.lines() {
                self.line("", line);
            }
        }
    }

    fn listeners(&mut self, status: &Status) {
        let mut table = Table::new(
            ["LISTENER", "ADDRESS", "PROTOCOLS", "CONNECTIONS"],
            [false, false, false, true],
        );
        for listener in &status.listeners {
            let connections = listener.connections.to_string();
            let (addresses, protocols) =
                (listener.addresses.join(" "), listener.protocols.join(" "));
            table.row([listener.name.clone(), addresses, protocols, connections]);
        }
        self.table(&table);
    }

    fn services(&mut self, services: &[ServiceStatus]) {
        let heads = ["SERVICE", "ENDPOINT", "WEIGHT", "IN FLIGHT", "STATE"];
        let mut table = Table::new(heads, [false, false, true, true, false]);
        for service in services {
            let mut name = service.name.clone();
            for endpoint in &service.endpoints {
                let state = endpoint_state(endpoint, service);
                let (weight, in_flight) =
                    (endpoint.weight.to_string(), endpoint.in_flight.to_string());
                let name = std::mem::take(&mut name);
                table.row([name, endpoint.address.clone(), weight, in_flight, state]);
            }
        }
        self.table(&table);
        self.sources(services);
    }

    /// Where endpoints come from that are not written as addresses.
    fn sources(&mut self, services: &[ServiceStatus]) {
        let heads = ["SERVICE", "SOURCE", "ENDPOINTS", "AGE", "LAST ERROR"];
        let mut table = Table::new(heads, [false, false, true, true, false]);
        for service in services {
            for source in &service.sources {
                let age = source.age_seconds.map_or("-".to_owned(), duration);
                let refused = source.refused.iter().map(|one| format!("refused {one}"));
                let troubles: Vec<_> = source.error.iter().cloned().chain(refused).collect();
                table.row([
                    service.name.clone(),
                    source.source.clone(),
                    source.endpoints.to_string(),
                    age,
                    match troubles.is_empty() {
                        true => "-".to_owned(),
                        false => troubles.join("; "),
                    },
                ]);
            }
        }
        self.table(&table);
    }

    /// Whose keys are fetched.
    fn issuers(&mut self, issuers: &[IssuerStatus]) {
        let heads = ["ISSUER", "KEYS", "AGE", "LAST ERROR"];
        let mut table = Table::new(heads, [false, true, true, false]);
        for issuer in issuers {
            table.row([
                issuer.name.clone(),
                issuer.keys.to_string(),
                issuer.age_seconds.map_or("-".to_owned(), duration),
                issuer.error.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        self.table(&table);
    }

    /// Where gateways count together.
    fn stores(&mut self, stores: &[StoreStatus]) {
        let heads = ["STORE", "GATEWAYS", "ON FAILURE", "STATE"];
        let mut table = Table::new(heads, [false, true, false, false]);
        for store in stores {
            let state = match (store.up, &store.error) {
                (true, _) => "up".to_owned(),
                (false, None) => "away".to_owned(),
                (false, Some(error)) => format!("away: {error}"),
            };
            table.row([
                store.name.clone(),
                store.gateways.to_string(),
                store.on_failure.clone(),
                state,
            ]);
        }
        self.table(&table);
    }

    fn line(&mut self, name: &str, text: &str) {
        // writing to a string can't fail
        let _ = writeln!(self.text, "{name:<11} {text}");
    }

    fn table<const N: usize>(&mut self, table: &Table<N>) {
        if table.rows.is_empty() {
            return;
        }
        let head = self
            .colours
            .paint(Colour::Bold, &table.aligned(&table.heads));
        let _ = writeln!(self.text, "\n{head}");
        for row in &table.rows {
            let line = table.aligned(row);
            let line = match row.last().map(String::as_str) {
                Some(state) if !state.starts_with("up") && state != "STATE" => {
                    self.colours.paint(Colour::Red, &line)
                }
                _ => line,
            };
            let _ = writeln!(self.text, "{line}");
        }
    }
}

/// What an endpoint is, since when and why; in a panic it is asked nevertheless.
fn endpoint_state(endpoint: &EndpointStatus, service: &ServiceStatus) -> String {
    // a gateway of an earlier version says only whether it is up
    let word = match (endpoint.state.as_str(), endpoint.up) {
        ("", true) => "up",
        ("", false) => "down",
        (word, _) => word,
    };
    let mut state = word.to_owned();
    if !endpoint.up {
        if endpoint.breaker.as_deref() == Some("half_open") {
            state.push_str(" (half open)");
        }
        if let Some(since) = &endpoint.since {
            let _ = write!(state, " since {since}");
        }
        if let Some(reason) = &endpoint.reason {
            let _ = write!(state, ": {reason}");
        }
        if service.panicking {
            state.push_str("; asked nevertheless, since too few are up");
        }
    }
    match service.breaker.as_deref() {
        Some("open") => "the breaker of the service is open; ".to_owned() + &state,
        Some("half_open") => "the breaker of the service is half open; ".to_owned() + &state,
        _ => state,
    }
}

/// Columns as wide as what stands in them.
pub(super) struct Table<const N: usize> {
    heads: [String; N],
    /// Which columns are numbers, and end at one edge.
    numbers: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: [&str; N], numbers: [bool; N]) -> Self {
        Self {
            heads: heads.map(str::to_owned),
            numbers,
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Its lines.
    pub(super) fn text(&self) -> String {
        let lines = std::iter::once(&self.heads).chain(&self.rows);
        lines.map(|cells| self.aligned(cells) + "\n").collect()
    }

    fn aligned(&self, cells: &[String; N]) -> String {
        let mut line = String::new();
        for (column, (cell, number)) in cells.iter().zip(self.numbers).enumerate() {
            let width = self.width(column);
            let _ = if number {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn width(&self, column: usize) -> usize {
        let cells = std::iter::once(&self.heads).chain(&self.rows);
        let widths = cells
            .filter_map(|cells| cells.get(column))
            .map(|cell| cell.chars().count());
        widths.max().unwrap_or_default()
    }
}

/// The two largest units, such as `3h 7m`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut rest = seconds;
    let parts: Vec<String> = units
        .iter()
        .map(|(size, unit)| {
            let count = rest / size;
            rest %= size;
            (count, unit)
        })
        .skip_while(|(count, unit)| *count == 0 && **unit != 's')
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{IssuerStatus, LastReload, ListenerStatus, SourceStatus};
    use serde_json::json;

    fn sample() -> Status {
        let endpoint = |address: &str, in_flight, up| EndpointStatus {
            address: address.into(),
            weight: 1,
            in_flight,
            up,
            state: if up { "up" } else { "ejected" }.into(),
            reason: Some("5 failures in a row".into()),
            since: Some("2026-11-20T22:04:00.000Z".into()),
            breaker: None,
            connections: None,
        };
        Status {
            version: "0.1.0".into(),
            pid: 4711,
            started_at: "2026-11-20T18:58:00.000Z".into(),
            uptime_seconds: 11_220,
            generation: 7,
            last_reload: Some(LastReload {
                at: "2026-11-20T20:00:00.000Z".into(),
                success: true,
                error: None,
                duration_ms: 12,
                warnings: vec!["warning: service `old` is not used".into()],
            }),
            listeners: vec![ListenerStatus {
                name: "public".into(),
                addresses: vec!["0.0.0.0:8443".into(), "[::]:8443".into()],
                protocols: vec!["h1".into(), "h2".into()],
                connections: 12,
            }],
            services: vec![ServiceStatus {
                name: "orders".into(),
                breaker: None,
                endpoints: vec![
                    endpoint("10.0.0.1:8080", 103, true),
                    endpoint("10.0.0.12:8080", 0, false),
                ],
                sources: vec![SourceStatus {
                    source: "orders.internal:8080".into(),
                    endpoints: 2,
                    refused: vec!["127.0.0.1:8080: loopback".into()],
                    age_seconds: Some(75),
                    error: Some("A: no answer in time".into()),
                }],
                ..Default::default()
            }],
            issuers: vec![IssuerStatus {
                name: "idp".into(),
                keys: 3,
                age_seconds: Some(320),
                error: Some("keys: no answer in time".into()),
            }],
            stores: vec![StoreStatus {
                name: "shared".into(),
                up: false,
                on_failure: "local_share".into(),
                gateways: 3,
                error: Some("it does not answer in time".into()),
            }],
            restart_required: vec!["threads".into()],
            ..Default::default()
        }
    }

    fn answer(status: u16, body: serde_json::Value) -> Result<Answer, NoAnswer> {
        let body = serde_json::to_vec(&body).unwrap();
        Ok(Answer { status, body })
    }

    #[test]
    fn a_status_is_a_page_that_people_can_read() {
        let expected = "\
northgate   0.1.0, pid 4711, up 3h 7m, ready
generation  7, reloaded 2026-11-20T20:00:00.000Z in 12 ms
            warning: service `old` is not used
            restart required: threads

LISTENER  ADDRESS                 PROTOCOLS  CONNECTIONS
public    0.0.0.0:8443 [::]:8443  h1 h2               12

SERVICE  ENDPOINT        WEIGHT  IN FLIGHT  STATE
orders   10.0.0.1:8080        1        103  up
         10.0.0.12:8080       1          0  ejected since 2026-11-20T22:04:00.000Z: 5 failures in a row

SERVICE  SOURCE                ENDPOINTS     AGE  LAST ERROR
orders   orders.internal:8080          2  1m 15s  A: no answer in time; refused 127.0.0.1:8080: loopback

ISSUER  KEYS     AGE  LAST ERROR
idp        3  5m 20s  keys: no answer in time

STORE   GATEWAYS  ON FAILURE   STATE
shared         3  local_share  away: it does not answer in time
";
        let outcome = status_outcome(answer(200, json!(sample())), Format::Text, Colours(false));
        assert_eq!(outcome.stdout, expected);
        assert_eq!(outcome.code, 0);
    }

    #[test]
    fn an_include_that_is_kept_says_why() {
        let mut status = sample();
        status.kept = vec![crate::admin::KeptInclude {
            name: "shop".into(),
            since: "2026-11-20T20:00:00.000Z".into(),
            error: "error: x\n --> shop.yaml:1:2".into(),
        }];
        let page = Page::new(Colours(false)).of(&status);
        let expected = "\
kept        shop: its files have mistakes, and stay as they were at 2026-11-20T20:00:00.000Z
            error: x
             --> shop.yaml:1:2
";
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn work_that_was_started_again_says_why() {
        let mut status = sample();
        status.restarted = vec![crate::admin::RestartedStatus {
            task: "health checks of shop".into(),
            restarts: 3,
            last_at: "2026-11-20T20:00:00.000Z".into(),
            reason: "it panicked: a defect".into(),
        }];
        let page = Page::new(Colours(false)).of(&status);
        let expected = "\
restarted   health checks of shop: started again 3 times, last after 2026-11-20T20:00:00.000Z
            it panicked: a defect
";
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let plain = Page::new(Colours(false)).of(&sample());
        let mut coloured = Page::new(Colours(true)).of(&sample());
        assert_ne!(plain, coloured);
        for colour in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            coloured = coloured.replace(colour, "");
        }
        assert_eq!(plain, coloured);
    }

    #[test]
    fn a_refused_reload_and_what_is_not_ready_are_seen() {
        let mut status = sample();
        status.not_ready = vec!["listeners are not bound".into()];
        status.last_reload = Some(LastReload {
            error: Some("error: x\n --> a.yaml:1:2".into()),
            ..Default::default()
        });
        let page = Page::new(Colours(false)).of(&status);
        assert!(
            page.contains("not ready: listeners are not bound"),
            "{page}"
        );
        assert!(
            page.contains("reload refused") && page.contains("\n             --> a.yaml:1:2\n"),
            "{page}"
        );
    }

    #[test]
    fn json_is_passed_on_as_it_is() {
        let outcome = status_outcome(answer(200, json!({"new": 1})), Format::Json, Colours(true));
        assert_eq!(outcome.stdout, "{\"new\":1}\n");
    }

    #[test]
    fn an_accepted_reload_names_what_serves_and_what_it_warns_of() {
        let report =
            json!({"generation": 8, "warnings": ["warning: y"], "restart_required": ["threads"]});
        let outcome = reload_outcome(answer(200, report), Format::Text);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.code),
            ("generation 8 serves\n", 0)
        );
        assert_eq!(outcome.stderr, "warning: y\nrestart required: threads\n");
    }

    #[test]
    fn a_refused_reload_prints_the_diagnostics_and_ends_with_78() {
        let failure = json!({"status": 422, "diagnostics": [], "text": "error: unknown field\n"});
        let outcome = reload_outcome(answer(422, failure.clone()), Format::Text);
        assert!(
            outcome.stderr.starts_with("error: unknown field\n"),
            "{}",
            outcome.stderr
        );
        assert_eq!((outcome.code, outcome.stdout.as_str()), (78, ""));
        assert_eq!(reload_outcome(answer(422, failure), Format::Json).code, 78);
    }

    #[test]
    fn nobody_there_and_other_answers_end_with_1() {
        let nobody = NoAnswer {
            error: ClientError::Nobody(Vec::new()),
            note: Some(unread_note(
                Path::new("gone.yaml"),
                &std::io::ErrorKind::NotFound.into(),
            )),
        };
        let outcome = reload_outcome(Err(nobody), Format::Text);
        assert_eq!(outcome.code, 1);
        assert!(
            outcome.stderr.contains("gone.yaml can't be read")
                && outcome.stderr.contains("--admin"),
            "{}",
            outcome.stderr
        );
        let problem = json!({"title": "Read-only over TCP", "detail": "use the socket"});
        let outcome = reload_outcome(answer(403, problem), Format::Text);
        assert_eq!(
            outcome.stderr,
            "northgate: Read-only over TCP (403): use the socket\n"
        );
        let other = status_outcome(answer(200, json!([])), Format::Text, Colours(false));
        assert_eq!(other.code, 1);
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h 0m"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn what_is_named_is_asked_before_what_is_configured() {
        let named = AdminAddress::Unix("/a".into());
        let configured = vec![AdminAddress::Unix("/b".into())];
        assert_eq!(places(Some(&named), configured.clone()), [named]);
        assert_eq!(places(None, configured.clone()), configured);
        assert!(!places(None, Vec::new()).is_empty());
    }
}
