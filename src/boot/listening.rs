//! What the edge is told of a listener: what is written, and the edge's own defaults where nothing is.

use crate::config::model::{ListenerLimits, ListenerSocket, Protocol};
use crate::edge::{self, ListenerSpec, SocketOptions};
use crate::exchange::head_limits::HeadLimits;
use crate::snapshot::{Listener, Role};
use crate::tls::TlsListener;
use crate::units::{ByteSize, Count, Duration, OrOff, Spanned};
use std::sync::Arc;

/// One listener as it should be; `tls` where it terminates TLS.
pub fn spec(listener: &Listener, tls: Option<Arc<TlsListener>>) -> ListenerSpec {
    ListenerSpec {
        facts: listener.facts.clone(),
        addresses: listener
            .addresses
            .iter()
            .filter_map(super::process::edge_address)
            .collect(),
        protocols: protocols(listener),
        proxy_protocol: listener.proxy_protocol,
        tls,
        limits: limits(&listener.limits, &listener.head),
        trusted: listener.trusted.clone(),
        socket: socket(&listener.socket),
        operators: matches!(listener.role, Role::Serve { .. }),
    }
}

/// What is spoken: HTTP/2 by ALPN only where there is TLS.
pub fn protocols(listener: &Listener) -> edge::Protocols {
    let has = |protocol| listener.protocols.contains(&protocol);
    edge::Protocols {
        h1: has(Protocol::H1),
        h2: has(Protocol::H2) && listener.facts.tls,
        h2c: has(Protocol::H2c),
    }
}

fn limits(written: &ListenerLimits, head: &HeadLimits) -> edge::Limits {
    let default = edge::Limits::default();
    edge::Limits {
        connections: count(&written.connections, default.connections),
        connections_per_address: count(
            &written.connections_per_address,
            default.connections_per_address,
        ),
        handshake: time(&written.handshake, default.handshake),
        first_byte: time(&written.first_byte, default.first_byte),
        head: time(&written.head, default.head),
        idle: time(&written.idle, default.idle),
        read: time(&written.read, default.read),
        write: time(&written.write, default.write),
        read_rate: size(&written.read_rate, default.read_rate),
        write_rate: size(&written.write_rate, default.write_rate),
        exchanges: count(&written.requests, default.exchanges),
        streams: count(&written.streams, default.streams),
        request_head: *head,
        ..default
    }
}

fn socket(written: &ListenerSocket) -> SocketOptions {
    let default = SocketOptions::default();
    let time = |written: &Option<Spanned<OrOff<Duration>>>, default| match written {
        None => default,
        Some(written) => (**written).on().map(Duration::get),
    };
    SocketOptions {
        backlog: written
            .backlog
            .as_ref()
            .map(|count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        keepalive: time(&written.keepalive, default.keepalive),
        user_timeout: time(&written.user_timeout, default.user_timeout),
        reuse_port: written.reuse_port.is_some_and(|toggle| toggle.is_on()),
    }
}

/// The compiler has seen to it that what is written fits.
fn count<T: TryFrom<u64>>(written: &Option<Spanned<Count>>, default: T) -> T {
    let written = written
        .as_ref()
        .and_then(|count| count.get().try_into().ok());
    written.unwrap_or(default)
}

fn size<T: TryFrom<u64>>(written: &Option<Spanned<ByteSize>>, default: T) -> T {
    let written = written
        .as_ref()
        .and_then(|size| size.bytes().try_into().ok());
    written.unwrap_or(default)
}

fn time(written: &Option<Spanned<Duration>>, default: std::time::Duration) -> std::time::Duration {
    written.as_ref().map_or(default, |time| time.get())
}
