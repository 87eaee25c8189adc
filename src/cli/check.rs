//! `northgate check`: loads and compiles a configuration as `run` would, and says what is wrong with it.

use super::{ConfigArgument, EXIT_CONFIG, Format};
use crate::admin::{Counted, KeyQuery, LimitStatus};
use crate::boot;
use crate::boot::configuration::{self, Refused};
use crate::config::model::Overload;
use crate::config::{OVERLOAD_CONNECTIONS, OVERLOAD_MEMORY, OVERLOAD_REQUESTS};
use crate::diagnostic::Counts;
use crate::policy::counting::SharedIn;
use crate::units::{MemoryBound, Spanned};
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
    let mut limits = Vec::new();
    let mut overload = None;
    let (diagnostics, sources, refused) = match configuration::check(path) {
        Ok(checked) => {
            for counted in [Counted::Limits, Counted::Quotas] {
                let query = KeyQuery::default();
                limits.extend(boot::limits::all(&checked.snapshot, counted, &query));
            }
            overload = checked.loaded.config.overload.as_ref().map(bounds);
            (checked.snapshot.warnings, checked.loaded.sources, false)
        }
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
                "overload": overload.as_ref().map(|(requests, memory, connections)| {
                    serde_json::json!({
                        "requests": requests,
                        "memory": memory.to_string(),
                        "connections": connections,
                    })
                }),
                "limits": limits.iter().map(memory).collect::<Vec<_>>(),
            });
            super::print(&format!("{report:#}\n"), code)
        }
        Format::Text => {
            super::complain(&crate::boot::rendered(&diagnostics, &sources));
            if failed {
                super::complain(&format!("{}: not valid\n", path.display()));
                ExitCode::from(code)
            } else {
                let mut text = String::new();
                if let Some((requests, memory, connections)) = &overload {
                    let line = format!(
                        "overload: at most {requests} requests in flight, {memory} of memory, {connections} connections\n"
                    );
                    text.push_str(&line);
                }
                for limit in &limits {
                    let (algorithm, keys) = (&limit.overview.algorithm, limit.overview.keys);
                    let most = super::limit::size(limit.overview.bytes_max);
                    let keys = if keys == 1 {
                        "1 key".to_owned()
                    } else {
                        format!("{keys} keys")
                    };
                    let together = limit
                        .overview
                        .store
                        .as_ref()
                        .map_or_else(String::new, together);
                    let policy = &limit.policy;
                    let line = format!("{policy}: {algorithm}, {keys}, at most {most}{together}\n");
                    text.push_str(&line);
                }
                super::print(&format!("{text}{}: valid\n", path.display()), code)
            }
        }
    }
}

/// What all that is in hand may take together.
fn bounds(overload: &Spanned<Overload>) -> (u64, MemoryBound, u64) {
    let connections = overload.connections.as_ref().map(|count| count.get());
    let requests = overload.requests.as_ref().map(|count| count.get());
    let memory = overload.memory.as_ref().map(|bound| **bound);
    (
        requests.unwrap_or(OVERLOAD_REQUESTS.into()),
        memory.unwrap_or(MemoryBound::Share(OVERLOAD_MEMORY)),
        connections.unwrap_or(OVERLOAD_CONNECTIONS),
    )
}

/// How much more than the limit gateways that count together may let through.
fn together(store: &SharedIn) -> String {
    let name = &store.name;
    match (store.exact, store.overshoot_besides) {
        (true, _) => format!(", exact in `{name}`"),
        (false, 0) => format!(
            ", in `{name}`: up to {} over for each gateway",
            store.overshoot_per_gateway
        ),
        (false, besides) => format!(
            ", in `{name}`: up to {} over for each gateway, and {besides}",
            store.overshoot_per_gateway
        ),
    }
}

/// What a limit takes.
fn memory(limit: &LimitStatus) -> serde_json::Value {
    serde_json::json!({
        "policy": limit.policy,
        "algorithm": limit.overview.algorithm,
        "keys": limit.overview.keys,
        "bytes_max": limit.overview.bytes_max,
        "store": limit.overview.store,
    })
}
