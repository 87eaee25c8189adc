//! A client of the admin API: HTTP/1.1 over the Unix socket or loopback, one request per connection.
//!
//! The other side is our own admin API, so this reads what that writes: whole answers with a length. Anything else is
//! an error, never a guess.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long the gateway may take to accept and, between two reads, to answer. A reload of a large configuration that
/// waits for what it depends on takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is read: the effective configuration with 100,000 routes stays below.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where an admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(AdminAddress::Unix(path.into())),
            None if text.starts_with('/') => Ok(AdminAddress::Unix(text.into())),
            None => text.parse().map(AdminAddress::Tcp).map_err(|_| expected()),
            Some(_) => Err(expected()),
        }
    }
}

fn expected() -> String {
    "`unix:/path` or `ip:port` is expected".into()
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Unix(path) => path.display().fmt(f),
            AdminAddress::Tcp(address) => address.fmt(f),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens at any of the places.
    Nobody(Vec<(AdminAddress, io::Error)>),
    /// The connection broke, or what came is no answer of an admin API.
    Broken(AdminAddress, io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Nobody(looked) => {
                f.write_str("no answer from a gateway: is northgate running?")?;
                for (address, error) in looked {
                    write!(f, "\n  looked at {address}: {}", reason(error))?;
                }
                Ok(())
            }
            ClientError::Broken(address, error) => {
                write!(f, "no usable answer from {address}: {error}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no socket".into(),
        ErrorKind::ConnectionRefused => "nobody listens there".into(),
        ErrorKind::PermissionDenied => "you may not; its owner and its group may".into(),
        _ => error.to_string(),
    }
}

/// What the admin API answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Asks the first of these places where somebody listens.
///
/// # Errors
/// If nobody does, or if the answer is not whole.
pub fn ask(places: &[AdminAddress], method: &str, path: &str) -> Result<Answer, ClientError> {
    let mut looked = Vec::new();
    for place in places {
        match connect(place) {
            Ok(stream) => {
                return exchange(stream, method, path)
                    .map_err(|e| ClientError::Broken(place.clone(), e));
            }
            Err(error) => looked.push((place.clone(), error)),
        }
    }
    Err(ClientError::Nobody(looked))
}

/// Either kind of connection.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(address: &AdminAddress) -> io::Result<Box<dyn Stream>> {
    match address {
        AdminAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Box::new(stream))
        }
        AdminAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Box::new(stream))
        }
    }
}

fn exchange(mut stream: Box<dyn Stream>, method: &str, path: &str) -> io::Result<Answer> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nAccept: application/json\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut received = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut received);
    let answer = parse(&received);
    // a whole answer is one, however the connection ended
    match (answer, read) {
        (Some(answer), _) => Ok(answer),
        (None, Err(error)) if error.kind() == ErrorKind::WouldBlock => {
            Err(ErrorKind::TimedOut.into())
        }
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::new(
            ErrorKind::InvalidData,
            "it is not that of an admin API, or not whole",
        )),
    }
}

/// A status line, fields with a `Content-Length`, and that many bytes.
fn parse(received: &[u8]) -> Option<Answer> {
    let end = memchr::memmem::find(received, b"\r\n\r\n")?;
    let (head, rest) = received.split_at_checked(end)?;
    let body = rest.strip_prefix(b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    let status = status.split(' ').next()?.parse().ok()?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let body = body.get(..length.trim().parse().ok()?)?.to_vec();
    Some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Answers one connection with these bytes.
    fn server(answer: &'static [u8]) -> AdminAddress {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"));
            stream.write_all(answer).unwrap();
        });
        AdminAddress::Tcp(address)
    }

    fn nowhere() -> AdminAddress {
        AdminAddress::Unix("/nonexistent/admin.sock".into())
    }

    #[test]
    fn the_first_place_where_somebody_listens_is_asked() {
        let place = server(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length: 2\r\n\r\n{}");
        let answer = ask(&[nowhere(), place], "GET", "/v1/status").unwrap();
        assert_eq!((answer.status, answer.body), (200, b"{}".to_vec()));
    }

    #[test]
    fn nobody_there_says_where_it_looked() {
        let said = ask(&[nowhere()], "GET", "/v1/status")
            .unwrap_err()
            .to_string();
        assert!(said.contains("is northgate running?"), "{said}");
        assert!(
            said.contains("looked at /nonexistent/admin.sock: there is no socket"),
            "{said}"
        );
    }

    #[test]
    fn half_an_answer_is_none() {
        for half in [
            b"".as_slice(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            let error = ask(&[server(half)], "GET", "/v1/status").unwrap_err();
            assert!(matches!(error, ClientError::Broken(..)), "{error}");
        }
    }

    #[test]
    fn addresses_read_as_they_are_written_in_a_configuration() {
        assert_eq!("unix:/a/b".parse(), Ok(AdminAddress::Unix("/a/b".into())));
        assert_eq!("/a/b".parse(), Ok(AdminAddress::Unix("/a/b".into())));
        assert_eq!(
            "127.0.0.1:9901".parse(),
            Ok(AdminAddress::Tcp(([127, 0, 0, 1], 9901).into()))
        );
        for text in ["", "unix:", "localhost", "127.0.0.1"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }
}
