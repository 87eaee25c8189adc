//! The TLS side of one listener.

use super::certificates::{Certificates, provider};
use pingora_core::tls::TlsAcceptor;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;

/// TLS could not be set up: the cryptographic library refused.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// The protocols that are offered in the handshake (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    H1,
    H2,
    /// HTTP/2 where the client can.
    H2H1,
}

impl Alpn {
    fn names(self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Alpn::H1 => vec![h1],
            Alpn::H2 => vec![h2],
            Alpn::H2H1 => vec![h2, h1],
        }
    }
}

/// The keys of session tickets (RFC 8446 §4.6.1), rotated every six hours. One set per listener, kept over reloads: two
/// listeners that ask different things of a client must not accept each other's tickets.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    pub fn new() -> Result<Self, TlsError> {
        Ok(Self(Ticketer::new()?))
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // nothing of the keys
        f.write_str("Tickets")
    }
}

/// How one listener terminates TLS 1.2 and 1.3. Immutable: a reload makes another.
#[derive(Debug)]
pub struct TlsListener {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl TlsListener {
    /// Cipher suites and groups are those of aws-lc-rs in its order, the post-quantum group first.
    pub fn new(
        certificates: Arc<Certificates>,
        alpn: Alpn,
        tickets: &Tickets,
    ) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = alpn.names();
        config.ticketer = tickets.0.clone();
        Ok(Self {
            config: Arc::new(config),
            certificates,
        })
    }

    /// The certificates that are chosen from.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Runs handshakes.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }
}
