//! HTTP/1.1 clients that write exact bytes, over TCP, TLS and Unix sockets.

use super::message::{Message, Stream, Wire};
use super::wait::within;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a handshake settled, as the client sees it.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// The certificate that the gateway chose.
    pub certificate: Vec<u8>,
    pub protocol: Option<String>,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self {
            wire: Wire::new(stream),
        }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(tcp(address, None).await.expect("a connection"))
    }

    /// A connection that comes from this local address.
    pub async fn connect_from(source: SocketAddr, address: SocketAddr) -> Self {
        Self::over(tcp(address, Some(source)).await.expect("a connection"))
    }

    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        within("a Unix connection", UnixStream::connect(path))
            .await
            .map(Self::over)
    }

    /// A TLS connection that asks for `name`; the error says why the handshake failed.
    pub async fn connect_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<(Self, TlsFacts)> {
        let (stream, facts) = tls(address, name, config).await?;
        Ok((Self::over(stream), facts))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.wire.send(bytes.as_ref()))
            .await
            .expect("sent");
    }

    /// Sends what the peer may refuse to take: it has answered already, or closed.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("sending", self.wire.send(bytes.as_ref())).await
    }

    /// The next final response; `method` is the request's, since an answer to HEAD has no body.
    pub async fn response(&mut self, method: &str) -> Message {
        self.try_response(method).await.expect("a response")
    }

    pub async fn try_response(&mut self, method: &str) -> io::Result<Message> {
        within("a response", self.wire.response(method)).await
    }

    /// Sends a GET and reads its answer; the connection is kept.
    pub async fn get(&mut self, host: &str, target: &str) -> Message {
        self.try_get(host, target).await.expect("a response")
    }

    pub async fn try_get(&mut self, host: &str, target: &str) -> io::Result<Message> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.try_send(request).await?;
        self.try_response("GET").await
    }

    /// The next response head, without its body.
    pub async fn head(&mut self) -> Message {
        let head = within("a head", self.wire.head()).await.expect("a stream");
        Message::parse(&head.expect("a head")).expect("an HTTP head")
    }

    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        within("bytes", self.wire.exactly(count)).await
    }

    /// Waits for the end of the stream and says what came before it.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        within("the end of the stream", self.wire.rest()).await
    }

    /// Whether the gateway closes without another byte.
    pub async fn is_closed(&mut self) -> bool {
        match self.rest().await {
            Ok(rest) => rest.is_empty(),
            Err(error) => super::message::is_end(&error),
        }
    }

    /// Ends the sending side.
    pub async fn finish(&mut self) {
        let _ = self.wire.finish().await;
    }

    /// Goes away with a TCP reset.
    pub fn reset(self) {
        self.wire.reset();
    }
}

/// A connection, from this local address where that matters.
pub async fn tcp(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(source)?;
    }
    let stream = within("a connection", socket.connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection under TLS, on which ALPN has been settled.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> io::Result<(TlsStream<TcpStream>, TlsFacts)> {
    let stream = tcp(address, None).await?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connected = within(
        "a TLS handshake",
        TlsConnector::from(config).connect(name, stream),
    )
    .await?;
    let (_, session) = connected.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let facts = TlsFacts {
        certificate: leaf.map(|leaf| leaf.to_vec()).unwrap_or_default(),
        protocol: session
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
    };
    Ok((connected, facts))
}

/// Where a [`Call`] goes.
#[derive(Clone, Debug)]
enum Target {
    Tcp(SocketAddr, Option<SocketAddr>),
    Unix(PathBuf),
}

/// One request on a connection of its own.
#[derive(Clone, Debug)]
pub struct Call {
    to: Target,
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Call {
    /// `line` is a method and a target: `POST /orders?x=1`.
    pub fn new(address: SocketAddr, line: &str) -> Self {
        Self::to(Target::Tcp(address, None), line)
    }

    pub fn unix(path: &Path, line: &str) -> Self {
        Self::to(Target::Unix(path.to_owned()), line)
    }

    fn to(to: Target, line: &str) -> Self {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        Self {
            to,
            method: method.to_owned(),
            target: target.to_owned(),
            host: "example.test".to_owned(),
            fields: Vec::new(),
            body: None,
        }
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// Comes from this address.
    pub fn from(mut self, source: SocketAddr) -> Self {
        if let Target::Tcp(_, from) = &mut self.to {
            *from = Some(source);
        }
        self
    }

    /// The request as bytes; it ends the connection.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        if !self
            .fields
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("connection"))
        {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }

    pub async fn send(&self) -> Message {
        self.try_send()
            .await
            .unwrap_or_else(|error| panic!("{error} for {self:?}"))
    }

    pub async fn try_send(&self) -> io::Result<Message> {
        let mut client = match &self.to {
            Target::Tcp(address, source) => Client::over(tcp(*address, *source).await?),
            Target::Unix(path) => Client::connect_unix(path).await?,
        };
        client.try_send(self.bytes()).await?;
        client.try_response(&self.method).await
    }
}
