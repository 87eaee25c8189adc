//! `northgate explain`: what would happen to a request, and why. It runs the code that serves requests, on a request
//! that was typed.

use super::{ConfigArgument, EXIT_CONFIG, Format};
use crate::boot::configuration::{self, Refused};
use crate::exchange::connection::{Connection, Peer, Tls};
use crate::exchange::{Captures, Exchange, View};
use crate::issuers::keys::Published;
use crate::policy::chain::Stop;
use crate::policy::counting::Counting;
use crate::problem::{Kind, Problem};
use crate::proxy::context::RequestContext;
use crate::proxy::{intake, plan};
use crate::snapshot::upstream::Upstream;
use crate::snapshot::{Listener, Role, Snapshot, Target};
use crate::upstream::Service;
use futures::future::join_all;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, header};
use pingora_http::RequestHeader;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The method, such as GET.
    method: String,
    /// A URL, or a path; the host of a path comes from `-H "host: …"`.
    url: String,
    /// A header field, `name: value`. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// The listener that the request comes through; the first that routes by default.
    #[arg(long)]
    listener: Option<String>,
    /// The address that it comes from.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    from: IpAddr,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    crate::boot::install_crypto();
    let compiled = match configuration::check(&arguments.config.config) {
        Ok(compiled) => compiled,
        Err(Refused {
            diagnostics,
            sources,
            ..
        }) => {
            super::complain(&crate::boot::rendered(&diagnostics, &sources));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let snapshot = Arc::new(compiled.snapshot);
    match explanation(arguments, &snapshot) {
        Ok(explanation) => {
            let shown = match arguments.format {
                Format::Json => format!("{explanation:#}\n"),
                Format::Text => text(&explanation),
            };
            super::print(&shown, 0)
        }
        Err(message) => super::fail(2, message),
    }
}

/// Everything that is known of the request, as JSON; the text is made from it.
fn explanation(arguments: &Arguments, snapshot: &Arc<Snapshot>) -> Result<Value, String> {
    let listener = listener_for(arguments, snapshot)?;
    let mut request = request_of(arguments)?;
    let connection = connection_of(arguments, listener, server_name(arguments, &request));
    let mut context = RequestContext::new(snapshot.clone());
    let outcome = intake::understand(&mut request, connection, &mut context);
    let verdict = verdict(&request, &mut context, listener, &outcome);
    let routes = listener.role == Role::Routes;
    let nearest = match routes {
        true => nearest(snapshot, &request, &context),
        false => Vec::new(),
    };
    Ok(json!({
        "listener": &*listener.name,
        "request": canonical(&request, &context),
        "outcome": outcome_of(&request, &outcome, listener, &context),
        "verdict": verdict,
        "caller": caller(&context),
        "sent_on": sent_on(&request, &context, &outcome),
        "route": (outcome.is_ok() && routes).then(|| route_of(&context)),
        "nearest": nearest,
        "policies": policies(&request, &context),
    }))
}

fn listener_for<'s>(arguments: &Arguments, snapshot: &'s Snapshot) -> Result<&'s Listener, String> {
    let mut known: Vec<&Arc<Listener>> = snapshot.listeners.values().collect();
    known.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(name) = &arguments.listener {
        let found = known.iter().find(|listener| *listener.name == **name);
        return found.map(|listener| &***listener).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|listener| &*listener.name).collect();
            format!(
                "there is no listener `{name}`: there are {}",
                names.join(", ")
            )
        });
    }
    let https = arguments.url.starts_with("https://");
    let routing = || {
        known
            .iter()
            .filter(|listener| listener.role == Role::Routes)
    };
    let fitting = routing()
        .find(|listener| listener.facts.tls == https)
        .or_else(|| routing().next());
    let any = fitting.or(known.first());
    any.map(|listener| &***listener)
        .ok_or_else(|| "the configuration has no listener".to_owned())
}

