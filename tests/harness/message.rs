//! HTTP/1.1 messages as they stand on the wire (RFC 9112), read strictly.

use serde_json::Value;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Anything that bytes go in and out of.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the coming close a TCP reset, where there is TCP.
    fn reset_on_close(&self) {}
}

impl Stream for TcpStream {
    fn reset_on_close(&self) {
        self.set_zero_linger().expect("SO_LINGER");
    }
}

impl Stream for UnixStream {}

impl Stream for TlsStream<TcpStream> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

/// One request or response: its start line, its fields in order and as spelt, its body.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// `GET /a HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body was chunked on the wire.
    pub chunked: bool,
    /// False when the connection ended before the framing said so.
    pub complete: bool,
    /// The trailer section of a chunked body, or of an HTTP/2 stream.
    pub trailers: Vec<(String, String)>,
    /// The interim responses before this one, 100 to 199.
    pub interim: Vec<Message>,
    /// The head, byte for byte.
    pub head: Vec<u8>,
}

impl Message {
    /// The head's parts; an error says which byte is not HTTP.
    pub fn parse(head: &[u8]) -> io::Result<Self> {
        // values may hold any byte beyond ASCII (RFC 9110 §5.5)
        let text = String::from_utf8_lossy(head);
        let mut lines = text
            .strip_suffix("\r\n\r\n")
            .ok_or_else(|| invalid("a head without an end"))?
            .split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(format!("a line without a colon: {line:?}")))?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(invalid(format!(
                    "a field name that is not a token: {name:?}"
                )));
            }
            if value
                .bytes()
                .any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
            {
                return Err(invalid(format!("a control byte in {line:?}")));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Self {
            start,
            fields,
            head: head.to_vec(),
            ..Self::default()
        })
    }

    /// The value of the only field of that name; panics when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.headers(name);
        assert!(all.len() < 2, "{name} {} times in {self:?}", all.len());
        all.first().copied()
    }

    /// The values of all fields of that name.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {:?}", self.start))
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The request target.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body that is text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of a problem document, with what RFC 9457 and the design ask of every one checked on the way.
    pub fn problem(&self) -> String {
        let media_type = self.header("content-type");
        assert_eq!(media_type, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], u64::from(self.status()), "{problem}");
        for member in ["type", "title", "detail", "instance", "code"] {
            assert!(
                problem[member].is_string(),
                "{member} is missing in {problem}"
            );
        }
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    fn framing(&self) -> io::Result<Framing> {
        let codings = self.headers("transfer-encoding");
        let lengths = self.headers("content-length");
        match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => Ok(Framing::None),
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            ([], [length]) => match length.parse() {
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(invalid(format!("Content-Length: {length}"))),
            },
            _ => Err(invalid(format!("the framing {codings:?} with {lengths:?}"))),
        }
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

/// A stream and what was read from it beyond the last message.
pub struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire with {:?} unread", lossy(&self.buffer))
    }
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Closes the connection with a TCP reset.
    pub fn reset(self) {
        self.stream.reset_on_close();
    }

    /// Ends the sending side.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The next head, up to and with its empty line; none when the peer closed in between two messages.
    pub async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                return Ok(Some(self.buffer.drain(..end + 4).collect()));
            }
            if !self.fill().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(closed(format!("in a head after {:?}", lossy(&self.buffer)))),
                };
            }
        }
    }

    /// The body of a request whose head is `message`.
    pub async fn request_body(&mut self, message: &mut Message) -> io::Result<()> {
        match message.framing()? {
            Framing::None => {
                message.complete = true;
                Ok(())
            }
            framing => self.body(framing, message).await,
        }
    }

    /// The next final response to a request with this method. A body that ends too early gives an incomplete message,
    /// a head that does an error.
    pub async fn response(&mut self, method: &str) -> io::Result<Message> {
        let mut interim = Vec::new();
        loop {
            let head = self
                .head()
                .await?
                .ok_or_else(|| closed("before a response"))?;
            let mut message = Message::parse(&head)?;
            let status = message.status();
            if (100..200).contains(&status) && status != 101 {
                interim.push(message);
                continue;
            }
            message.interim = interim;
            match message.framing()? {
                _ if method == "HEAD" || matches!(status, 101 | 204 | 304) => {
                    message.complete = true
                }
                Framing::None => {
                    while self.fill().await? {}
                    message.body = std::mem::take(&mut self.buffer);
                    message.complete = true;
                }
                framing => match self.body(framing, &mut message).await {
                    Err(error) if is_end(&error) => {}
                    other => other?,
                },
            }
            return Ok(message);
        }
    }

    /// What is there after the last message, without waiting for more.
    pub fn surplus(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads until `count` bytes beyond the last message are there and takes them.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await? {
                return Err(closed(format!(
                    "{count} bytes wanted, {} there",
                    self.buffer.len()
                )));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads to the end of the stream and takes everything.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn body(&mut self, framing: Framing, message: &mut Message) -> io::Result<()> {
        if let Framing::Length(length) = framing {
            while message.body.len() < length {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(closed(format!(
                        "{} of {length} body bytes",
                        message.body.len()
                    )));
                }
                let take = self.buffer.len().min(length - message.body.len());
                message.body.extend(self.buffer.drain(..take));
            }
        } else {
            message.chunked = true;
            self.chunks(message).await?;
        }
        message.complete = true;
        Ok(())
    }

    async fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = match usize::from_str_radix(digits, 16) {
                Ok(size) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => size,
                _ => return Err(invalid(format!("a chunk size {line:?}"))),
            };
            if size == 0 {
                return self.trailers(message).await;
            }
            while self.buffer.len() < size + 2 {
                if !self.fill().await? {
                    let part = self.buffer.len().min(size);
                    message.body.extend(self.buffer.drain(..part));
                    return Err(closed("in a chunk"));
                }
            }
            message.body.extend(self.buffer.drain(..size));
            let end: Vec<u8> = self.buffer.drain(..2).collect();
            if end != b"\r\n" {
                return Err(invalid("a chunk without its CRLF"));
            }
        }
    }

    async fn trailers(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(format!("a trailer {line:?}")))?;
            message
                .trailers
                .push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| invalid("a line that is not text"));
            }
            if !self.fill().await? {
                return Err(closed("in a chunk line"));
            }
        }
    }

    /// Reads some more; false at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Whether the error says that the peer went away, rather than that it talks nonsense.
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

/// The token characters of RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn closed(when: impl Into<String>) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the peer closed: {}", when.into()),
    )
}
