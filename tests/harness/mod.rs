//! A real gateway, real origins, real clients: what every end-to-end test is made of.
//!
//! [`Gateway`] starts the binary under test with a YAML text, on a loopback address of its own, so that all tests run
//! in parallel on the same ports. [`Origin`] is a programmable HTTP/1.1 server on raw sockets that records the bytes it
//! got and complains about any that are not a request. [`Client`] writes and reads exact bytes, [`Http2`] frames, and
//! [`Pki`] signs certificates. Everything has a deadline and nothing sleeps for luck: what takes a while is awaited with
//! [`eventually`].

#![allow(
    dead_code,
    reason = "a vocabulary: not every word is needed by the tests of the day"
)]

mod browser;
mod client;
mod dns;
pub mod frames;
mod gateway;
mod http2;
mod http2_origin;
mod issuer;
mod message;
mod metrics;
mod origin;
mod pki;
mod programs;
pub mod provider;
mod redis;
mod signer;
#[cfg(test)]
mod tests;
mod wait;

pub use self::redis::{Redis, cluster, replica};
pub use browser::Browser;
pub use client::{Call, Client, tcp, tls};
pub use dns::{Dns, Record};
pub use frames::{Act, Arrived, Frames};
pub use gateway::{Gateway, GatewayBuilder, Output, northgate, northgate_given};
pub use http2::{Ending, Http2, read};
pub use http2_origin::{Exchange, Http2Origin, describe};
pub use issuer::{Issuer, Mood};
pub use message::{Message, Stream, is_end};
pub use metrics::Metrics;
pub use origin::{Origin, Received, Reply};
pub use pki::{Identity, Pki};
pub use programs::{Program, run};
pub use provider::{Manner, Provider};
pub use signer::{Signer, encoded};
pub use wait::{Gate, eventually, within};

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address that nobody else uses: the process and a counter make it, so that tests in one process and tests
/// in processes of their own (as nextest runs them) keep apart.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 254 addresses in each of four blocks: the first and the last of a block are never used, so that no two serials
    // meet in one address
    let serial = NEXT.fetch_add(1, Ordering::Relaxed) % (4 * 254);
    let block = ((std::process::id() & 0x3fff) << 2) | (serial / 254);
    let [_, _, high, middle] = block.to_be_bytes();
    let low = u8::try_from(serial % 254 + 1).expect("below 255");
    // 127.0.x.y is for everyone else
    Ipv4Addr::new(127, high.max(1), middle, low)
}