/// The name that a client asks for in its handshake: the host of the URL, whatever it says in `Host` afterwards.
/// Addresses are not asked for (RFC 6066 §3).
fn server_name(arguments: &Arguments, request: &RequestHeader) -> Option<Box<str>> {
    let (authority, _) = split_url(&arguments.url).ok()?;
    let in_header = || request.headers.get(header::HOST)?.to_str().ok();
    let authority: Authority = authority.or_else(in_header)?.parse().ok()?;
    let host = authority.host();
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    (!is_address).then(|| host.to_ascii_lowercase().into())
}

fn request_of(arguments: &Arguments) -> Result<RequestHeader, String> {
    let (authority, target) = split_url(&arguments.url)?;
    let build = RequestHeader::build(arguments.method.as_str(), target.as_bytes(), None);
    let mut request = build
        .map_err(|error| format!("`{} {target}` is not a request: {error}", arguments.method))?;
    if let Some(authority) = authority {
        let value = HeaderValue::from_str(authority)
            .map_err(|error| format!("`{authority}` is not a host: {error}"))?;
        request
            .insert_header(header::HOST, value)
            .map_err(|error| error.to_string())?;
    }
    for field in &arguments.headers {
        let (name, value) = field
            .split_once(':')
            .ok_or_else(|| format!("`{field}` is not `name: value`"))?;
        let name: HeaderName = name
            .trim()
            .parse()
            .map_err(|_| format!("`{}` is not a header name", name.trim()))?;
        let value =
            HeaderValue::from_str(value.trim()).map_err(|error| format!("`{field}`: {error}"))?;
        let inserted = match name == header::HOST {
            true => request.insert_header(name, value),
            false => request.append_header(name, value).map(|_| ()),
        };
        inserted.map_err(|error| error.to_string())?;
    }
    if !request.headers.contains_key(header::HOST) {
        let local = HeaderValue::from_static("localhost");
        request
            .insert_header(header::HOST, local)
            .map_err(|error| error.to_string())?;
    }
    Ok(request)
}

/// The authority and the target of a URL; a path has no authority.
fn split_url(url: &str) -> Result<(Option<&str>, Cow<'_, str>), String> {
    if url.starts_with('/') || url == "*" {
        return Ok((None, url.into()));
    }
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| {
        format!("`{url}` is neither a path nor a URL: write `/…`, `http://…` or `https://…`")
    })?;
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let target = match target.starts_with('/') {
        true => target.into(),
        false => format!("/{target}").into(),
    };
    Ok((Some(authority), target))
}

fn connection_of(
    arguments: &Arguments,
    listener: &Listener,
    server_name: Option<Box<str>>,
) -> Arc<Connection> {
    let tls = listener.facts.tls.then_some(Tls {
        server_name,
        version: "TLSv1.3",
        client: None,
    });
    Arc::new(Connection::new(
        listener.facts.clone(),
        Peer::Ip(SocketAddr::new(arguments.from, 0)),
        None,
        tls,
    ))
}

fn canonical(request: &RequestHeader, context: &RequestContext) -> Value {
    let Some(facts) = context.facts.as_ref() else {
        return Value::Null;
    };
    let mut host = facts.host.as_str().to_owned();
    if let Some(port) = facts.port {
        host = format!("{host}:{port}");
    }
    json!({
        "method": request.method.as_str(),
        "scheme": facts.scheme.as_str(),
        "host": host,
        "path": request.uri.path(),
        "query": request.uri.query(),
        "client_address": facts.client_address,
        "peer_trusted": facts.peer_trusted,
        "captures": {
            "host": captures(&facts.host_captures, facts.host.as_str()),
            "path": captures(&facts.path_captures, request.uri.path()),
        },
    })
}

fn captures(captures: &Captures, text: &str) -> Value {
    let names = captures.names.iter().flat_map(|names| names.iter());
    let pairs = names.map(|name| (name.to_string(), captures.value(name, text).into()));
    Value::Object(pairs.collect())
}

