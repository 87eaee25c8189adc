//! Pingora behind our own listener, as a yardstick: what the guard around the stream costs, with nothing else of the
//! gateway.
//!
//! The same proxy as in `bare_pingora`, with one difference: connections come through `edge`, which checks each head and
//! each chunk, holds the deadlines, and lets waiting connections go without a session.
//!
//! ```sh
//! cargo run --release --example bare_edge -- 127.0.0.1:8080 127.0.0.1:9000
//! ```

use async_trait::async_trait;
use northgate::edge::{
    Address, Edge, EdgeEvents, HandshakeFailure, Limits, ListenerSpec, Protocols,
    ProxyProtocolFailure, Refuse, SocketOptions, TurnedAway,
};
use northgate::exchange::client::TrustedProxies;
use northgate::exchange::connection::{Connection, ListenerFacts, Peer};
use northgate::problem::Problem;
use pingora::prelude::*;
use pingora::server::configuration::{Opt, ServerConf};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

// what the gateway uses too, so that the difference between the two is the gateway's own
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends every request to one endpoint.
struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> Result<()> {
        // as in `bare_pingora`
        session.set_keepalive(Some(75));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

/// Refuses in one line, and takes no notes.
struct Quiet;

impl Refuse for Quiet {
    fn refusal(&self, _: &Connection, _: &[u8], problem: Problem) -> Vec<u8> {
        let status = problem.kind.status_code();
        format!("HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .into()
    }

    fn rejected(&self, _: &Connection) {}

    fn sent_away(&self, _: &Connection, _: Problem) {}
}

impl EdgeEvents for Quiet {
    fn opened(&self, _: &ListenerFacts) {}
    fn closed(&self, _: &ListenerFacts) {}
    fn turned_away(&self, _: &ListenerFacts, _: &Peer, _: TurnedAway) {}
    fn handshake_finished(&self, _: &ListenerFacts, _: &'static str, _: bool) {}
    fn proxy_protocol_failed(&self, _: &ListenerFacts, _: &Peer, _: ProxyProtocolFailure) {}
    fn handshake_failed(&self, _: &ListenerFacts, _: HandshakeFailure) {}
    fn panicked(&self, _: &ListenerFacts) {}
    fn accept_paused(&self, _: &ListenerFacts) {}
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().and_then(|text| text.parse().ok());
    let endpoint = arguments.next().and_then(|text| text.parse().ok());
    let (Some(listen), Some(endpoint)) = (listen, endpoint) else {
        eprintln!("usage: bare_edge LISTEN ENDPOINT, such as 127.0.0.1:8080 127.0.0.1:9000");
        return ExitCode::from(2);
    };
    match serve(listen, endpoint) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("bare_edge: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(
    listen: SocketAddr,
    endpoint: SocketAddr,
) -> std::result::Result<ExitCode, Box<dyn std::error::Error>> {
    let mut peer = HttpPeer::new(endpoint, false, String::new());
    peer.options.connection_timeout = Some(Duration::from_secs(3));
    peer.options.total_connection_timeout = Some(Duration::from_secs(3));
    peer.options.read_timeout = Some(Duration::from_secs(30));
    peer.options.write_timeout = Some(Duration::from_secs(30));
    peer.options.idle_timeout = Some(Duration::from_secs(60));
    let conf = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let app = pingora::proxy::http_proxy(&server.configuration, Bare { peer });
    let (refuse, events) = (Arc::new(Quiet), Arc::new(Quiet));
    let (edge, control) = Edge::new(vec![Arc::new(app)], refuse, events, Arc::default())?;
    let prepared = control.prepare(vec![listener(listen)]);
    prepared.map_err(|errors| format!("{errors:?}"))?.commit();
    server.add_service(edge);
    server.run_forever()
}

fn listener(address: SocketAddr) -> ListenerSpec {
    ListenerSpec {
        facts: Arc::new(ListenerFacts::new("public".into(), false)),
        addresses: vec![Address::Ip(address)],
        protocols: Protocols {
            h1: true,
            h2: false,
            h2c: false,
        },
        proxy_protocol: false,
        tls: None,
        limits: Limits {
            // the load generator keeps its connections for longer than a client may
            exchanges: u32::MAX,
            ..Limits::default()
        },
        trusted: TrustedProxies::default(),
        socket: SocketOptions::default(),
        operators: false,
    }
}
