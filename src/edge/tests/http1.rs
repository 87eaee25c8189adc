//! HTTP/1: framing, deadlines, refusals.

use super::*;

#[tokio::test]
async fn a_connection_carries_many_exchanges() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    for count in 0..50 {
        let path = format!("/{count}");
        assert_eq!(
            ask(&mut client, &get(&path)).await,
            (200, true, format!("GET {path} 0"))
        );
    }
    assert_eq!(edge.counts.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn facts_of_the_connection_reach_the_application() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    let (_, _, facts) = ask(&mut client, &get("/facts")).await;
    let peer = Peer::Ip(client.local_addr().unwrap());
    assert!(facts.contains("\"web\""), "{facts}");
    assert!(facts.contains(&format!("{peer:?}")), "{facts}");
    assert!(
        facts.contains(&format!("local_port: Some({})", edge.at("web").port())),
        "{facts}"
    );
}

const PIPELINE: &str = concat!(
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\n0123\r\n0\r\n\r\n",
    "GET /gated HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /5 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: x\r\n\r\n",
    "GET /6 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
);

const PIPELINED: [&str; 6] = [
    "GET /1 0",
    "POST /2 5",
    "POST /3 7",
    "GET /gated 0",
    "POST /5 0",
    "GET /6 0",
];

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    client.write_all(PIPELINE.as_bytes()).await.unwrap();
    edge.app.gate.add_permits(1);
    for expected in PIPELINED {
        assert_eq!(answer(&mut client).await.2, expected);
    }
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn it_makes_no_difference_how_requests_are_cut_into_packets() {
    let edge = echoing(web());
    edge.app.gate.add_permits(100);
    for size in [1, 2, 3, 7, 16, 61] {
        let mut client = edge.connect().await;
        client.set_nodelay(true).unwrap();
        for piece in PIPELINE.as_bytes().chunks(size) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        for expected in PIPELINED {
            assert_eq!(answer(&mut client).await.2, expected, "{size}");
        }
    }
}

#[tokio::test]
async fn every_head_of_a_connection_is_checked() {
    let edge = echoing(web());
    let second =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = edge.connect().await;
    client
        .write_all((get("/1") + second).as_bytes())
        .await
        .unwrap();
    assert_eq!(answer(&mut client).await, (200, true, "GET /1 0".into()));
    assert_eq!(
        answer(&mut client).await,
        (400, false, "web request.framing".into())
    );
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_refusal_can_be_read_by_a_client_that_is_still_sending() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +50000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&[b'x'; 50_000]).await.unwrap();
    assert_eq!(
        answer(&mut client).await,
        (400, false, "web request.framing".into())
    );
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    let text = talk(
        &mut client,
        &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(40_000)),
    )
    .await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[tokio::test]
async fn a_head_that_trickles_is_408() {
    let edge = echoing(limited(|limits| limits.head = Duration::from_millis(100)));
    let mut client = edge.connect().await;
    for byte in b"GET / HTTP/1.1\r\nX" {
        client.write_all(&[*byte]).await.unwrap();
    }
    let text = rest(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
}

#[tokio::test]
async fn a_head_that_breaks_off_is_incomplete() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    client.write_all(b"GET / HT").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.ends_with("web request.incomplete"));
}

#[tokio::test]
async fn silence_is_closed_without_a_word() {
    let edge = echoing(limited(|limits| {
        limits.first_byte = Duration::from_millis(50);
        limits.idle = Duration::from_millis(50);
    }));
    let mut fresh = edge.connect().await;
    assert_eq!(rest(&mut fresh).await, "");
    let mut used = edge.connect().await;
    ask(&mut used, &get("/")).await;
    assert_eq!(rest(&mut used).await, "");
    let mut blank = edge.connect().await;
    blank.write_all(b"\r\n").await.unwrap();
    blank.shutdown().await.unwrap();
    assert_eq!(rest(&mut blank).await, "");
}

