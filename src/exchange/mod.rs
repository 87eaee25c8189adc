//! What a policy sees of a request: canonical values, facts, captures; never a Pingora session.
//!
//! The same values feed matching, keys, templates, logs and what is sent on (design 1.1), and the same types are built
//! from a command line by `northgate explain`.

pub mod answer;
mod authority;
pub mod caller;
pub mod canonical;
pub mod client;
pub mod connection;
pub mod fact;
pub mod head_limits;
pub mod pace;
pub mod present;
pub mod template;
pub mod via;

pub use authority::{HostText, Scheme};

use crate::identity::signature::Body;
use crate::identity::{Identity, PlanNumber};
use crate::limit::overload::Level;
use connection::Connection;
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What a pattern cut out of a host or a path: names in the pattern's order, ranges into the text that was matched.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    pub names: Option<Arc<[Box<str>]>>,
    pub ranges: SmallVec<[Range<u32>; 4]>,
}

impl Captures {
    /// All parts of `text` that were captured, with their names.
    pub fn pairs<'s>(&'s self, text: &'s str) -> impl Iterator<Item = (&'s str, &'s str)> {
        let names = self.names.iter().flat_map(|names| names.iter());
        names.zip(&self.ranges).filter_map(|(name, range)| {
            let part = text.get(range.start as usize..range.end as usize)?;
            Some((&**name, part))
        })
    }

    /// The part of `text` captured as `name`.
    pub fn value<'t>(&self, name: &str, text: &'t str) -> Option<&'t str> {
        let names = self.names.as_deref()?;
        let at = names.iter().position(|known| &**known == name)?;
        let range = self.ranges.get(at)?;
        text.get(range.start as usize..range.end as usize)
    }
}

/// What is known of one request, each fact set once by one step, in the order in which they become known.
#[derive(Debug)]
pub struct Facts {
    pub connection: Arc<Connection>,
    /// UUIDv7, or what a trusted proxy sent.
    pub request_id: HeaderValue,
    /// The client: the peer, or the right-most untrusted hop behind a trusted one. None on a Unix socket.
    pub client_address: Option<IpAddr>,
    /// Whether the peer is one of `trusted_proxies`.
    pub peer_trusted: bool,
    pub scheme: Scheme,
    /// Lower case, without port and trailing dot; IPv6 in brackets.
    pub host: HostText,
    /// The port of the authority, where it is not the scheme's default.
    pub port: Option<u16>,
    pub host_captures: Captures,
    pub path_captures: Captures,
    /// The name of the route, once one is chosen.
    pub route: Option<Arc<str>>,
    /// Who calls, once a credential has been verified.
    pub identity: Option<Arc<Identity>>,
    /// The plan whose limits act on it.
    pub plan: Option<PlanNumber>,
    /// Fields that the endpoint gets because of who calls, in place of any of the same names; those without a value it
    /// does not get at all.
    pub granted: Vec<Granted>,
    /// What the credential says about the body, which is looked at while it passes.
    pub body: Body,
    /// Cookies that the client gets with whatever it is answered.
    pub set_cookies: Vec<HeaderValue>,
    /// When what is still open of this exchange ends, because the credential does.
    pub closes_at: Option<SystemTime>,
    /// What limits have said, for the fields that tell the client.
    pub limits: SmallVec<[Standing; 4]>,
    /// What the process leaves undone at the moment because it has too much in hand.
    pub overload: Level,
    /// What stores have counted, or did not.
    pub stores: StoreFacts,
    /// What quotas have counted for it.
    pub used: SmallVec<[Used; 1]>,
    /// What it holds, until it is over or nobody of the gateway has anything to do for it any more.
    pub held: SmallVec<[Arc<dyn Hold>; 1]>,
}

/// Whose a count of a quota is, and what counts: the same, or that on one route.
#[derive(Clone, Debug)]
pub struct QuotaKey {
    text: String,
    /// Where that ends which says whose it is.
    whose: usize,
}

