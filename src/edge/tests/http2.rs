//! HTTP/2 without TLS: with prior knowledge, on listeners that ask for it.

use super::*;
use h2::client::SendRequest;
use http::Request;

fn h2c() -> ListenerSpec {
    let mut spec = web();
    spec.protocols.h2c = true;
    spec
}

/// An HTTP/2 client, and the task that drives its connection until that ends.
pub(super) async fn client<T>(stream: T) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// One exchange: the status and the body.
pub(super) async fn exchange(
    sender: &SendRequest<Bytes>,
    path: &str,
    content: &[u8],
) -> Result<(u16, String), h2::Error> {
    let uri = format!("http://a.example{path}");
    let request = Request::post(uri).body(()).unwrap();
    let mut sender = sender.clone().ready().await?;
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::copy_from_slice(content), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        text.extend_from_slice(&chunk);
    }
    Ok((head.status.as_u16(), String::from_utf8(text).unwrap()))
}

#[tokio::test]
async fn streams_share_a_connection() {
    let edge = echoing(h2c());
    let (sender, _) = client(edge.connect().await).await;
    let streams = (0..50).map(|count| {
        let sender = sender.clone();
        tokio::spawn(async move {
            exchange(&sender, &format!("/{count}"), b"hello")
                .await
                .unwrap()
        })
    });
    for (count, stream) in streams.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(stream.await.unwrap(), (200, format!("POST /{count} 5")));
    }
    assert!(
        exchange(&sender, "/facts", b"")
            .await
            .unwrap()
            .1
            .contains("\"web\"")
    );
    assert_eq!(
        exchange(&sender, "/large", b"").await.unwrap().1.len(),
        3 << 20
    );
    assert_eq!(edge.counts.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn http1_is_spoken_beside_it_even_if_shorter_than_the_preface() {
    let edge = echoing(h2c());
    let mut client = edge.connect().await;
    let text = talk(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let mut client = edge.connect().await;
    let text = talk(&mut client, "P / HTTP/1.0\r\n\r\n").await;
    assert!(text.ends_with("P / 0"), "{text}");
}

#[tokio::test]
async fn a_preface_that_breaks_off_is_no_request() {
    let edge = echoing(h2c());
    let mut client = edge.connect().await;
    client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.ends_with("web request.version"));
}

#[tokio::test]
async fn a_listener_that_does_not_ask_for_it_refuses_it() {
    let edge = echoing(web());
    let (sender, connection) = client(edge.connect().await).await;
    assert!(exchange(&sender, "/", b"").await.is_err());
    assert!(
        timeout(PATIENCE, connection)
            .await
            .unwrap()
            .unwrap()
            .is_err()
    );
}

#[tokio::test]
async fn silence_does_not_keep_a_connection() {
    let mut spec = h2c();
    spec.limits.first_byte = Duration::from_millis(50);
    spec.limits.idle = Duration::from_millis(50);
    let edge = echoing(spec);
    assert_eq!(rest(&mut edge.connect().await).await, "");
    let (sender, connection) = client(edge.connect().await).await;
    exchange(&sender, "/", b"").await.unwrap();
    timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_drain_lets_streams_finish() {
    let edge = echoing(h2c());
    let (sender, connection) = client(edge.connect().await).await;
    let busy = tokio::spawn(async move { exchange(&sender, "/gated", b"").await });
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    edge.control.drain();
    edge.app.gate.add_permits(1);
    assert_eq!(busy.await.unwrap().unwrap(), (200, "POST /gated 0".into()));
    timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    timeout(PATIENCE, edge.control.drained()).await.unwrap();
}

#[tokio::test]
async fn the_last_exchange_of_a_connection_is_followed_by_its_end() {
    let mut spec = h2c();
    spec.limits.exchanges = 3;
    let edge = echoing(spec);
    let (sender, connection) = client(edge.connect().await).await;
    for _ in 0..3 {
        exchange(&sender, "/", b"").await.unwrap();
    }
    timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_stream_only_and_is_counted() {
    let edge = echoing(h2c());
    let (sender, _) = client(edge.connect().await).await;
    assert!(exchange(&sender, "/panic", b"").await.is_err());
    assert_eq!(exchange(&sender, "/", b"").await.unwrap().0, 200);
    edge.until(|edge| edge.counts.panicked.load(Ordering::Relaxed) == 1)
        .await;
}

#[tokio::test]
async fn requests_that_are_refused_again_and_again_end_the_connection() {
    let edge = echoing(h2c());
    let (sender, connection) = client(edge.connect().await).await;
    let mut refused = 0;
    loop {
        let request = Request::get("http://a.example/")
            .header("host", "b.example")
            .body(())
            .unwrap();
        let Ok(mut sender) = sender.clone().ready().await else {
            break;
        };
        let Ok((answer, _)) = sender.send_request(request, true) else {
            break;
        };
        match answer.await {
            Ok(head) => assert_eq!(head.status(), 400),
            Err(_) => break,
        }
        refused += 1;
    }
    assert!((16..=64).contains(&refused), "{refused}");
    let error = timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

/// A figure rather than a law: `cargo test --release idle_http2 -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn what_an_idle_http2_connection_costs() {
    const CONNECTIONS: usize = 2000;
    let edge = echoing(h2c());
    let address = edge.at("web");
    // raw, so that what the client remembers is not counted
    let request = [
        crate::edge::connection::PREFACE,
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0, 11, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x01, 6],
        b"h.test",
    ]
    .concat();
    let open = async |count: usize| {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&request).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"GET / 0") {
                timeout(PATIENCE, client.read_buf(&mut read))
                    .await
                    .unwrap()
                    .unwrap();
            }
            client
                .write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])
                .await
                .unwrap();
            clients.push(client.into_std().unwrap());
        }
        clients
    };
    let warm = open(500).await;
    let before = resident_bytes();
    let clients = open(CONNECTIONS).await;
    let bytes = (resident_bytes() - before) / CONNECTIONS;
    println!(
        "{bytes} bytes for each of {} idle connections",
        clients.len()
    );
    assert_eq!(edge.control.connections(), warm.len() + clients.len());
    assert!(bytes < 64 << 10, "{bytes}");
}
