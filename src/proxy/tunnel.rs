//! A WebSocket: asked for where a route lets one be opened, granted by the endpoint, and then passed on as it is.
//!
//! Pingora passes bytes through only after a `101` that answers a request to change the protocol, and so does the edge;
//! what a client sends before that is content of the request, and is refused where it has none. From then on only five
//! things end it besides its two sides: silence in both directions, its age, the end of the listener, a message that is
//! too long, and the end of the credential that opened it. A client is told of these with status 1001 ("going away", RFC
//! 6455 §7.4.1), 1009 ("message too big") or 1008 ("policy violation"), where no frame is cut by that.

use super::context::RequestContext;
use crate::exchange::client::{self, Upgrade};
use crate::problem::{Kind, Problem};
use crate::protocol::websocket::{Frames, GOING_AWAY, POLICY, TOO_BIG};
use crate::snapshot::route::WebSocket;
use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_http::RequestHeader;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The deadline of one without any: so that it is looked at, and ends with its listener.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module.
pub struct Tunnel {
    settings: Arc<WebSocket>,
    /// When it was granted.
    opened: Option<Instant>,
    /// When the credential ends that opened it.
    closes: Option<Instant>,
    /// What the endpoint sends.
    frames: Frames,
    /// What the client sends.
    asked: Frames,
    /// A message was too long: it ends, and nothing more of that side is passed on.
    too_long: Option<Side>,
}

/// Who has sent a message that was too long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    /// `cut` if a part of its last frame has been passed on.
    Endpoint {
        cut: bool,
    },
}

/// What ended one that neither side did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Silence, age, the end of the listener, or a message that is too long.
    Deadline,
    Credential,
}

/// Lets a request for a WebSocket pass, or makes it one for nothing but its answer.
///
/// # Errors
/// A page of an origin that may not open one: the browser would send the user's cookies along, and CORS does not apply
/// (RFC 6455 §10.2).
pub fn admit(request: &mut RequestHeader, context: &mut RequestContext) -> Result<(), Problem> {
    if !context.upgrade {
        return Ok(());
    }
    let Some(settings) = &context.route.websocket else {
        context.upgrade = false;
        client::edit_fields(request, |fields| {
            client::remove_hop_by_hop_request(fields, Upgrade::Remove)
        })?;
        return Ok(());
    };
    let mut origins = request.headers.get_all(header::ORIGIN).iter();
    let (first, more) = (origins.next(), origins.next());
    let may = match (first, more) {
        // no page: browsers always name theirs
        (None, _) => true,
        (Some(origin), None) => settings.takes(origin, context.facts.as_ref()),
        (Some(_), Some(_)) => false,
    };
    match may {
        true => Ok(()),
        false => Err(Kind::WebSocketOrigin.into()),
    }
}

