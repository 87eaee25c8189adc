//! Certificates by server name, the TLS configuration of a listener, and whom to trust behind an endpoint's address.
//!
//! On the request path: the handshake of a new connection, which is calculated beside the threads that serve
//! ([`HandshakeThreads`]). Everything else here is immutable;
//! a reload builds new [`Certificates`] and a new [`TlsListener`] and gives it to the listener, so that a handshake
//! sees either the old set or the new one, and no connection is dropped. [`Tickets`] are the exception: they hold keys
//! that outlive a reload, or every resumption would fail after it.
//!
//! TLS 1.2 and 1.3 are spoken, with the cipher suites that have forward secrecy and authenticated encryption (RFC 9325
//! §4.2), and keys are agreed on by X25519 and ML-KEM together where the client can, so that what is recorded today
//! stays secret from the computers of another day.
//!
//! A certificate is chosen by the server name that the client asks for (RFC 6066 §3): exactly, then by a wildcard,
//! which stands for one label (RFC 9525 §6.3), then the default. Among several for the same name the first whose key
//! the client can verify is taken.
//!
//! Which certificates clients may show is a matter of the server name too ([`ClientAuthorities`]): a certificate's own
//! authorities hold for its names, the listener's for the others.

mod certificates;
mod clients;
mod handshake;
mod listener;
mod provider;
mod tickets;
mod trust;

pub use certificates::{Certificate, CertificateError, Certificates};
pub use clients::{ClientAuthorities, ClientsError, Written};
pub use handshake::HandshakeThreads;
pub use listener::{Alpn, Oldest, TlsError, TlsListener, TlsSettings};
pub use tickets::{TicketSecrets, Tickets};
pub use trust::{Authorities, ClientIdentity, Trust, TrustError, VerifiedName, Verify};
