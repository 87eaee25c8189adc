//! A configuration as it is shown to operators: what is written, and the defaults that they would ask for.
//!
//! What is shown can be written into a file and means the same.

use super::Config;
use crate::units::{ByteSize, Count, Duration, Ratio};
use crate::upstream::Retries;
use crate::upstream::service::Timeouts;
use serde_json::{Map, Value, json};
use std::num::NonZeroU64;

/// The largest request body where nothing is written: 10 MiB (design 3.7).
pub const BODY_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// How long a stop waits for requests in flight where nothing is written.
pub const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// The most requests in flight where nothing is written.
pub const OVERLOAD_REQUESTS: u32 = 100_000;

/// The most connections of clients where nothing is written.
pub const OVERLOAD_CONNECTIONS: u64 = 100_000;

/// The most memory where nothing is written, of what the process could have: before the kernel ends it.
pub const OVERLOAD_MEMORY: Ratio = Ratio::from_percent(90);

/// Secrets masked, without what was left out, and with the defaults of what every gateway has.
pub fn effective(config: &Config) -> Value {
    let mut shown = serde_json::to_value(config).unwrap_or_default();
    drop_absent(&mut shown);
    if let Some(top) = shown.as_object_mut() {
        fill(top);
    }
    shown
}

/// Removes fields that hold nothing: `null` is not a value of the language.
fn drop_absent(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_absent);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_absent),
        _ => {}
    }
}

fn fill(top: &mut Map<String, Value>) {
    let text = |time: std::time::Duration| Value::String(Duration(time).to_string());
    set(top, "drain_timeout", text(DRAIN_TIMEOUT));
    set(top, "forwarded", json!("x_forwarded_for"));
    if let Some(overload) = section(top, "overload") {
        let requests = NonZeroU64::new(OVERLOAD_REQUESTS.into());
        let requests = requests.map(|count| Count(count).to_string());
        set(overload, "requests", json!(requests));
        set(overload, "memory", json!(OVERLOAD_MEMORY.to_string()));
        let connections = NonZeroU64::new(OVERLOAD_CONNECTIONS);
        let connections = connections.map(|count| Count(count).to_string());
        set(overload, "connections", json!(connections));
    }
    if let Some(defaults) = section(top, "defaults") {
        set(defaults, "host_header", json!("preserve"));
        let size = ByteSize(BODY_BYTES_MAX).to_string();
        set(defaults, "body_limit", json!(size));
        // `retries: off` is no map, and stays
        if let Some(retries) = section(defaults, "retries") {
            fill_retries(retries);
        }
        if let Some(timeouts) = section(defaults, "timeouts") {
            let times = Timeouts::DEFAULT;
            let known = [
                ("connect", times.connect),
                ("response_header", times.response_header),
                ("idle", times.idle),
                ("total", times.total),
            ];
            for (name, time) in known {
                set(timeouts, name, time.map_or(json!("off"), text));
            }
        }
    }
    for listener in entries(top, "listeners") {
        // `h2` is chosen by ALPN, and would be an error without TLS
        let protocols = match listener.contains_key("tls") {
            true => json!(["h1", "h2"]),
            false => json!(["h1"]),
        };
        set(listener, "protocols", protocols);
    }
    for service in entries(top, "services") {
        if !service.contains_key("split") {
            set(service, "balance", json!("least_request"));
        }
    }
}

fn fill_retries(retries: &mut Map<String, Value>) {
    let text = |time: std::time::Duration| Value::String(Duration(time).to_string());
    let known = Retries::default();
    set(retries, "attempts", json!(known.attempts));
    let on = json!(["connect_failure", "refused_stream", "reset"]);
    set(retries, "on", on);
    let pauses = json!({"base": text(known.backoff_base), "max": text(known.backoff_max)});
    set(retries, "backoff", pauses);
    let unbounded = retries.get("budget") == Some(&json!("off"));
    let budget = known.budget.ratio.map(|ratio| ratio.to_string());
    set(retries, "budget", json!(budget));
    if !unbounded {
        set(
            retries,
            "min_per_second",
            json!(known.budget.min_per_second),
        );
    }
    set(retries, "idempotency_key", json!("off"));
}

/// What is written stays.
fn set(map: &mut Map<String, Value>, key: &str, default: Value) {
    map.entry(key).or_insert(default);
}

fn section<'m>(map: &'m mut Map<String, Value>, key: &str) -> Option<&'m mut Map<String, Value>> {
    map.entry(key).or_insert_with(|| json!({})).as_object_mut()
}

/// The maps of a section of names.
fn entries<'m>(
    map: &'m mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'m mut Map<String, Value>> {
    let named = map.get_mut(key).and_then(Value::as_object_mut);
    named
        .into_iter()
        .flat_map(|named| named.values_mut())
        .filter_map(Value::as_object_mut)
}
