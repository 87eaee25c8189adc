//! The TLS side of one listener.

use super::certificates::{Certificates, provider};
use super::clients::ClientAuthorities;
use crate::identity::certificate::TrustDigest;
use ahash::AHashMap;
use pingora_core::tls::{ServerTlsStream, TlsAcceptor};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{Acceptor, NoServerSessionStorage, ProducesTickets};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

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
    /// For those who are not asked for a certificate.
    plain: Arc<ServerConfig>,
    /// For those who are, by what they are asked for.
    asking: AHashMap<(TrustDigest, bool), Arc<ServerConfig>>,
    certificates: Arc<Certificates>,
}

impl TlsListener {
    /// Cipher suites and groups are those of aws-lc-rs in its order, the post-quantum group first.
    pub fn new(
        certificates: Arc<Certificates>,
        alpn: Alpn,
        tickets: &Tickets,
    ) -> Result<Self, TlsError> {
        let build = |clients: Option<&ClientAuthorities>| -> Result<Arc<ServerConfig>, TlsError> {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
            let builder = match clients {
                None => builder.with_no_client_auth(),
                Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
            };
            let mut config = builder.with_cert_resolver(certificates.clone());
            config.alpn_protocols = alpn.names();
            match clients {
                None => config.ticketer = tickets.0.clone(),
                Some(_) => {
                    // a resumed session would bring a certificate along that nobody looks at again
                    config.session_storage = Arc::new(NoServerSessionStorage {});
                    config.send_tls13_tickets = 0;
                }
            }
            Ok(Arc::new(config))
        };
        let mut asking = AHashMap::new();
        for clients in certificates.authorities() {
            if !asking.contains_key(&clients.key()) {
                asking.insert(clients.key(), build(Some(clients))?);
            }
        }
        Ok(Self {
            plain: build(None)?,
            asking,
            certificates,
        })
    }

    /// The certificates that are chosen from.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Runs a handshake.
    pub(crate) async fn accept<S>(&self, socket: S) -> io::Result<ServerTlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.asking.is_empty() {
            return TlsAcceptor::from(self.plain.clone()).accept(socket).await;
        }
        // what a client is asked for depends on whom it asks for
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let server_name = begun.client_hello().server_name().map(str::to_owned);
        let clients = self.certificates.clients(server_name.as_deref());
        let asking = clients.and_then(|clients| self.asking.get(&clients.key()));
        let config = match (clients, asking) {
            (None, _) => &self.plain,
            (Some(_), Some(config)) => config,
            (Some(_), None) => return Err(io::Error::other("no configuration for its clients")),
        };
        begun.into_stream(config.clone()).await
    }
}