fn outcome_of(
    request: &RequestHeader,
    outcome: &Result<(), Problem>,
    listener: &Listener,
    context: &RequestContext,
) -> Value {
    match (outcome, listener.role) {
        (Ok(()), Role::RedirectHttps { .. }) => json!({"answer": "308 to the same URL over TLS"}),
        (Ok(()), Role::Serve { .. }) => {
            json!({"answer": "this listener serves health or metrics, and routes nothing"})
        }
        (Ok(()), Role::Routes) => {
            let view = context.facts.as_ref().map(|facts| View { request, facts });
            json!({"target": target(&context.snapshot, &context.route.target, view)})
        }
        (Err(problem), _) => json!({
            "refused": problem.kind.status_code(),
            "code": problem.kind.code(),
            "title": problem.kind.title(),
            "detail": problem.detail,
        }),
    }
}

/// What the policies decide: they run as they would on a request, and count nothing.
fn verdict(
    request: &RequestHeader,
    context: &mut RequestContext,
    listener: &Listener,
    outcome: &Result<(), Problem>,
) -> Value {
    let routed = match outcome {
        Ok(()) => true,
        Err(problem) => matches!(problem.kind, Kind::RouteNone | Kind::RouteMethod),
    };
    let route = context.route.clone();
    let Some(facts) = context.facts.as_mut() else {
        return Value::Null;
    };
    if !routed || listener.role != Role::Routes {
        return Value::Null;
    }
    let mut exchange = Exchange { request, facts };
    let issuers: Vec<&Published> = context
        .snapshot
        .issuers
        .iter()
        .filter_map(|issuer| issuer.published())
        .collect();
    let decided = wait_for(async {
        let decided = route.chain.on_request(&mut exchange).await;
        if !lacks_keys(&decided) {
            return decided;
        }
        // a gateway that runs has them by now
        join_all(issuers.iter().map(|issuer| issuer.warm())).await;
        exchange.facts.held.clear();
        let again = route.chain.on_request(&mut exchange).await;
        why_without(again, &issuers)
    });
    match decided {
        // nobody else is in flight here
        Ok(()) | Err(Stop::Queue(_)) => json!({"decision": "allow"}),
        Err(Stop::Answer { answer, by }) => json!({
            "decision": "answer", "status": answer.status.as_u16(), "policy": &*by,
        }),
        Err(Stop::Problem { problem, by }) => json!({
            "decision": "refuse", "status": problem.kind.status_code(), "code": problem.kind.code(), "policy": &*by,
            "reason": problem.source,
        }),
    }
}

fn lacks_keys(decided: &Result<(), Stop>) -> bool {
    matches!(decided, Err(Stop::Problem { problem, .. }) if problem.kind == Kind::UnreadyKeys)
}

/// Adds what kept the keys of issuers from being fetched.
fn why_without(mut decided: Result<(), Stop>, issuers: &[&Published]) -> Result<(), Stop> {
    if lacks_keys(&decided)
        && let Err(Stop::Problem { problem, .. }) = &mut decided
    {
        let errors: Vec<String> = issuers
            .iter()
            .filter_map(|issuer| issuer.status().error)
            .collect();
        problem.source = (!errors.is_empty()).then(|| errors.join("; "));
    }
    decided
}

/// Passwords are verified on other threads, and issuers, authorisation servers and authorisers are asked over the network,
/// which is why this is a runtime. Nothing else of a gateway runs.
fn wait_for<T>(decision: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(decision),
        Err(_) => futures::executor::block_on(decision),
    }
}

/// Who calls, where a credential says so.
fn caller(context: &RequestContext) -> Value {
    let identity = context
        .facts
        .as_ref()
        .and_then(|facts| facts.identity.as_deref());
    identity.map_or(Value::Null, |identity| {
        json!({
            "method": identity.method, "credential": identity.credential.as_deref(),
            "consumer": identity.consumer.as_deref(), "plan": identity.plan.as_deref(),
            "groups": identity.groups.iter().map(|group| &**group).collect::<Vec<_>>(),
            "subject": identity.subject.as_deref(),
            "scopes": identity.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(),
        })
    })
}

/// The target that an endpoint gets, where that is another than the client's.
fn sent_on(
    request: &RequestHeader,
    context: &RequestContext,
    outcome: &Result<(), Problem>,
) -> Value {
    if outcome.is_err() {
        return Value::Null;
    }
    match plan::rewritten(&context.route, context, request) {
        Ok(target) => target.map_or(Value::Null, |target| target.to_string().into()),
        Err(problem) => problem.source.unwrap_or_default().into(),
    }
}

