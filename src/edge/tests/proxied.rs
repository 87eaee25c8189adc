//! The edge in front of Pingora's proxy, whose loops read and write a stream in ways of their own.

use super::*;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};

/// Forwards everything to one address.
struct Forward(SocketAddr);

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();
    fn new_ctx(&self) {}
    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// A proxy, and the origin behind it.
fn proxied() -> (Running<HttpProxy<Forward>>, Running<Echo>) {
    let origin = echoing(web());
    let configuration = Arc::new(ServerConf::default());
    let proxy = http_proxy(&configuration, Forward(origin.at("web")));
    let mut spec = web();
    spec.protocols.h2c = true;
    (Running::start(Arc::new(proxy), vec![spec]), origin)
}

#[tokio::test]
async fn pipelined_requests_are_proxied_in_order() {
    let (edge, origin) = proxied();
    let requests = concat!(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /gated HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "GET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    origin.app.gate.add_permits(1000);
    for size in [requests.len(), 1, 5, 17] {
        let mut client = edge.connect().await;
        client.set_nodelay(true).unwrap();
        for piece in requests.as_bytes().chunks(size) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        for expected in [
            "GET /1 0",
            "POST /2 5",
            "GET /gated 0",
            "POST /4 3",
            "GET /5 0",
        ] {
            assert_eq!(
                answer(&mut client).await,
                (200, true, expected.into()),
                "{size}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_served_waits() {
    let (edge, origin) = proxied();
    let mut client = edge.connect().await;
    client.write_all(get("/gated").as_bytes()).await.unwrap();
    origin
        .until(|origin| origin.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    client.write_all(get("/next").as_bytes()).await.unwrap();
    let mut bystander = edge.connect().await;
    assert_eq!(ask(&mut bystander, &get("/")).await.0, 200);
    origin.app.gate.add_permits(1);
    assert_eq!(answer(&mut client).await.2, "GET /gated 0");
    assert_eq!(answer(&mut client).await.2, "GET /next 0");
}

#[tokio::test]
async fn large_content_passes_both_ways() {
    let (edge, _origin) = proxied();
    let mut client = edge.connect().await;
    let (mut from, mut to) = client.split();
    let upload = async {
        to.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
            .await
            .unwrap();
        to.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
    };
    let ((), uploaded) = tokio::join!(upload, answer(&mut from));
    assert_eq!(uploaded.2, "POST / 3000000");
    assert_eq!(ask(&mut client, &get("/large")).await.2.len(), 3 << 20);
}

#[tokio::test]
async fn content_that_the_origin_did_not_want_does_not_become_a_request() {
    let (edge, _origin) = proxied();
    let smuggled = get("/smuggled");
    let mut client = edge.connect().await;
    let head = format!(
        "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        smuggled.len()
    );
    assert_eq!(ask(&mut client, &head).await.2, "unread");
    client.write_all(smuggled.as_bytes()).await.unwrap();
    // whether the connection goes on is the proxy's choice; what it does not do is take content for a request
    let _ = client.write_all(get("/next").as_bytes()).await;
    let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = timeout(PATIENCE, client.read(&mut buffer)).await.unwrap() {
        text.extend_from_slice(&buffer[..read]);
        if text.ends_with(b"/next 0") {
            break;
        }
    }
    assert!(!String::from_utf8_lossy(&text).contains("smuggled"));
}

#[tokio::test]
async fn a_client_that_goes_ends_the_exchange_at_the_origin() {
    let (edge, origin) = proxied();
    let mut client = edge.connect().await;
    client.write_all(get("/gated").as_bytes()).await.unwrap();
    origin
        .until(|origin| origin.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    drop(client);
    edge.until(|edge| edge.control.connections() == 0).await;
    origin
        .until(|origin| origin.control.connections() == 0)
        .await;
}

#[tokio::test]
async fn a_websocket_is_a_tunnel() {
    let (edge, _origin) = proxied();
    let mut client = edge.connect().await;
    let head =
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(ask(&mut client, head).await.0, 101);
    for text in ["one", "two"] {
        client.write_all(text.as_bytes()).await.unwrap();
        let mut echoed = [0; 3];
        timeout(PATIENCE, client.read_exact(&mut echoed))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(echoed, text.as_bytes());
    }
}

#[tokio::test]
async fn a_drain_loses_nothing_that_was_asked() {
    let (edge, origin) = proxied();
    let mut client = edge.connect().await;
    client.write_all(get("/gated").as_bytes()).await.unwrap();
    origin
        .until(|origin| origin.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    edge.shutdown.send(true).unwrap();
    origin.app.gate.add_permits(1);
    assert_eq!(answer(&mut client).await.2, "GET /gated 0");
    timeout(PATIENCE, edge.control.drained()).await.unwrap();
}

#[tokio::test]
async fn http2_is_proxied_too() {
    let (edge, _origin) = proxied();
    let (sender, _) = super::http2::client(edge.connect().await).await;
    for count in 0..5 {
        let path = format!("/{count}");
        let answer = super::http2::exchange(&sender, &path, b"abc")
            .await
            .unwrap();
        assert_eq!(answer, (200, format!("POST {path} 3")));
    }
}