#[tokio::test]
async fn the_last_exchange_of_a_connection_says_so() {
    let edge = echoing(limited(|limits| limits.exchanges = 2));
    let mut client = edge.connect().await;
    assert!(ask(&mut client, &get("/")).await.1);
    assert!(!ask(&mut client, &get("/")).await.1);
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn content_that_nobody_wants_is_discarded_if_it_is_short() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    let head = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n";
    assert_eq!(ask(&mut client, head).await, (200, true, "unread".into()));
    client.write_all(&[b'x'; 3000]).await.unwrap();
    assert_eq!(ask(&mut client, &get("/next")).await.2, "GET /next 0");
}

#[tokio::test]
async fn content_that_nobody_wants_closes_the_connection_if_it_is_long() {
    let edge = echoing(web());
    for framing in [
        "Content-Length: 70000",
        "Expect: 100-continue\r\nContent-Length: 1",
        "Transfer-Encoding: chunked",
    ] {
        let mut client = edge.connect().await;
        let head = format!("POST /unread HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client
            .write_all(format!("200\r\n{}", "x".repeat(500)).as_bytes())
            .await
            .unwrap();
        assert_eq!(
            answer(&mut client).await,
            (200, false, "unread".into()),
            "{framing}"
        );
        assert_eq!(rest(&mut client).await, "");
    }
}

#[tokio::test]
async fn malformed_chunks_never_pass_for_complete_content() {
    let edge = echoing(web());
    // the second is read as zero by httparse, and as the end of the content by Pingora
    for chunks in ["5 \r\nhello\r\n0\r\n\r\n", "\r\n\r\n", "1\nx\r\n0\r\n\r\n"] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut together = edge.connect().await;
        let text = talk(&mut together, &format!("{head}{chunks}")).await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        let broken = edge.app.broken.load(Ordering::Relaxed);
        let mut apart = edge.connect().await;
        let begun =
            "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        apart.write_all(begun.as_bytes()).await.unwrap();
        edge.until(|edge| edge.app.reading.load(Ordering::Relaxed) > broken)
            .await;
        apart.write_all(chunks.as_bytes()).await.unwrap();
        edge.until(|edge| edge.app.broken.load(Ordering::Relaxed) > broken)
            .await;
    }
}

