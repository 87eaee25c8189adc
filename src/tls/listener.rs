//! The TLS side of one listener.

use super::certificates::Certificates;
use super::clients::ClientAuthorities;
use super::provider::provider;
use super::tickets::{TicketSecrets, Tickets};
use crate::identity::certificate::TrustDigest;
use ahash::AHashMap;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::io;
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

/// The oldest version that is spoken. Older ones than these have been given up (RFC 8996).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oldest {
    #[default]
    Tls12,
    Tls13,
}

impl Oldest {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self {
            Oldest::Tls12 => &ALL,
            Oldest::Tls13 => ALL.split_at(1).0,
        }
    }
}

/// What a listener's TLS is like.
pub struct TlsSettings<'a> {
    /// The listener's name: its tickets are not good for others.
    pub listener: &'a str,
    pub certificates: Arc<Certificates>,
    pub alpn: Alpn,
    pub oldest: Oldest,
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
    /// Sessions are resumed with keys from `secrets`, else with those of `tickets`.
    pub fn new(
        settings: TlsSettings<'_>,
        tickets: &Tickets,
        secrets: Option<&TicketSecrets>,
    ) -> Result<Self, TlsError> {
        let TlsSettings {
            listener,
            certificates,
            alpn,
            oldest,
        } = settings;
        let tickets: Arc<dyn ProducesTickets> = Arc::new(tickets.of(listener, secrets));
        let build = |clients: Option<&ClientAuthorities>| -> Result<Arc<ServerConfig>, TlsError> {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(oldest.versions())?;
            let builder = match clients {
                None => builder.with_no_client_auth(),
                Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
            };
            let mut config = builder.with_cert_resolver(certificates.clone());
            config.alpn_protocols = alpn.names();
            // tickets alone, which need no memory here and are the same for all gateways of a fleet
            config.session_storage = Arc::new(NoServerSessionStorage {});
            match clients {
                None => config.ticketer = tickets.clone(),
                // a resumed session would bring a certificate along that nobody looks at again
                Some(_) => config.send_tls13_tickets = 0,
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

    /// How clients that ask for this name are spoken to, and whether they are asked for a certificate.
    pub(super) fn config_for(
        &self,
        server_name: Option<&str>,
    ) -> io::Result<(Arc<ServerConfig>, bool)> {
        let Some(clients) = self.certificates.clients(server_name) else {
            return Ok((self.plain.clone(), false));
        };
        let config = self.asking.get(&clients.key()).cloned();
        let config = config.ok_or_else(|| io::Error::other("no configuration for its clients"))?;
        Ok((config, true))
    }
}
