//! An HTTP/2 client that decides about each frame that matters.

use super::client::{TlsFacts, tcp, tls};
use super::message::Message;
use super::wait::within;
use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use rustls::ClientConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// How a request says that its body is over (RFC 9113 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `END_STREAM` on the last frame that carries something.
    OnLast,
    /// `END_STREAM` on an empty DATA frame of its own, as many clients and libraries do.
    EmptyData,
}

/// One connection.
pub struct Http2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// With prior knowledge, in clear.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(tcp(address, None).await.expect("a connection")).await
    }

    /// Over TLS, offering `h2` alone.
    pub async fn connect_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<(Self, TlsFacts)> {
        let (stream, facts) = tls(address, name, config).await?;
        Ok((Self::over(stream).await, facts))
    }

    /// Over something that is connected already.
    pub async fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let handshake = client::Builder::new().handshake(stream);
        let (send, connection) = within("an HTTP/2 handshake", handshake)
            .await
            .expect("HTTP/2");
        Self {
            send,
            driver: tokio::spawn(connection),
        }
    }

    /// A request without a body.
    pub async fn get(&mut self, url: &str) -> Message {
        self.try_get(url).await.expect("a response")
    }

    pub async fn try_get(&mut self, url: &str) -> Result<Message, h2::Error> {
        self.call("GET", url, &[], b"", Ending::OnLast).await
    }

    /// A whole exchange; `url` is absolute.
    pub async fn call(
        &mut self,
        method: &str,
        url: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        ending: Ending,
    ) -> Result<Message, h2::Error> {
        let bare = body.is_empty() && ending == Ending::OnLast;
        let (response, mut stream) = self.open(method, url, fields, bare).await?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), ending == Ending::OnLast)?;
        }
        if ending == Ending::EmptyData {
            stream.send_data(Bytes::new(), true)?;
        }
        within("an HTTP/2 response", read(response)).await
    }

    /// An extended CONNECT (RFC 8441), whether or not the server takes such.
    pub async fn connect_protocol(
        &mut self,
        url: &str,
        protocol: &'static str,
    ) -> Result<Message, h2::Error> {
        let request = Request::builder().method("CONNECT").uri(url);
        let request = request.extension(h2::ext::Protocol::from_static(protocol));
        let request = request.body(()).expect("a request");
        let mut ready = within("a free stream", self.send.clone().ready()).await?;
        let (response, _stream) = ready.send_request(request, false)?;
        within("an HTTP/2 response", read(response)).await
    }

    /// Opens a stream and leaves its body to the caller.
    pub async fn open(
        &mut self,
        method: &str,
        url: &str,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut ready = within("a free stream", self.send.clone().ready()).await?;
        ready.send_request(request, end)
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads a response to its end. A stream that is reset within the body gives an incomplete message.
pub async fn read(response: ResponseFuture) -> Result<Message, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut message = head(&Response::from_parts(parts, ()));
    loop {
        match stream.data().await {
            None => break,
            Some(Err(_)) => return Ok(message),
            Some(Ok(data)) => {
                stream.flow_control().release_capacity(data.len())?;
                message.body.extend(&data);
            }
        }
    }
    message.complete = trailers(&mut stream, &mut message).await.is_ok();
    Ok(message)
}

fn head(response: &Response<()>) -> Message {
    let fields = response.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    Message {
        start: format!("HTTP/2 {}", response.status().as_u16()),
        fields: fields.collect(),
        ..Message::default()
    }
}

async fn trailers(stream: &mut RecvStream, message: &mut Message) -> Result<(), h2::Error> {
    for (name, value) in stream.trailers().await?.iter().flat_map(|map| map.iter()) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        message.trailers.push((name.to_string(), value));
    }
    Ok(())
}
