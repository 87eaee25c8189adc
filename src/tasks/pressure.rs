//! Looks at what the process has in hand, ten times a second, and says when it lets go of something else than before.

use super::jobs::Job;
use crate::edge::EdgeControl;
use crate::limit::overload::{Level, Overload, Resident, Seen};
use crate::observe::memory;
use crate::units::ByteSize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How often it looks. Memory of the size of a machine is not filled in less.
const PERIOD: Duration = Duration::from_millis(100);

/// How much memory there could be is asked for once in so many looks: it seldom changes.
const LOOKS: u32 = 100;

/// Of the memory that there may be: from here on no connection is kept, until it is below the other.
const SHORT_PERCENT: u128 = 90;
const ENOUGH_PERCENT: u128 = 85;

/// See the module.
pub fn job(overload: Arc<Overload>, edge: EdgeControl) -> Job {
    Job::new("what the process has in hand", move || {
        run(overload.clone(), edge.clone())
    })
}

async fn run(overload: Arc<Overload>, edge: EdgeControl) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut available = None;
    for look in (0..LOOKS).cycle() {
        ticks.tick().await;
        if look == 0 {
            available = memory::available_bytes();
        }
        let resident = memory::resident_bytes().zip(available);
        let resident = resident.map(|(bytes, available)| Resident { bytes, available });
        if let Some(level) = overload.sample(Instant::now(), resident) {
            tell(level, overload.seen());
        }
        shed(&edge, overload.seen());
    }
}

/// Has connections end, or not any more. The edge remembers it: this task begins anew with each configuration.
fn shed(edge: &EdgeControl, seen: Seen) {
    let was_short = edge.is_short();
    match (was_short, is_short(seen, was_short)) {
        (false, true) => {
            edge.set_short(true);
            tracing::warn!("memory is short: no connection is kept");
        }
        (true, false) => {
            edge.set_short(false);
            tracing::info!("memory is not short any more: connections are kept");
        }
        _ => {}
    }
}

/// Whether kept connections take memory that requests need (security requirement 3).
fn is_short(seen: Seen, was_short: bool) -> bool {
    let mark = match was_short {
        true => ENOUGH_PERCENT,
        false => SHORT_PERCENT,
    };
    let used = u128::from(seen.memory_bytes) * 100;
    seen.memory_bytes_max > 0 && used >= u128::from(seen.memory_bytes_max) * mark
}

fn tell(level: Level, seen: Seen) {
    let Seen {
        in_flight,
        requests_max,
        memory_bytes,
        memory_bytes_max,
        ..
    } = seen;
    let mebibytes = |bytes: u64| ByteSize(bytes & !((1 << 20) - 1));
    let (memory, memory_max) = (mebibytes(memory_bytes), mebibytes(memory_bytes_max));
    let does = match level {
        Level::Nothing => {
            tracing::info!(in_flight, requests_max, %memory, %memory_max, "no overload any more");
            return;
        }
        Level::Copies => "requests are not copied",
        Level::Waiting => "nobody waits for a place any more",
        Level::Some => "a share of new requests is refused",
        Level::All => "new requests are refused",
    };
    tracing::warn!(in_flight, requests_max, %memory, %memory_max, "overload: {does}");
}
