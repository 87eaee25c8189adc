//! Looks at what the process has in hand, ten times a second, and says when it lets go of something else than before.

use super::jobs::Job;
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

/// See the module.
pub fn job(overload: Arc<Overload>) -> Job {
    Job::new(
        "what the process has in hand",
        move || run(overload.clone()),
    )
}

async fn run(overload: Arc<Overload>) {
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
    }
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
