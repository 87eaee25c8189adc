//! What stores are asked: a script for each question. Their words are in `scripts/*.lua`.

use crate::limit::lease;
use crate::observe::metrics::StoreError;
use std::sync::LazyLock;
use std::time::Duration;

/// A script as the server knows it: by the digest of its text.
pub(super) struct Script {
    pub text: &'static str,
    pub digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let digest = redis::Script::new(text).get_hash().to_owned();
        Self { text, digest }
    }
}

static TAKE_WINDOW: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/take_window.lua")));
static TAKE_BUCKET: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/take_bucket.lua")));
static BACK_WINDOW: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/give_back_window.lua")));
static BACK_BUCKET: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/give_back_bucket.lua")));
static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/forget.lua")));
static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/beat.lua")));

static TAKE_QUOTA: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/take_quota.lua")));
static GRANT_QUOTA: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/grant_quota.lua")));

/// All of them.
pub(super) fn all() -> [&'static Script; 8] {
    [
        &TAKE_QUOTA,
        &GRANT_QUOTA,
        &TAKE_WINDOW,
        &TAKE_BUCKET,
        &BACK_WINDOW,
        &BACK_BUCKET,
        &BEAT,
        &FORGET,
    ]
}

/// One question to a store.
pub(super) struct Question {
    pub script: &'static Script,
    pub key: Box<[u8]>,
    pub arguments: Vec<u64>,
    /// Behind the key, where it is not a number.
    pub who: Option<Box<str>>,
    /// Whether it is only answered as long as somebody waits for that, which then stands behind the arguments.
    pub timed: bool,
}

/// How a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Window {
        window: Duration,
    },
    /// `units` come back in each `window`.
    Bucket {
        units: u64,
        window: Duration,
    },
}

impl Count {
    fn window(self) -> u64 {
        let (Self::Window { window } | Self::Bucket { window, .. }) = self;
        micros(window)
    }
}

/// What is taken from a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    pub count: Count,
    /// The limit, or the burst.
    pub most: u64,
    /// What has been let through already, and counts whatever is left.
    pub charge: u64,
    /// What is needed now.
    pub demand: u64,
    /// What is wanted ahead, as far as that is not more than this part of what is left: one in `share`.
    pub want: u64,
    pub share: u64,
    /// All of the demand or nothing; and it is used at once, where what is leased may be used a part of the window later.
    pub whole: bool,
    /// Microseconds; none: the server's clock.
    pub now: Option<u64>,
}

/// What was taken, and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub granted: u64,
    pub room: u64,
    /// Until there is room for what was refused, or for more.
    pub after: Duration,
    /// When it was taken, as this store counts time.
    pub mark: u64,
}

impl Taken {
    pub(super) fn of(answer: &[i64]) -> Result<Self, StoreError> {
        let [granted, room, after, mark] = answer else {
            return Err(StoreError::Refused);
        };
        let number = |number: &i64| u64::try_from(*number).unwrap_or(0);
        Ok(Self {
            granted: number(granted),
            room: number(room),
            after: Duration::from_micros(number(after)),
            mark: number(mark),
        })
    }
}

pub(super) fn take(key: &[u8], taking: Taking) -> Question {
    let now = taking.now.unwrap_or(0);
    let (script, mut arguments): (&Script, Vec<u64>) = match taking.count {
        Count::Window { window } => {
            let parts = lease::PARTS + if taking.whole { 1 } else { 2 };
            let part = micros(lease::part(window));
            (&TAKE_WINDOW, vec![now, part, parts, taking.most])
        }
        Count::Bucket { units, .. } => {
            let window = taking.count.window();
            (&TAKE_BUCKET, vec![now, units, window, taking.most])
        }
    };
    arguments.extend([
        taking.charge,
        taking.demand,
        taking.want,
        taking.share.max(1),
        u64::from(taking.whole),
    ]);
    Question {
        script,
        key: key.into(),
        arguments,
        who: None,
        timed: true,
    }
}

pub(super) fn give_back(key: &[u8], count: Count, units: u64, mark: u64) -> Question {
    let (script, arguments): (&Script, Vec<u64>) = match count {
        Count::Window { .. } => (&BACK_WINDOW, vec![units, mark]),
        Count::Bucket { units: fill, .. } => {
            (&BACK_BUCKET, vec![0, fill, count.window(), units, mark])
        }
    };
    Question {
        script,
        key: key.into(),
        arguments,
        who: None,
        timed: false,
    }
}

/// What is taken from a quota of one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaTaking {
    /// What has been let through already, and counts whatever is left.
    pub charge: u64,
    /// What is needed now: all of it or nothing.
    pub demand: u64,
    pub limit: u64,
    /// How long the count is kept from now on.
    pub kept: Duration,
}

/// What was taken from a quota, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaTaken {
    /// What was needed is there.
    pub admitted: bool,
    pub room: u64,
    pub used: u64,
    /// What it was given beside its limit.
    pub given: u64,
}

impl QuotaTaken {
    pub(super) fn of(answer: &[i64], demand: u64) -> Result<Self, StoreError> {
        let &[granted, room, used, given] = answer else {
            return Err(StoreError::Refused);
        };
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Self {
            admitted: number(granted) == demand,
            room: number(room),
            used: number(used),
            given: number(given),
        })
    }
}

pub(super) fn take_quota(key: &[u8], taking: QuotaTaking) -> Question {
    Question {
        script: &TAKE_QUOTA,
        key: key.into(),
        arguments: vec![
            taking.charge,
            taking.demand,
            taking.limit,
            millis(taking.kept),
        ],
        who: None,
        timed: true,
    }
}

/// Gives back what was taken from a quota: its hash is as that of a window whose part has the number 0.
pub(super) fn give_back_quota(key: &[u8], units: u64) -> Question {
    Question {
        script: &BACK_WINDOW,
        key: key.into(),
        arguments: vec![units, 0],
        who: None,
        timed: false,
    }
}

pub(super) fn grant_quota(key: &[u8], amount: u64, kept: Duration) -> Question {
    Question {
        script: &GRANT_QUOTA,
        key: key.into(),
        arguments: vec![amount, millis(kept)],
        who: None,
        timed: false,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn forget(key: &[u8]) -> Question {
    Question {
        script: &FORGET,
        key: key.into(),
        arguments: Vec::new(),
        who: None,
        timed: false,
    }
}

/// Says that a gateway is there, for so long.
pub(super) fn beat(key: &[u8], who: &str, lasts: Duration) -> Question {
    Question {
        script: &BEAT,
        key: key.into(),
        arguments: vec![micros(lasts)],
        who: Some(who.into()),
        timed: false,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Counts beside a counter, where nobody looks, to see whether that is possible.
pub(super) fn probe(key: &[u8]) -> Question {
    let count = Count::Window {
        window: Duration::from_secs(1),
    };
    let taking = Taking {
        count,
        most: 0,
        charge: 1,
        demand: 0,
        want: 0,
        share: 1,
        whole: true,
        now: None,
    };
    take(&[key, b":probe"].concat(), taking)
}