#[tokio::test]
async fn a_panic_ends_its_connection_only_and_is_counted() {
    let edge = echoing(web());
    let mut bystander = edge.connect().await;
    ask(&mut bystander, &get("/")).await;
    let mut client = edge.connect().await;
    client.write_all(get("/panic").as_bytes()).await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(ask(&mut bystander, &get("/")).await.0, 200);
    edge.until(|edge| edge.counts.panicked.load(Ordering::Relaxed) == 1)
        .await;
    edge.until(|edge| edge.control.connections() == 1).await;
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &get("/large")).await.2.len(), 3 << 20);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let edge = echoing(limited(|limits| limits.write = Duration::from_millis(100)));
    let mut client = edge.connect().await;
    // more than the buffers of both sockets hold
    client
        .write_all(get("/large").repeat(8).as_bytes())
        .await
        .unwrap();
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 1)
        .await;
    // nothing waits for it in the kernel either
    let ended = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(
        ended.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn an_exchange_ends_when_its_client_goes() {
    let edge = echoing(limited(|limits| {
        limits.half_closed = Duration::from_millis(50);
    }));
    let mut client = edge.connect().await;
    client.write_all(get("/gated").as_bytes()).await.unwrap();
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    drop(client);
    edge.until(|edge| edge.control.connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_gets_its_answers() {
    let edge = echoing(limited(|limits| limits.half_closed = PATIENCE));
    let mut client = edge.connect().await;
    client.write_all(PIPELINE.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    edge.app.gate.add_permits(1);
    for expected in PIPELINED {
        assert_eq!(answer(&mut client).await.2, expected);
    }
    assert_eq!(rest(&mut client).await, "");
    // a head that breaks off is told so
    let mut client = edge.connect().await;
    let text = get("/1") + "GET /2 HT";
    client.write_all(text.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(answer(&mut client).await.2, "GET /1 0");
    assert!(rest(&mut client).await.ends_with("web request.incomplete"));
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_reads_a_long_answer_as_slowly_as_it_may() {
    let edge = echoing(limited(|limits| {
        limits.half_closed = Duration::from_millis(20)
    }));
    let mut client = edge.connect().await;
    client.write_all(get("/large").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut bytes = 0;
    let mut piece = vec![0; 256 << 10];
    loop {
        let read = timeout(PATIENCE, client.read(&mut piece)).await.unwrap();
        match read.unwrap() {
            0 => break,
            read => bytes += read,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bytes > 3 << 20, "{bytes}");
}

/// Whether the content comes that slowly that the edge gives it up.
async fn is_too_slow(head: &str, piece: &str, pause: Duration, pieces: usize) -> bool {
    let edge = echoing(limited(|limits| {
        limits.read_rate = 250;
        limits.rate_period = Duration::from_millis(300);
    }));
    let mut client = edge.connect().await;
    client.set_nodelay(true).unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..pieces {
        tokio::time::sleep(pause).await;
        let sent = client.write_all(piece.as_bytes()).await;
        if sent.is_err() || edge.app.broken.load(Ordering::Relaxed) > 0 {
            return true;
        }
    }
    assert_eq!(answer(&mut client).await.0, 200);
    false
}

#[tokio::test]
async fn content_that_trickles_is_given_up_and_content_that_takes_long_is_not() {
    let length = "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let chunked = "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let moment = Duration::from_millis(5);
    assert!(is_too_slow(length, "x", moment, 1000).await);
    assert!(is_too_slow(chunked, "1\r\nx\r\n", moment * 10, 1000).await);
    let hundred = "x".repeat(100);
    assert!(!is_too_slow(length, &hundred, moment * 6, 10).await);
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_given_up() {
    let edge = echoing(limited(|limits| {
        limits.write = Duration::from_millis(200);
        limits.write_rate = 10 << 20;
    }));
    let mut client = edge.connect().await;
    client
        .write_all(get("/large").repeat(8).as_bytes())
        .await
        .unwrap();
    let mut piece = [0; 1024];
    let drips = async {
        while client.read(&mut piece).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let closed = edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 1);
    tokio::select! {
        () = closed => {}
        () = drips => {}
    }
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 1)
        .await;
}

#[tokio::test]
async fn a_tunnel_opens_with_101_and_not_before() {
    let edge = echoing(web());
    let mut client = edge.connect().await;
    let head = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    // what is sent too early waits behind the answer, and is then the other protocol's
    client
        .write_all(format!("{head}early ").as_bytes())
        .await
        .unwrap();
    assert_eq!(answer(&mut client).await.0, 101);
    client.write_all(b"late").await.unwrap();
    let mut echoed = [0; 10];
    timeout(PATIENCE, client.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&echoed, b"early late");
}

#[tokio::test]
async fn a_churn_of_connections_leaves_nothing() {
    let edge = echoing(web());
    for _ in 0..100 {
        let clients = (0..100).map(|count| {
            let address = edge.at("web");
            tokio::spawn(async move {
                let mut client = TcpStream::connect(address).await.unwrap();
                match count % 4 {
                    0 => {}
                    1 => drop(client.write_all(b"GET /").await),
                    _ => drop(ask(&mut client, &get("/")).await),
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 10_000)
        .await;
    assert_eq!(edge.counts.opened.load(Ordering::Relaxed), 10_000);
    assert_eq!(edge.control.connections(), 0);
}

/// A figure rather than a law: `cargo test --release idle_connection -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn what_an_idle_connection_costs() {
    const CONNECTIONS: usize = 8000;
    let edge = echoing(web());
    let address = edge.at("web");
    let open = async |count: usize| {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = TcpStream::connect(address).await.unwrap();
            ask(&mut client, &get("/")).await;
            clients.push(client.into_std().unwrap());
        }
        clients
    };
    let warm = open(1000).await;
    let before = resident_bytes();
    let clients = open(CONNECTIONS).await;
    let bytes = (resident_bytes() - before) / CONNECTIONS;
    println!(
        "{bytes} bytes for each of {} idle connections",
        clients.len()
    );
    assert_eq!(edge.control.connections(), warm.len() + clients.len());
    assert!(bytes < 4096, "{bytes}");
}
