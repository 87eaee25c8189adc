//! Pingora alone, as a yardstick: what plain proxying costs before a gateway adds anything.
//!
//! One stock listener, one thread, one endpoint, and the few lines that a proxy cannot do without. The load tests run it
//! beside the gateway, nginx and HAProxy.
//!
//! ```sh
//! cargo run --release --example bare_pingora -- 127.0.0.1:8080 127.0.0.1:9000
//! ```

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::{Opt, ServerConf};
use std::net::SocketAddr;
use std::process::ExitCode;
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
        // Pingora closes after each HTTP/1.1 exchange with an idle limit unless told for how long it may wait
        session.set_keepalive(Some(75));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(endpoint)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: bare_pingora LISTEN ENDPOINT, such as 127.0.0.1:8080 127.0.0.1:9000");
        return ExitCode::from(2);
    };
    let Ok(endpoint) = endpoint.parse::<SocketAddr>() else {
        eprintln!("bare_pingora: `{endpoint}` is not an address and a port");
        return ExitCode::from(2);
    };
    serve(&listen, endpoint)
}

fn serve(listen: &str, endpoint: SocketAddr) -> ! {
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
    let mut service = http_proxy_service(&server.configuration, Bare { peer });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
