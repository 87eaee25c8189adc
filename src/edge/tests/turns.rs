//! Streams of clients that let us wait, beside a crowd of such clients.

use super::*;
use crate::edge::accept::Incoming;
use crate::edge::connection::{Accepted, establish};
use crate::edge::head::HeadScanner;
use crate::edge::stream::EdgeStream;
use crate::edge::turns::{Turn, now};
use crate::tls::HandshakeThreads;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::ReadBuf;
use tokio::task::yield_now;

const SLOW: Duration = Duration::from_millis(200);
const CROWD: usize = 200;
/// One byte of the first request.
const DATA: &[u8] = b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x";

/// A client, and the stream that it speaks to.
async fn connected() -> (TcpStream, Box<EdgeStream>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let spec = Arc::new(web());
    let events: Arc<dyn EdgeEvents> = Arc::new(Counts::default());
    let accepted = Accepted {
        incoming: Incoming::Tcp(socket),
        peer: Peer::Ip(peer),
        local: None,
        open: EdgeControl::new().open(&spec, &events),
        spec,
    };
    let (stream, _) = establish(accepted, &HandshakeThreads::new(1))
        .await
        .unwrap();
    (client, stream)
}

/// Others who have let us wait, and have sent something now.
async fn crowd() {
    let since = now().checked_sub(SLOW).unwrap();
    for _ in 0..CROWD {
        let turn = Turn::new(since);
        let _ = poll_fn(|cx| Poll::Ready(turn.poll(since, cx, |_| Poll::Ready(())))).await;
    }
}

/// What can be read at once.
async fn read_now(stream: &mut EdgeStream) -> Poll<usize> {
    let mut bytes = [0; 64];
    let mut buf = ReadBuf::new(&mut bytes);
    let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf))).await;
    read.map(|read| {
        read.unwrap();
        buf.filled().len()
    })
}

/// The client says nothing for long, twice, and then sends a piece while there is a crowd.
async fn has_its_turn(mut client: TcpStream, mut stream: Box<EdgeStream>, piece: &[u8]) {
    for time in ["to be found slow", "as one that is known"] {
        assert_eq!(read_now(&mut stream).await, Poll::Pending);
        tokio::time::advance(SLOW).await;
        crowd().await;
        client.write_all(piece).await.unwrap();
        // the thread sees to its sockets
        yield_now().await;
        let asked = tokio::time::Instant::now();
        assert_eq!(read_now(&mut stream).await, Poll::Pending, "{time}");
        let mut bytes = vec![0; piece.len()];
        stream.read_exact(&mut bytes).await.unwrap();
        let waited = asked.elapsed();
        let turn = Duration::from_millis(CROWD as u64 / 16)..Duration::from_secs(1);
        assert!(turn.contains(&waited), "{time}: {waited:?}");
        // the others are through
        tokio::time::sleep(SLOW).await;
    }
    assert_eq!(read_now(&mut stream).await, Poll::Pending);
    tokio::time::advance(SLOW).await;
    client.write_all(piece).await.unwrap();
    yield_now().await;
    assert_eq!(
        read_now(&mut stream).await,
        Poll::Ready(piece.len()),
        "without a crowd"
    );
}

async fn has_its_turn_after(request: &str, piece: &str) {
    let (mut client, mut stream) = connected().await;
    client.write_all(request.as_bytes()).await.unwrap();
    stream.fill().await.unwrap();
    let mut scanner = HeadScanner::new(Limits::default().request_head);
    let head = scanner.advance(stream.held()).unwrap().unwrap();
    stream.begin(&head).unwrap();
    has_its_turn(client, stream, piece.as_bytes()).await;
}

#[tokio::test(start_paused = true)]
async fn content_of_slow_clients_takes_turns() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
    has_its_turn_after(request, "x").await;
}

#[tokio::test(start_paused = true)]
async fn chunks_of_slow_clients_take_turns() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    has_its_turn_after(request, "1\r\nx\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn frames_of_slow_clients_take_turns() {
    let (mut client, mut stream) = connected().await;
    stream.pass_frames(Duration::from_secs(10), 1 << 15);
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00");
    // a head, and the first of its content
    request.extend(b"\x00\x00\x03\x01\x04\x00\x00\x00\x01\x83\x86\x84");
    request.extend(DATA);
    client.write_all(&request).await.unwrap();
    let mut bytes = vec![0; request.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    has_its_turn(client, stream, DATA).await;
}

/// Whoever waits between two requests is not waited for, however long it takes.
#[tokio::test(start_paused = true)]
async fn the_next_request_takes_no_turn() {
    let (mut client, mut stream) = connected().await;
    stream.pass_frames(Duration::from_secs(10), 1 << 15);
    let request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut bytes = vec![0; request.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(read_now(&mut stream).await, Poll::Pending);
    tokio::time::advance(SLOW).await;
    crowd().await;
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    client.write_all(settings).await.unwrap();
    yield_now().await;
    assert_eq!(read_now(&mut stream).await, Poll::Ready(settings.len()));
}