impl Tunnel {
    /// What a request opens that was let pass.
    pub fn of(context: &RequestContext, closes: Option<Instant>) -> Option<Self> {
        let settings = context.route.websocket.as_ref()?;
        context.upgrade.then(|| Self {
            settings: settings.clone(),
            opened: None,
            closes,
            frames: Frames::default(),
            asked: Frames::default(),
            too_long: None,
        })
    }

    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The endpoint has granted it.
    pub fn open(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// When it ends if nothing more is said.
    pub fn deadline(&self, now: Instant) -> Instant {
        let silent = self.settings.idle.map(|idle| now + idle);
        let old = self
            .opened
            .and_then(|opened| Some(opened + self.settings.max_age?));
        let far = now + FAR;
        let nearest = silent.unwrap_or(far).min(old.unwrap_or(far));
        self.closes.map_or(nearest, |closes| closes.min(nearest))
    }

    /// Whether the credential has ended that opened it.
    pub fn is_over(&self, now: Instant) -> bool {
        self.closes.is_some_and(|closes| closes <= now)
    }

    /// Whether there is a longest message.
    pub fn bounds_messages(&self) -> bool {
        self.settings.message.is_some()
    }

    /// Looks at what the client sends. Tells whether it ends by that: a message is too long.
    pub fn sent(&mut self, body: &mut Option<Bytes>) -> bool {
        let most = self.settings.message.unwrap_or(u64::MAX);
        let Some(bytes) = body else {
            return false;
        };
        if self.too_long == Some(Side::Client) {
            bytes.clear();
        } else if let Some(too_long) = self.asked.advance(bytes, most) {
            bytes.truncate(too_long.before);
            self.too_long.get_or_insert(Side::Client);
        } else {
            return false;
        }
        true
    }

    /// Looks at what the endpoint sends. At the end that was not its own, but for this reason, the client is told. Tells
    /// whether it ends because a message is too long.
    pub fn received(&mut self, body: &mut Option<Bytes>, end: bool, ended: Option<Ended>) -> bool {
        let most = self.settings.message.unwrap_or(u64::MAX);
        let mut ends = false;
        if let Some(bytes) = body {
            if matches!(self.too_long, Some(Side::Endpoint { .. })) {
                bytes.clear();
            } else if let Some(too_long) = self.frames.advance(bytes, most) {
                bytes.truncate(too_long.before);
                self.too_long = Some(Side::Endpoint {
                    cut: !too_long.whole,
                });
                ends = true;
            }
        }
        if let Some(ended) = ended.filter(|_| end && self.may_close()) {
            let word = match (self.too_long, ended) {
                (Some(_), _) => &TOO_BIG,
                (None, Ended::Credential) => &POLICY,
                (None, Ended::Deadline) => &GOING_AWAY,
            };
            let last = match body.take() {
                None => Bytes::from_static(word),
                Some(bytes) => [&bytes[..], word].concat().into(),
            };
            *body = Some(last);
        }
        ends
    }

    /// Whether a frame of ours may follow what the client has got.
    fn may_close(&self) -> bool {
        match self.too_long {
            Some(Side::Endpoint { cut }) => !cut,
            _ => self.frames.may_close(),
        }
    }
}

impl WebSocket {
    /// Whether a page of this origin may open one here.
    fn takes(&self, origin: &HeaderValue, facts: Option<&crate::exchange::Facts>) -> bool {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match &self.origins {
            Some(origins) => self.any || origins.iter().any(|known| known.covers(origin)),
            None => facts.is_some_and(|facts| is_same(origin, facts.host.as_str(), facts.port)),
        }
    }
}

/// Whether an origin is that of the host which was asked for. The scheme is not compared: TLS may end before the
/// gateway does.
fn is_same(origin: &str, host: &str, port: Option<u16>) -> bool {
    let usual = |port: &u16| !matches!(port, 80 | 443);
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    !host.is_empty()
        && authority.host().eq_ignore_ascii_case(host)
        && authority.port_u16().filter(usual) == port.filter(usual)
        && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_origin_is_told_by_host_and_port() {
        for (origin, host, port) in [
            ("https://app.test", "app.test", None),
            ("http://APP.test", "app.test", Some(80)),
            ("https://app.test", "app.test", Some(443)),
            ("http://app.test:8080", "app.test", Some(8080)),
            ("http://[::1]:8080", "[::1]", Some(8080)),
        ] {
            assert!(is_same(origin, host, port), "{origin} {host} {port:?}");
        }
        for (origin, host, port) in [
            ("https://evil.test", "app.test", None),
            ("https://app.test.evil.test", "app.test", None),
            ("http://app.test:8081", "app.test", Some(8080)),
            ("http://app.test", "app.test", Some(8080)),
            ("https://x@app.test", "app.test", None),
            ("null", "app.test", None),
            ("", "", None),
        ] {
            assert!(!is_same(origin, host, port), "{origin} {host} {port:?}");
        }
    }

    fn tunnel(idle: Option<u64>, max_age: Option<u64>) -> Tunnel {
        Tunnel {
            settings: Arc::new(WebSocket {
                origins: None,
                any: false,
                idle: idle.map(Duration::from_secs),
                max_age: max_age.map(Duration::from_secs),
                message: None,
            }),
            opened: None,
            closes: None,
            frames: Frames::default(),
            asked: Frames::default(),
            too_long: None,
        }
    }

    #[test]
    fn the_nearer_of_silence_and_age_ends_one() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut both = tunnel(Some(10), Some(25));
        both.open(start);
        assert_eq!(both.deadline(start), after(10));
        assert_eq!(both.deadline(after(20)), after(25));
        assert!(tunnel(None, None).deadline(start) > after(1_000_000));
        both.closes = Some(after(7));
        assert_eq!(both.deadline(start), after(7));
        assert!(!both.is_over(after(6)) && both.is_over(after(7)));
    }

    #[test]
    fn a_client_is_told_where_no_frame_is_cut() {
        let mut told = tunnel(None, None);
        let mut body = Some(Bytes::from_static(&[0x81, 1, b'x']));
        told.received(&mut body, true, Some(Ended::Deadline));
        assert_eq!(&body.unwrap()[..], [0x81, 1, b'x', 0x88, 2, 3, 0xe9]);
        let mut body = None;
        tunnel(None, None).received(&mut body, true, Some(Ended::Credential));
        assert_eq!(&body.unwrap()[..], [0x88, 2, 3, 0xf0]);
        for (bytes, ended) in [
            (&[0x81_u8, 2, b'x'][..], Some(Ended::Credential)),
            (&[0x88, 0], Some(Ended::Deadline)),
            (&[0x81, 0], None),
        ] {
            let mut body = Some(Bytes::from_static(bytes));
            tunnel(None, None).received(&mut body, true, ended);
            assert_eq!(&body.unwrap()[..], bytes);
        }
    }
}
