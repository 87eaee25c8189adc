//! Origins that speak HTTP/2, in clear or under TLS, and the HTTP/1.1 that a client under TLS may choose instead.

use bytes::Bytes;
use h2::server::{self, SendResponse};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What the other end said of itself.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// `h2`, `h1`, or `h2c`.
    pub protocol: &'static str,
    pub server_name: Option<String>,
    /// Whether it showed a certificate.
    pub certified: bool,
    /// The number of the connection, from zero.
    pub connection: usize,
}

/// One stream: the request, and the way to answer it.
pub struct Exchange {
    pub peer: Peer,
    pub request: Request<h2::RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Exchange {
    /// Answers with a head and nothing else.
    pub fn head(&mut self, fields: &[(&'static str, &str)]) {
        let _ = self.respond.send_response(head(fields), true);
    }

    /// Begins an answer whose content follows.
    pub fn begin(&mut self, fields: &[(&'static str, &str)]) -> h2::SendStream<Bytes> {
        self.respond
            .send_response(head(fields), false)
            .expect("a head")
    }

    /// Answers with content, and trailers if there are any.
    pub fn answer(
        &mut self,
        fields: &[(&'static str, &str)],
        body: &str,
        trailers: &[(&'static str, &str)],
    ) {
        let mut stream = self.begin(fields);
        let _ = stream.send_data(Bytes::copy_from_slice(body.as_bytes()), trailers.is_empty());
        if !trailers.is_empty() {
            let _ = stream.send_trailers(fields_of(trailers));
        }
    }

    /// The whole content of the request.
    pub async fn body(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let stream = self.request.body_mut();
        while let Some(Ok(data)) = stream.data().await {
            let _ = stream.flow_control().release_capacity(data.len());
            all.extend(&data);
        }
        all
    }
}

/// Fields as a map.
pub fn fields_of(fields: &[(&'static str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        (
            name.parse().expect("a name"),
            value.parse().expect("a value"),
        )
    });
    fields.collect::<HeaderMap>()
}

fn head(fields: &[(&'static str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = fields_of(fields);
    response
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = dyn Fn(Exchange) -> Task + Send + Sync;

/// An origin that lives as long as the value.
pub struct Http2Origin {
    address: String,
    accepted: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Http2Origin {
    /// In clear, by prior knowledge.
    pub async fn clear<F>(script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(None, Arc::new(move |exchange| Box::pin(script(exchange)))).await
    }

    /// Under TLS. A client that chooses HTTP/1.1 is told what [`describe`] says.
    pub async fn secure<F>(
        tls: Arc<ServerConfig>,
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(
            Some(tls.into()),
            Arc::new(move |exchange| Box::pin(script(exchange))),
        )
        .await
    }

    async fn start(tls: Option<TlsAcceptor>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind((super::loopback(), 0))
            .await
            .expect("a listener");
        let address = listener.local_addr().expect("its address").to_string();
        let accepted = Arc::new(AtomicUsize::new(0));
        let failures = Arc::new(Mutex::default());
        let (count, failed) = (accepted.clone(), failures.clone());
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let (tls, script, failed) = (tls.clone(), script.clone(), Arc::clone(&failed));
                serving.spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let mut peer = Peer {
                        protocol: "h2c",
                        connection,
                        ..Peer::default()
                    };
                    let Some(tls) = tls else {
                        return http2(socket, peer, script).await;
                    };
                    let stream = match tls.accept(socket).await {
                        Ok(stream) => stream,
                        Err(error) => {
                            let failed: &Mutex<Vec<String>> = &failed;
                            failed.lock().expect("no panic").push(error.to_string());
                            return;
                        }
                    };
                    let (_, session) = stream.get_ref();
                    peer.server_name = session.server_name().map(str::to_owned);
                    peer.certified = session.peer_certificates().is_some();
                    if session.alpn_protocol() == Some(b"h2") {
                        peer.protocol = "h2";
                        http2(stream, peer, script).await;
                    } else {
                        peer.protocol = "h1";
                        http1(stream, peer).await;
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            failures,
            accepting,
        }
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Handshakes that failed, and why.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic").clone()
    }
}

impl fmt::Display for Http2Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Drop for Http2Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn http2<S>(stream: S, peer: Peer, script: Arc<Script>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    let mut serving = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        serving.spawn(script(Exchange {
            peer: peer.clone(),
            request,
            respond,
        }));
    }
}

async fn http1<S>(mut stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let body = describe(&peer);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            head.clear();
        }
    }
}

/// What an origin says of whom it talks to.
pub fn describe(peer: &Peer) -> String {
    serde_json::json!({
        "protocol": peer.protocol,
        "server_name": peer.server_name,
        "certified": peer.certified,
        "connection": peer.connection,
    })
    .to_string()
}
