//! What a method of `auth` is.

use super::guessing::{Guessed, Tried};
use crate::exchange::answer::Answer;
use crate::exchange::{Granted, View};
use crate::identity::signature::Body;
use crate::identity::{Identity, Reason};
use crate::policy::{Knowledge, OwnPath};
use crate::problem::Problem;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use std::fmt;
use std::sync::Arc;

/// Where in a request a credential stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// `Authorization`, with this scheme, in lower case.
    Authorization(&'static str),
    Header(HeaderName),
    Query(Arc<str>),
    Cookie(Arc<str>),
    /// The connection itself.
    ClientCertificate,
    /// Whatever somebody else makes of the request.
    Request,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Carrier::Authorization(scheme) => write!(f, "`Authorization: {scheme}`"),
            Carrier::Header(name) => write!(f, "the header `{name}`"),
            Carrier::Query(name) => write!(f, "the query parameter `{name}`"),
            Carrier::Cookie(name) => write!(f, "the cookie `{name}`"),
            Carrier::ClientCertificate => f.write_str("the client certificate"),
            Carrier::Request => f.write_str("the whole request"),
        }
    }
}

/// A credential that is good.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub identity: Arc<Identity>,
    /// Fields that the endpoint gets, in place of any of the same names; without a value, it does not get them at all.
    pub headers: Vec<Granted>,
    /// What the credential says about the body.
    pub body: Body,
    /// Cookies that the client gets, as where its session was renewed.
    pub set_cookies: Vec<HeaderValue>,
}

impl From<Arc<Identity>> for Accepted {
    fn from(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            headers: Vec::new(),
            body: Body::Unsaid,
            set_cookies: Vec::new(),
        }
    }
}

/// Why a request does not go on.
#[derive(Debug)]
pub enum Refusal {
    /// The credential is not accepted: 401.
    Credential(Reason),
    /// It could not be judged, such as while the keys are not there yet; or it may be good, and the caller is not let in.
    Problem(Box<Problem>),
    /// The client gets this answer, such as a redirect to where it can log in.
    Answer(Box<Answer>),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::Credential(reason)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal::Problem(Box::new(problem))
    }
}

/// A judgement, or the promise of one. Most are made at once, and then nothing is allocated for it.
pub enum Judgement<'a> {
    Now(Result<Accepted, Refusal>),
    Later(BoxFuture<'a, Result<Accepted, Refusal>>),
}

/// One way of proving who calls, with its settings.
pub trait Method: Send + Sync {
    /// Where its credential may stand. Two methods of one policy must not share a place.
    fn carriers(&self) -> &[Carrier];

    /// Whether the request has something at one of those places, good or bad.
    fn is_presented(&self, view: View<'_>) -> bool;

    /// Judges what is presented. A promise may be dropped and asked for again: nothing must happen before it is polled.
    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a>;

    /// Whether the request is for the method itself, whatever credentials it has: the end of a login in a browser.
    fn owns(&self, _: View<'_>) -> bool {
        false
    }

    /// What a request without a credential is answered in place of 401, such as that a browser is to log in.
    fn invite(&self, _: View<'_>) -> Option<Refusal> {
        None
    }

    /// The paths that are its own, for which the routes that it guards have to be the ones that match.
    fn paths(&self) -> &[OwnPath] {
        &[]
    }

    /// Whether the request has something that an endpoint must not get.
    fn is_stripped(&self, view: View<'_>) -> bool {
        self.is_presented(view)
    }

    /// Takes the credential out of what an endpoint gets.
    fn strip(&self, upstream: &mut RequestHeader);

    /// What a client is told to send, and what was wrong with what it sent: a value of `WWW-Authenticate` (RFC 9110
    /// §11.6.1). None where there is no such thing, as with client certificates.
    fn challenge(&self, refused: Reason) -> Option<HeaderValue>;

    /// What its credentials may say: anything, unless it says otherwise. Whoever demands more of a caller would let
    /// nobody pass.
    fn finds(&self) -> Knowledge {
        Knowledge {
            scopes: true,
            claims: true,
        }
    }

    /// Whether any credential that it takes ends by itself.
    fn expires(&self) -> bool {
        true
    }

    /// Whether its credential can be guessed, so that wrong ones are counted.
    fn guessed(&self) -> Guessed {
        Guessed::Never
    }

    /// What a request tries, where that can be guessed and may be right.
    fn tried<'v>(&self, _: View<'v>) -> Option<Tried<'v>> {
        None
    }

    /// Whether it has the say only when no other credential is present.
    fn is_last(&self) -> bool {
        false
    }

    /// Whether it finds something to judge in every request.
    fn is_always_presented(&self) -> bool {
        false
    }
}