fn target(snapshot: &Snapshot, target: &Target, view: Option<View<'_>>) -> String {
    let shown = |service: &Service| {
        let set = service.set();
        let endpoints = set.endpoints().iter();
        let mut all: Vec<String> = endpoints
            .map(|endpoint| endpoint.name.to_string())
            .collect();
        // nobody is asked here, so what a name stands for is not known
        let mut discoveries = snapshot.discoveries.iter();
        let found = discoveries.find(|discovery| discovery.service.name == service.name);
        let sources = found.into_iter().flat_map(|discovery| discovery.status());
        all.extend(sources.map(|source| source.label.to_string()));
        format!("service {} ({})", service.name, all.join(", "))
    };
    match target {
        Target::Upstream(Upstream::Service(service)) => shown(service),
        Target::Upstream(Upstream::Split(split)) => {
            if let Some(service) = view.and_then(|view| split.arm_by_condition(view)) {
                return format!("split {}, {} by its `when`", split.name, shown(service));
            }
            let services: Vec<&str> = split.services().map(|service| &*service.name).collect();
            format!("split {} ({})", split.name, services.join(", "))
        }
        Target::Redirect { to, status } => {
            let location = view.and_then(|view| to.url(view));
            let to = location.map(|location| format!(" to {location}"));
            format!("redirect {}{}", status.as_u16(), to.unwrap_or_default())
        }
        Target::Respond(answer) => format!("respond {}", answer.status.as_u16()),
        Target::None => "nothing".to_owned(),
    }
}

fn route_of(context: &RequestContext) -> Value {
    json!({
        "name": &*context.route.name,
        "group": context.route.group.as_deref(),
        "matches": context.route.matches,
    })
}

/// The routes that came nearest and were not taken, each with what kept it from it.
fn nearest(snapshot: &Snapshot, request: &RequestHeader, context: &RequestContext) -> Vec<Value> {
    let Some(facts) = context.facts.as_ref() else {
        return Vec::new();
    };
    let explanation = snapshot.router.explain(View { request, facts });
    let others = explanation.others.into_iter().map(|other| {
        let name = snapshot.router.name(other.route).map_or("", |name| &**name);
        json!({"route": name, "pattern": other.pattern, "because": other.reasons.join("; ")})
    });
    others.collect()
}

/// The chain, with the limits of the caller's plan and no other, and with whether each `when` holds for this request and whoever sends it.
fn policies(request: &RequestHeader, context: &RequestContext) -> Vec<Value> {
    let view = context.view(request);
    let of_caller = view.and_then(|view| view.facts.plan);
    let all = context.route.chain.policies().iter();
    let all = all.filter(|policy| policy.plan.is_none() || policy.plan == of_caller);
    all.map(|policy| {
        let holds = view.map(|view| policy.acts_on(view));
        let quota = policy.hooks.counting.as_deref();
        let quota = quota.filter(|_| policy.kind == "quota" && holds != Some(false));
        json!({
            "policy": &*policy.place,
            "quota": quota.map(|quota| counts(quota, view)),
            "stage": policy.stage.name(),
            "mode": policy.mode.as_str(),
            "conditional": policy.when.is_some(),
            "acts": holds,
            "written": policy.source,
        })
    })
    .collect()
}

/// By which key a request counts, and how much that may use.
fn counts(quota: &dyn Counting, view: Option<View<'_>>) -> Value {
    let key = view.and_then(|view| quota.key_of(view));
    let route = view.and_then(|view| view.facts.route.as_deref());
    let route = route.filter(|_| quota.overview().per_route);
    let standing = quota.standing(key.as_deref(), route).ok();
    json!({
        "key": key,
        "limit": standing.as_ref().map(|standing| &standing.limit),
        "exempt": standing.as_ref().is_some_and(|standing| standing.exempt),
    })
}

