//! What may be seen of what the process has in hand.

use super::text::{self, Kind, Text};
use crate::limit::overload::{Level, Overload};

pub(super) fn write(overload: &Overload, text: &mut Text) {
    let seen = overload.seen();
    let mut gauge = |name: &str, help: &str, value: f64| {
        text.family(name, Kind::Gauge, help);
        text.sample(name, "", value);
    };
    let name = "northgate_requests_in_flight";
    let help = "Requests in flight, WebSockets and streams among them.";
    gauge(name, help, f64::from(seen.in_flight));
    let name = "northgate_requests_in_flight_limit";
    let help = "Requests that may be in flight.";
    gauge(name, help, f64::from(seen.requests_max));
    let name = "northgate_memory_bytes";
    let help = "Memory of the process, as it was last sampled.";
    gauge(name, help, seen.memory_bytes as f64);
    let name = "northgate_memory_limit_bytes";
    let help = "Memory that the process may have; 0 where the system does not tell.";
    gauge(name, help, seen.memory_bytes_max as f64);
    let name = "northgate_overload_refused_share";
    let help = "The part of new requests that is refused for overload, from 0 to 1.";
    gauge(name, help, f64::from(seen.refused_share) / 1e6);
    let name = "northgate_overload_state";
    let help = "What is left undone for overload: 1 for the state that holds, 0 for the others.";
    text.family(name, Kind::Gauge, help);
    for level in Level::ALL {
        let labels = text::labels(&[("state", level.as_str())]);
        text.sample(name, &labels, u8::from(*level == seen.level));
    }
}
