//! How much is let go of, from samples of what is in hand.
//!
//! Two things keep it from swinging. A [`Level`] is left only when the pressure has been clearly below its mark for
//! five seconds; and the share of requests that is refused for memory rises with the pressure at once, but falls by a bounded
//! slope: what has been let in takes memory later than it is let in, and memory comes back late.

use std::time::{Duration, Instant};

/// A whole, in the parts that shares are written in.
pub const PARTS: u32 = 1_000_000;

/// From here on copies of requests are not made.
const COPIES: u32 = 600_000;
/// From here on nobody begins to wait for a place.
const WAITING: u32 = 700_000;
/// From here on a share of new requests is refused, which is all of them at the limit. A steeper slope makes what is
/// refused for memory swing, since memory follows late.
pub const RAMP: u32 = 800_000;

/// How far below its mark the pressure has to be for a level to be left.
const GAP: u32 = 50_000;
/// And for how long.
const HOLD: Duration = Duration::from_secs(5);
/// From refusing all to refusing nobody.
const FALL: Duration = Duration::from_secs(10);

/// What is left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    #[default]
    Nothing,
    /// Copies of requests.
    Copies,
    /// Besides, nobody begins to wait for a place.
    Waiting,
    /// Besides, a share of the new requests is refused.
    Some,
    /// All new requests are refused.
    All,
}

impl Level {
    pub const ALL: &'static [Level] = &[
        Level::Nothing,
        Level::Copies,
        Level::Waiting,
        Level::Some,
        Level::All,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Nothing => "normal",
            Level::Copies => "no_copies",
            Level::Waiting => "no_waiting",
            Level::Some => "refusing_some",
            Level::All => "refusing_all",
        }
    }

    pub(super) fn at(pressure: u32) -> Self {
        match pressure {
            PARTS.. => Level::All,
            RAMP.. => Level::Some,
            WAITING.. => Level::Waiting,
            COPIES.. => Level::Copies,
            _ => Level::Nothing,
        }
    }
}

/// What is in hand, of each limit, in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub requests: u32,
    pub memory: u32,
    /// Whether anybody has been refused since the last one.
    pub refused: bool,
}

/// What follows for those who come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub level: Level,
    /// The share of new requests that is refused for memory.
    pub share: u32,
}

impl Standing {
    /// In one number; a share takes twenty bits.
    pub fn packed(self) -> u32 {
        self.share << 4 | u32::from(self.level as u8)
    }

    pub fn unpacked(packed: u32) -> Self {
        let level = Level::ALL.get((packed & 0xf) as usize);
        Self {
            level: level.copied().unwrap_or_default(),
            share: packed >> 4,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Controller {
    standing: Standing,
    last: Option<Instant>,
    /// Since when the pressure has been below the mark of this level.
    calm: Option<Instant>,
}

impl Controller {
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes in a sample.
    pub fn tick(&mut self, now: Instant, sample: Sample) -> Standing {
        let passed = self.last.replace(now);
        let passed = passed.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let share = refused_at(sample.memory);
        self.standing.share = share.max(self.standing.share.saturating_sub(fall(passed)));
        self.step(now, sample);
        self.standing
    }

    fn step(&mut self, now: Instant, sample: Sample) {
        let pressure = sample.requests.max(sample.memory);
        // what was over between two samples shows in who was refused
        let refuses = match sample.refused || self.standing.share > 0 {
            true => Level::Some,
            false => Level::Nothing,
        };
        let level = &mut self.standing.level;
        let reached = Level::at(pressure).max(refuses);
        let kept = Level::at(pressure.saturating_add(GAP)).max(refuses);
        if reached >= *level {
            *level = reached;
            self.calm = None;
        } else if kept >= *level {
            self.calm = None;
        } else if now.saturating_duration_since(*self.calm.get_or_insert(now)) >= HOLD {
            *level = kept;
            self.calm = None;
        }
    }
}

/// The share that is refused where so much is in hand.
pub fn refused_at(pressure: u32) -> u32 {
    let above = pressure.saturating_sub(RAMP);
    (above.saturating_mul(PARTS / (PARTS - RAMP))).min(PARTS)
}

/// By how much a share may fall in that time.
fn fall(passed: Duration) -> u32 {
    let parts = passed.as_millis() * u128::from(PARTS) / FALL.as_millis();
    u32::try_from(parts).unwrap_or(PARTS).min(PARTS)
}