impl QuotaKey {
    /// What is counted, of which the first part says whose it is.
    pub fn new(text: String, whose: usize) -> Self {
        Self { text, whose }
    }

    /// Whose amount it is.
    pub fn of(&self) -> &str {
        self.text.get(..self.whose).unwrap_or(&self.text)
    }

    /// What is counted.
    pub fn counted(&self) -> &str {
        &self.text
    }
}

/// What a quota has counted for a request.
#[derive(Clone, Debug)]
pub struct Used {
    /// The number of the policy.
    pub number: u32,
    pub key: QuotaKey,
    /// What was taken of it: nothing where it was refused, or given back.
    pub taken: u64,
    /// When, in seconds since the epoch.
    pub at: i64,
    /// Where gateways count together: what the store calls the count, and whether it knows of what was taken.
    pub stored: Option<(Box<[u8]>, bool)>,
}

/// What a request takes up while it is served, such as a place among those in flight. Dropping it gives it back, on
/// whatever way the request ends.
pub trait Hold: Debug + Send + Sync {
    /// Whether it wants to know how tries end.
    fn observes(&self) -> bool {
        false
    }

    /// Takes in how a try ended, and how long that took: to the head of the answer, or to its failure.
    fn observe(&self, _strain: Strain, _took: Duration) {}
}

/// What the end of a try says about how much its endpoint has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strain {
    /// As much as the time says that it took.
    Answered,
    /// Too much: it did not answer in time, or said so.
    Overloaded,
}

/// What a limit counts a request by, as hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitKey {
    /// Of whom: what is written for a key is found by it, on all routes.
    pub of: u64,
    /// What is counted.
    pub counted: u64,
}

/// Where a request stands with one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The policy's own.
    pub number: u32,
    pub key: LimitKey,
    pub remaining: u64,
    /// Seconds until more is left.
    pub after: u64,
    pub refused: bool,
    /// It is only tried out, and tells nobody.
    pub shadow: bool,
    /// What the request took, and the mark by which the limit finds that again.
    pub taken: u64,
    pub mark: u64,
}

/// What became of a request where gateways count together.
#[derive(Debug, Default)]
pub struct StoreFacts {
    /// By the number of a policy, what its store calls what it has counted.
    pub names: Vec<(u32, Box<[u8]>)>,
    /// What decided on it in place of a store that was away: `local_share`, `allow` or `deny`.
    pub instead: Option<&'static str>,
}

/// A field that comes with a verified credential, or does not come at all.
pub type Granted = (HeaderName, Option<HeaderValue>);

/// What a verified credential adds to the facts.
#[derive(Debug)]
pub struct Caller {
    identity: Option<Arc<Identity>>,
    plan: Option<PlanNumber>,
    granted: Vec<Granted>,
    body: Body,
    set_cookies: Vec<HeaderValue>,
    closes_at: Option<SystemTime>,
}

impl Facts {
    /// Who calls, as far as it is known by now.
    pub fn caller(&self) -> Caller {
        Caller {
            identity: self.identity.clone(),
            plan: self.plan,
            granted: self.granted.clone(),
            body: self.body.clone(),
            set_cookies: self.set_cookies.clone(),
            closes_at: self.closes_at,
        }
    }

    pub fn set_caller(&mut self, caller: Caller) {
        self.identity = caller.identity;
        self.plan = caller.plan;
        self.granted = caller.granted;
        self.body = caller.body;
        self.set_cookies = caller.set_cookies;
        self.closes_at = caller.closes_at;
    }
}

/// What matching, keys and templates read: a canonical request and its facts.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Its path is the canonical path, its query as received.
    pub request: &'a RequestHeader,
    pub facts: &'a Facts,
}

/// One request as a policy may act on it.
pub struct Exchange<'a> {
    /// The client's request, canonical. What is sent on is a copy, made after all policies have agreed.
    pub request: &'a RequestHeader,
    pub facts: &'a mut Facts,
}

impl Exchange<'_> {
    /// The same request, to be read.
    pub fn view(&self) -> View<'_> {
        View {
            request: self.request,
            facts: self.facts,
        }
    }
}