/// The same as a line, with how an operator sees where that stands.
fn counting(policy: &str, quota: &Value) -> String {
    let of = |name: &str| quota[name].as_str();
    match (of("key"), of("limit")) {
        (Some(key), _) if quota["exempt"] == Value::Bool(true) => {
            format!("nothing: `{key}` is exempt")
        }
        (Some(key), Some(limit)) => format!(
            "for `{key}`, {limit} (`northgate quota show '{key}' --policy {policy}` says where it stands)"
        ),
        _ => "for the client's address: the request lacks what is counted by".to_owned(),
    }
}

fn text(explanation: &Value) -> String {
    let field = |pointer: &str| match explanation.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    };
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("{label:<10} {value}\n"));
        }
    };
    let query = field("/request/query");
    let query = if query.is_empty() {
        query
    } else {
        format!("?{query}")
    };
    line(
        "request",
        format!(
            "{} {}://{}{}{query}",
            field("/request/method"),
            field("/request/scheme"),
            field("/request/host"),
            field("/request/path"),
        ),
    );
    line("listener", field("/listener"));
    line("client", field("/request/client_address"));
    for (label, pointer) in [
        ("host has", "/request/captures/host"),
        ("path has", "/request/captures/path"),
    ] {
        let pairs = explanation.pointer(pointer).and_then(Value::as_object);
        let pairs = pairs
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name} = {value}"));
        line(label, pairs.collect::<Vec<_>>().join(", "));
    }
    line("route", field("/route/name"));
    for matched in explanation
        .pointer("/route/matches")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        line("  matches", matched.as_str().unwrap_or_default().to_owned());
    }
    let passes = !matches!(field("/verdict/decision").as_str(), "answer" | "refuse");
    if let Some(caller) = explanation["caller"].as_object() {
        let said = caller
            .iter()
            .filter(|(_, value)| !value.is_null() && *value != &json!([]));
        let said = said.map(|(name, value)| match value {
            Value::Array(values) => {
                let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                format!("{name} {}", values.join(" "))
            }
            _ => format!("{name} {}", value.as_str().unwrap_or_default()),
        });
        line("caller", said.collect::<Vec<_>>().join(", "));
    }
    if passes {
        line("sent on", field("/sent_on"));
    }
    if passes {
        line("target", field("/outcome/target"));
    }
    line("answer", field("/outcome/answer"));
    match field("/verdict/decision").as_str() {
        "answer" => line(
            "answered",
            format!(
                "{} by {}",
                field("/verdict/status"),
                field("/verdict/policy")
            ),
        ),
        "refuse" => {
            line(
                "denied",
                format!(
                    "{} by {} ({})",
                    field("/verdict/status"),
                    field("/verdict/policy"),
                    field("/verdict/code"),
                ),
            );
            line("  reason", field("/verdict/reason"));
        }
        _ => {}
    }
    if explanation.pointer("/outcome/refused").is_some() {
        line(
            "refused",
            format!(
                "{} {} ({})",
                field("/outcome/refused"),
                field("/outcome/title"),
                field("/outcome/code")
            ),
        );
        line("  detail", field("/outcome/detail"));
    }
    for policy in explanation["policies"].as_array().into_iter().flatten() {
        let part = |name: &str| policy[name].as_str().unwrap_or_default().to_owned();
        let mut notes = vec![part("stage")];
        if part("mode") == "shadow" {
            notes.push("shadow".to_owned());
        }
        if policy["conditional"] == Value::Bool(true) {
            notes.push(
                match policy["acts"].as_bool() {
                    Some(true) => "when: holds",
                    Some(false) => "when: does not hold",
                    None => "when",
                }
                .to_owned(),
            );
        }
        notes.push(part("written"));
        line(
            "policy",
            format!("{} ({})", part("policy"), notes.join(", ")),
        );
        if policy["quota"].is_object() {
            line("  counts", counting(&part("policy"), &policy["quota"]));
        }
    }
    for other in explanation["nearest"].as_array().into_iter().flatten() {
        let part = |name: &str| other[name].as_str().unwrap_or_default();
        line(
            "not",
            format!(
                "{} ({}): {}",
                part("route"),
                part("pattern"),
                part("because")
            ),
        );
    }
    out
}
