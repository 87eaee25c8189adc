//! What one client of a provider has in memory: sessions that were opened, and what became of them since their cookies
//! were set. All of it is bounded, and can be lost: the sessions themselves are the browsers'.

use super::super::flights::Flights;
use crate::identity::Identity;
use crate::identity::oidc::session::Session;
use crate::issuers::cache::Cache;
use crate::state::Kept;
use parking_lot::Mutex;
use quick_cache::Weighter;
use std::sync::Arc;
use std::time::Duration;

/// What [`Turn`]s may weigh, in bytes.
const TURNS_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What a turn costs besides its session.
const TURN_BYTES: u64 = 128;

/// A session whose cookie was opened.
pub struct Opened {
    pub session: Session,
    pub identity: Arc<Identity>,
}

/// What is known of a session beside what its cookie says.
#[derive(Clone, Default)]
pub struct Turn {
    /// Its tokens were renewed. Cookies from before are in the browser for a while, and in requests under way.
    pub newer: Option<Arc<Opened>>,
    /// It is over, whatever its cookie says, as it was until it had been renewed this often. Another gateway may have
    /// renewed it since.
    ended: Option<u32>,
    /// The provider could not be asked; until then, in seconds since the epoch, nobody asks again.
    pub paused: u64,
}

impl Turn {
    /// Whether a session that was renewed so often is over.
    pub fn is_over(&self, serial: u32) -> bool {
        self.ended.is_some_and(|last| serial <= last)
    }
}

/// What became of a try to renew tokens.
#[derive(Clone)]
pub enum Renewal {
    Renewed(Arc<Opened>),
    /// The provider takes the session for over.
    Ended,
    /// It can't be asked now.
    Failed,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<[u8; 16], Turn> for Bytes {
    fn weight(&self, _: &[u8; 16], turn: &Turn) -> u64 {
        let bytes = |opened: &Arc<Opened>| opened.session.id_token.len() as u64 * 4 + 1024;
        TURN_BYTES + turn.newer.as_ref().map_or(0, bytes)
    }
}

/// It outlives snapshots. Found by the client, the secrets and the issuer.
pub struct Known {
    pub opened: Cache<Arc<Opened>>,
    turns: quick_cache::sync::Cache<[u8; 16], Turn, Bytes>,
    /// Who changes a turn, which is rare: one that a logout has ended is not made good by a renewal under way.
    changes: Mutex<()>,
    /// By the session, and how often it was renewed.
    pub renewals: Arc<Flights<([u8; 16], u32), Renewal>>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            opened: Cache::default(),
            turns: quick_cache::sync::Cache::with_weighter(4096, TURNS_BYTES_MAX, Bytes),
            changes: Mutex::default(),
            renewals: Arc::default(),
        }
    }
}

impl Kept for Known {
    fn export(&self) -> Option<serde_json::Value> {
        // tokens are not written anywhere
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Known {
    pub fn turn(&self, id: &[u8; 16]) -> Option<Turn> {
        self.turns.get(id)
    }

    /// Whether it counts: a session that is over stays so.
    pub fn renewed(&self, opened: &Arc<Opened>) -> bool {
        self.follow(opened, 0)
    }

    /// It is over for whoever has a cookie from before one more renewal.
    pub fn refused(&self, session: &Session) {
        self.end(session.id, session.serial);
    }

    /// It is over for good.
    pub fn logged_out(&self, session: &Session) {
        self.end(session.id, u32::MAX);
    }

    /// Nobody asks for this one again for a while. What was tried is the newest there is.
    pub fn paused(&self, opened: &Arc<Opened>, until: Duration) {
        self.follow(opened, until.as_secs());
    }

    fn follow(&self, opened: &Arc<Opened>, paused: u64) -> bool {
        let _alone = self.changes.lock();
        let turn = self.turn(&opened.session.id).unwrap_or_default();
        if turn.is_over(opened.session.serial) {
            return false;
        }
        let turn = Turn {
            newer: Some(opened.clone()),
            paused,
            ..turn
        };
        self.turns.insert(opened.session.id, turn);
        true
    }

    fn end(&self, id: [u8; 16], last: u32) {
        let _alone = self.changes.lock();
        let turn = self.turn(&id).unwrap_or_default();
        let turn = Turn {
            newer: turn.newer.filter(|newer| newer.session.serial > last),
            ended: turn.ended.max(Some(last)),
            ..turn
        };
        self.turns.insert(id, turn);
    }
}
