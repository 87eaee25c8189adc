//! What is spoken with the endpoints of a service, through what, and which of their connections may be shared.

use super::dial::Steps;
use super::proxy_protocol::Version;
use crate::tls::{Trust, Verify};
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, Scheme};
use std::sync::Arc;
use std::time::Duration;

/// Requests at a time on one HTTP/2 connection; another one is made for more. Servers allow 100 by convention (RFC
/// 9113 §6.5.2 recommends no fewer).
const STREAMS_MAX: usize = 100;

/// How often a connection of HTTP/2 is asked whether it lives. Servers of gRPC send clients away that ask more often
/// than every five minutes (`GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS`): `ENHANCE_YOUR_CALM`, "too many
/// pings". What TCP can notice is noticed sooner.
const PING: Duration = Duration::from_secs(330);

/// When TCP looks after a silent connection, and gives it up: within a minute, since a stream may be silent for hours
/// and must not outlive an endpoint that lost its power.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// Which version of HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What the endpoint chooses under TLS (ALPN, RFC 7301); HTTP/1.1 in clear.
    #[default]
    Auto,
    Http1,
    /// HTTP/2 under TLS, and nothing else.
    Http2,
    /// HTTP/2 in clear, known beforehand (RFC 9113 §3.3).
    Http2Clear,
}

/// See the module.
#[derive(Clone)]
pub struct Wire {
    pub protocol: Protocol,
    pub trust: Option<Arc<Trust>>,
    /// Tells endpoints who the client is, at the beginning of each connection.
    pub proxy_protocol: Option<Version>,
    /// Only connections of one key are shared: Pingora's own hash of a peer leaves out authorities and protocols.
    key: u64,
}

impl Wire {
    pub fn new(service: &str, protocol: Protocol, trust: Option<Trust>) -> Self {
        let mut digest = blake3::Hasher::new();
        digest.update(&(service.len() as u64).to_le_bytes());
        digest.update(service.as_bytes());
        digest.update(&[protocol as u8, u8::from(trust.is_some())]);
        if let Some(trust) = &trust {
            trust.digest_into(&mut digest);
        }
        let [a, b, c, d, e, f, g, h, ..] = *digest.finalize().as_bytes();
        Self {
            protocol,
            trust: trust.map(Arc::new),
            proxy_protocol: None,
            key: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    /// The same, with a header of the PROXY protocol; its connections are no others'.
    pub fn introducing(mut self, version: Option<Version>) -> Self {
        self.proxy_protocol = version;
        self.key ^= match version {
            None => 0,
            Some(Version::V1) => 0x5052_4f58_5920_7631,
            Some(Version::V2) => 0x5052_4f58_5920_7632,
        };
        self
    }

    /// Whether HTTP/2 may be spoken, so that a connection may not be the exchange's own.
    pub fn may_multiplex(&self) -> bool {
        match self.protocol {
            Protocol::Auto => self.trust.is_some(),
            Protocol::Http1 => false,
            Protocol::Http2 | Protocol::Http2Clear => true,
        }
    }

    /// These, as far as they are taken here: without TLS there is no handshake to wait for.
    pub(super) fn steps(&self, steps: Steps) -> Steps {
        match self.trust {
            Some(_) => steps,
            None => Steps {
                tls: steps.connect,
                ..steps
            },
        }
    }

    /// Whether an answer over HTTP/1 is not what was asked for.
    pub fn must_multiplex(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 | Protocol::Http2Clear)
    }

    /// Makes a peer one that is spoken with so.
    pub(super) fn dress(&self, peer: &mut HttpPeer) {
        peer.group_key = self.key;
        let options = &mut peer.options;
        let (highest, lowest) = match (self.may_multiplex(), self.must_multiplex()) {
            (true, true) => (2, 2),
            (true, false) => (2, 1),
            (false, _) => (1, 1),
        };
        options.set_http_version(highest, lowest);
        // a head goes through `client::remove_hop_by_hop_upstream` instead, which removes the same
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        if self.may_multiplex() {
            options.max_h2_streams = STREAMS_MAX;
            options.h2_ping_interval = Some(PING);
            options.tcp_keepalive = Some(KEEPALIVE);
            // The windows stay the 8 MiB of Pingora: it does not read an answer while a write of the request is
            // blocked, so that a stream which echoes more than the windows hold waits for itself.
        }
        if let Some(trust) = &self.trust {
            peer.scheme = Scheme::HTTPS;
            peer.sni = trust.server_name().to_owned();
            peer.client_cert_key = trust.client();
            let options = &mut peer.options;
            options.ca = trust.authorities();
            options.verify_cert = trust.verify == Verify::Always;
            options.verify_hostname = trust.verify == Verify::Always;
        }
    }

    /// Makes a dressed peer one that a WebSocket can be opened through: over HTTP/1.1, on a connection that none of
    /// HTTP/2 is taken for.
    pub(super) fn dress_tunnel(&self, peer: &mut HttpPeer) {
        peer.group_key = !self.key;
        let options = &mut peer.options;
        options.set_http_version(1, 1);
        options.tcp_keepalive = Some(KEEPALIVE);
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("protocol", &self.protocol)
            .field("tls", &self.trust.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::VerifiedName;
    use pingora_core::upstreams::peer::Peer;
    use std::collections::HashSet;

    fn trust(name: &str) -> Trust {
        Trust {
            name: VerifiedName::new(name),
            verify: Verify::Always,
            authorities: None,
            client: None,
        }
    }

    #[test]
    fn services_protocols_and_trust_keep_their_connections_apart() {
        let wires = [
            Wire::new("a", Protocol::Auto, None),
            Wire::new("b", Protocol::Auto, None),
            Wire::new("a", Protocol::Auto, None).introducing(Some(Version::V1)),
            Wire::new("a", Protocol::Auto, None).introducing(Some(Version::V2)),
            Wire::new("a", Protocol::Http2Clear, None),
            Wire::new("a", Protocol::Auto, Some(trust("a.test"))),
            Wire::new("a", Protocol::Http2, Some(trust("a.test"))),
            Wire::new("a", Protocol::Auto, Some(trust("b.test"))),
        ];
        let mut hashes = HashSet::new();
        for wire in &wires {
            let mut peer = HttpPeer::new("127.0.0.1:443", false, String::new());
            wire.dress(&mut peer);
            assert!(hashes.insert(peer.reuse_hash()), "{wire:?}");
            wire.dress_tunnel(&mut peer);
            assert!(hashes.insert(peer.reuse_hash()), "a tunnel of {wire:?}");
        }
    }

    #[test]
    fn versions_are_those_that_were_asked_for() {
        let versions = |protocol, trust| {
            let mut peer = HttpPeer::new("127.0.0.1:443", false, String::new());
            Wire::new("a", protocol, trust).dress(&mut peer);
            let alpn = &peer.options.alpn;
            (alpn.get_max_http_version(), alpn.get_min_http_version())
        };
        assert_eq!(versions(Protocol::Auto, None), (1, 1));
        assert_eq!(versions(Protocol::Auto, Some(trust("a.test"))), (2, 1));
        assert_eq!(versions(Protocol::Http1, Some(trust("a.test"))), (1, 1));
        assert_eq!(versions(Protocol::Http2, Some(trust("a.test"))), (2, 2));
        assert_eq!(versions(Protocol::Http2Clear, None), (2, 2));
    }
}
