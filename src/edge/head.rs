//! The raw check of an HTTP/1 head, before any parser has had a chance to be lenient.
//!
//! Parsers accept more than they should: a bare LF as a line end, a folded line, a space before the colon, two lengths.
//! Each of these is read differently by someone on the path, which is how one request becomes two (request smuggling).
//! So the head is checked here, once, as it came from the wire, and what is ambiguous is refused (RFC 9112 §2.2, §3,
//! §5, §6). The check works line by line and remembers where it was: the verdict does not depend on how the bytes were
//! cut into reads, and a head that comes slowly costs no more than one that comes at once.

use crate::exchange::head_limits::HeadLimits;
use crate::problem::Kind;
use memchr::memchr;

/// Why a message is refused: what the client is told, and a sentence that says which rule it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub detail: &'static str,
}

impl Fault {
    pub(super) const fn new(kind: Kind, detail: &'static str) -> Self {
        Self { kind, detail }
    }
}

/// Where the request's content ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; zero where nothing is said.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
}

/// A head that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the request line begins: a client may send one empty line before it (RFC 9112 §2.2).
    pub start: usize,
    /// Where the content begins.
    pub end: usize,
    pub framing: Framing,
    /// Whether the client asks for another protocol on this connection (RFC 9110 §7.8).
    pub upgrade: bool,
    /// Whether the client waits for a `100 Continue` before it sends the content (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Whether it is of HTTP/1.0, which knows no interim answers (RFC 9110 §15.2).
    pub is_http10: bool,
}

/// `HTTP/1.x`: all that the framing rules distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// Checks one head, in as many steps as it takes to arrive.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    limits: HeadLimits,
    /// Where the request line begins.
    start: usize,
    /// Where the line that is being read begins.
    line: usize,
    /// How far a line end was looked for.
    searched: usize,
    fields: usize,
    /// Set by the request line.
    version: Option<Version>,
    /// Where the authority of an absolute target stands.
    authority: Option<(usize, usize)>,
    /// Where the value of `Host` stands.
    host: Option<(usize, usize)>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    expects_continue: bool,
}

impl HeadScanner {
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            start: 0,
            line: 0,
            searched: 0,
            fields: 0,
            version: None,
            authority: None,
            host: None,
            length: None,
            chunked: false,
            upgrade: false,
            expects_continue: false,
        }
    }

    /// Goes on with `bytes`, which is all that arrived so far, from the first byte. `None`: the head is not complete.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<Head>, Fault> {
        loop {
            let rest = bytes.get(self.searched..).unwrap_or_default();
            let Some(offset) = memchr(b'\n', rest) else {
                self.searched = bytes.len();
                self.check_unfinished(bytes)?;
                return Ok(None);
            };
            let feed = self.searched + offset;
            self.searched = feed + 1;
            self.check_extent(bytes, feed + 1)?;
            let content = bytes.get(self.line..feed).unwrap_or_default();
            let Some(content) = content.strip_suffix(b"\r") else {
                return Err(self.malformed("a line ends without CR"));
            };
            if content.is_empty() && self.version.is_some() {
                return self.finish(bytes).map(Some);
            }
            self.check_line(content)?;
            self.line = self.searched;
        }
    }

    /// One complete line without its CRLF.
    fn check_line(&mut self, content: &[u8]) -> Result<(), Fault> {
        if self.version.is_some() {
            return self.check_field(content);
        }
        if content.is_empty() {
            // one empty line before the request line is tolerated, a second is not
            if self.start > 0 {
                return Err(self.malformed("empty lines before the request line"));
            }
            self.start = self.searched;
            return Ok(());
        }
        self.check_request_line(content)
    }

    /// What can be said of a line whose end has not arrived.
    fn check_unfinished(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.check_extent(bytes, bytes.len())?;
        if self.version.is_none() {
            let line = bytes.get(self.line..).unwrap_or_default();
            // a lone CR may be the empty line that is tolerated
            if line != b"\r" {
                self.check_method(line.split(|byte| *byte == b' ').next().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// The bounds, for a line that reaches to `end`, whether or not it is complete. They come before anything else that
    /// is said of the line, so that the verdict is the same when it arrives byte by byte.
    fn check_extent(&self, bytes: &[u8], end: usize) -> Result<(), Fault> {
        let line = bytes.get(self.line..end).unwrap_or_default();
        if self.version.is_none() {
            let longest =
                self.limits.method_bytes + self.limits.target_bytes + " HTTP/1.1\r\n ".len();
            if line.len() > longest {
                let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                self.check_method(method)?;
                return Err(Fault::new(
                    Kind::RequestTargetLength,
                    "the request target is too long",
                ));
            }
        } else if line.len() > self.limits.field_bytes + "\r\n".len() {
            return Err(Fault::new(
                Kind::RequestHeadLength,
                "a header field is too long",
            ));
        }
        if end > self.limits.bytes {
            return Err(Fault::new(
                Kind::RequestHeadLength,
                "the request head is too long",
            ));
        }
        Ok(())
    }

    fn check_method(&self, method: &[u8]) -> Result<(), Fault> {
        if method.len() > self.limits.method_bytes {
            return Err(Fault::new(Kind::RequestLine, "the method is too long"));
        }
        if !method.iter().all(|byte| is(*byte, TOKEN)) {
            return Err(Fault::new(Kind::RequestLine, "the method is not a token"));
        }
        Ok(())
    }

    /// `METHOD SP target SP HTTP/1.x` and nothing else (RFC 9112 §3).
    fn check_request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (method, rest) = split_at_space(line).unwrap_or((line, b""));
        self.check_method(method)?;
        let at = rest.iter().rposition(|byte| *byte == b' ');
        let (Some(at), false) = (at, method.is_empty()) else {
            return Err(Fault::new(
                Kind::RequestLine,
                "the request line is not METHOD target HTTP/1.1",
            ));
        };
        let (target, version) = (
            rest.get(..at).unwrap_or_default(),
            rest.get(at + 1..).unwrap_or_default(),
        );
        let version = version_of(version)?;
        if method == b"CONNECT" || method == b"TRACE" {
            return Err(Fault::new(Kind::RequestMethod, "the method is not served"));
        }
        if target.len() > self.limits.target_bytes {
            return Err(Fault::new(
                Kind::RequestTargetLength,
                "the request target is too long",
            ));
        }
        let target_at = self.line + method.len() + 1;
        self.authority =
            authority_of(method, target)?.map(|(from, to)| (target_at + from, target_at + to));
        self.version = Some(version);
        Ok(())
    }

    /// `name: value` on one line (RFC 9112 §5).
    fn check_field(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.fields += 1;
        if self.fields > self.limits.fields {
            return Err(Fault::new(
                Kind::RequestHeadLength,
                "too many header fields",
            ));
        }
        let Some(colon) = memchr(b':', line) else {
            return Err(Fault::new(
                Kind::RequestHeader,
                "a header line has no colon",
            ));
        };
        let (name, value) = (
            line.get(..colon).unwrap_or_default(),
            line.get(colon + 1..).unwrap_or_default(),
        );
        // an empty name, a folded line and a space before the colon all show here
        if name.is_empty() || !name.iter().all(|byte| is(*byte, TOKEN)) {
            return Err(Fault::new(
                Kind::RequestHeader,
                "a header field name is not a token",
            ));
        }
        if value.iter().any(|byte| is(*byte, CONTROL)) {
            return Err(Fault::new(
                Kind::RequestHeader,
                "a header field value has control characters",
            ));
        }
        self.note_field(name, value, self.line + colon + 1)
    }

    /// Takes in the fields that decide about framing and authority. The length tells most others apart.
    fn note_field(&mut self, name: &[u8], value: &[u8], at: usize) -> Result<(), Fault> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.note_host(value, at),
            6 if name.eq_ignore_ascii_case(b"expect") => self.note_expect(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.note_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.note_coding(value),
            _ => Ok(()),
        }
    }

    fn note_host(&mut self, value: &[u8], at: usize) -> Result<(), Fault> {
        let host = value.trim_ascii();
        if self.host.is_some() {
            return Err(Fault::new(Kind::RequestHost, "Host is repeated"));
        }
        if !is_authority(host) {
            return Err(Fault::new(
                Kind::RequestHost,
                "Host is not a host with an optional port",
            ));
        }
        let from = at + (value.len() - value.trim_ascii_start().len());
        self.host = Some((from, from + host.len()));
        Ok(())
    }

    /// RFC 9110 §10.1.1: the one expectation there is.
    fn note_expect(&mut self, value: &[u8]) -> Result<(), Fault> {
        if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
            return Err(Fault::new(
                Kind::RequestExpect,
                "the expectation is not 100-continue",
            ));
        }
        self.expects_continue = true;
        Ok(())
    }

    /// Exactly one number (RFC 9110 §8.6). Repeated equal ones could be merged; nobody honest sends them.
    fn note_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let digits = value.trim_ascii();
        if self.length.is_some() {
            return Err(Fault::new(
                Kind::RequestFraming,
                "Content-Length is repeated",
            ));
        }
        let length = std::str::from_utf8(digits)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok())
            .filter(|length| *length <= i64::MAX as u64);
        if length.is_none() {
            return Err(Fault::new(
                Kind::RequestFraming,
                "Content-Length is not one number",
            ));
        }
        self.length = length;
        Ok(())
    }

    /// Exactly `chunked` (RFC 9112 §6.1).
    fn note_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        let coding = value.trim_ascii();
        if self.chunked {
            return Err(Fault::new(
                Kind::RequestFraming,
                "Transfer-Encoding is repeated",
            ));
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        if are_known_codings(coding) {
            return Err(Fault::new(
                Kind::RequestCoding,
                "only the chunked transfer coding is implemented",
            ));
        }
        Err(Fault::new(
            Kind::RequestFraming,
            "Transfer-Encoding is not chunked",
        ))
    }

    /// What only the whole head can tell.
    fn finish(&self, bytes: &[u8]) -> Result<Head, Fault> {
        if self.chunked && self.version == Some(Version::Http10) {
            return Err(Fault::new(
                Kind::RequestFraming,
                "HTTP/1.0 has no Transfer-Encoding",
            ));
        }
        if self.chunked && self.length.is_some() {
            return Err(Fault::new(
                Kind::RequestFraming,
                "both Content-Length and Transfer-Encoding",
            ));
        }
        let text = |(from, to): (usize, usize)| bytes.get(from..to);
        match (self.host, self.authority) {
            (None, _) if self.version == Some(Version::Http11) => {
                return Err(Fault::new(Kind::RequestHost, "Host is missing"));
            }
            (Some(host), Some(authority)) if text(host) != text(authority) => {
                return Err(Fault::new(
                    Kind::RequestHost,
                    "Host is not the authority of the target",
                ));
            }
            _ => {}
        }
        Ok(Head {
            start: self.start,
            end: self.searched,
            framing: match self.chunked {
                true => Framing::Chunked,
                false => Framing::Length(self.length.unwrap_or(0)),
            },
            upgrade: self.upgrade,
            expects_continue: self.expects_continue,
            is_http10: self.version == Some(Version::Http10),
        })
    }

    /// A fault of the line structure: of the request line, or of a field.
    fn malformed(&self, detail: &'static str) -> Fault {
        let kind = match self.version {
            None => Kind::RequestLine,
            Some(_) => Kind::RequestHeader,
        };
        Fault::new(kind, detail)
    }
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr(b' ', text)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// RFC 9112 §2.3. Another digit is another version, anything else is no request line.
fn version_of(text: &[u8]) -> Result<Version, Fault> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major] if major.is_ascii_digit() => Err(UNKNOWN_VERSION),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(UNKNOWN_VERSION)
        }
        _ => Err(Fault::new(
            Kind::RequestLine,
            "the request line does not end with HTTP/1.1",
        )),
    }
}

const UNKNOWN_VERSION: Fault = Fault::new(
    Kind::RequestVersion,
    "the version is neither HTTP/1.0 nor HTTP/1.1",
);

/// The forms of a target that are served (RFC 9112 §3.2); of an absolute one, where its authority stands.
fn authority_of(method: &[u8], target: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let malformed = |detail| Err(Fault::new(Kind::RequestTarget, detail));
    if !target.iter().all(|byte| is(*byte, TARGET)) && !holds_only_what_urls_may(target) {
        return malformed("the request target has a character that no URL has");
    }
    if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
        return Ok(None);
    }
    let Some(from) = ["http://", "https://"].iter().find_map(|scheme| {
        let prefix = target.get(..scheme.len())?;
        prefix
            .eq_ignore_ascii_case(scheme.as_bytes())
            .then_some(scheme.len())
    }) else {
        return malformed("the request target is neither a path nor an http URL");
    };
    let rest = target.get(from..).unwrap_or_default();
    let length = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    match is_authority(rest.get(..length).unwrap_or_default()) {
        true => Ok(Some((from, from + length))),
        false => malformed("the request target has no host, or more than a host and a port"),
    }
}

/// Whether a target that is not all [`TARGET`] has no more than a double quote in its path or a backtick in its query.
/// Pingora's parser takes these there and nowhere else, and it answers by itself what it does not take.
fn holds_only_what_urls_may(target: &[u8]) -> bool {
    let query = memchr(b'?', target).unwrap_or(target.len());
    target.iter().enumerate().all(|(at, byte)| match byte {
        b'"' => at < query,
        b'`' => at > query,
        byte => is(*byte, TARGET),
    })
}

/// `host [":" port]` without user information (RFC 3986 §3.2): a name, an IPv4 address or an IPv6 address in brackets.
/// Names are kept to what a host name can hold; `, / ? # @`, escapes and blanks are read differently by different
/// servers.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host_is_valid, rest) = match text.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = memchr(b']', literal) else {
                return false;
            };
            let address = literal.get(..end).unwrap_or_default();
            let valid = std::str::from_utf8(address)
                .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            (valid, literal.get(end + 1..).unwrap_or_default())
        }
        None => {
            let end = memchr(b':', text).unwrap_or(text.len());
            let name = text.get(..end).unwrap_or_default();
            let valid = !name.is_empty() && name.iter().all(|byte| is(*byte, NAME));
            (valid, text.get(end..).unwrap_or_default())
        }
    };
    host_is_valid && (rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port))
}

fn is_port(text: &[u8]) -> bool {
    // more digits than five are no port whatever their value, and five can't overflow the number
    if !(1..=5).contains(&text.len()) {
        return false;
    }
    let number = text.iter().try_fold(0_u32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        Some(number * 10 + u32::from(digit))
    });
    number.is_some_and(|number| number <= u32::from(u16::MAX))
}

/// A list of codings that exist, of which only the last may be `chunked`: well formed, and not implemented (501).
fn are_known_codings(list: &[u8]) -> bool {
    const KNOWN: [&[u8]; 7] = [
        b"gzip",
        b"x-gzip",
        b"compress",
        b"x-compress",
        b"deflate",
        b"br",
        b"zstd",
    ];
    let known = |coding: &[u8]| KNOWN.iter().any(|known| known.eq_ignore_ascii_case(coding));
    let mut codings = list
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .rev();
    let last = codings.next().unwrap_or_default();
    let more = codings.all(known);
    more && (known(last) || (last.eq_ignore_ascii_case(b"chunked") && list.contains(&b',')))
}

/// Whether a byte may stand in a field name or a method.
pub(super) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// `token` (RFC 9110 §5.6.2).
const TOKEN: u8 = 1;
/// What a field value must not hold: controls but the tab (RFC 9110 §5.5).
const CONTROL: u8 = 2;
/// What a request target may hold everywhere: visible ASCII but `#`, quotes, and angle brackets.
const TARGET: u8 = 4;
/// What a host name may hold: unreserved, sub-delims but the comma (RFC 3986 §3.2.2).
const NAME: u8 = 8;

fn is(byte: u8, class: u8) -> bool {
    CLASSES
        .get(usize::from(byte))
        .is_some_and(|classes| classes & class != 0)
}

/// One look-up per byte instead of a chain of comparisons.
static CLASSES: [u8; 256] = classes();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index out of bounds"
)]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        if alphanumeric
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            table[at] |= TOKEN;
        }
        if (byte < 32 && byte != b'\t') || byte == 127 {
            table[at] |= CONTROL;
        }
        if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'`' | b'<' | b'>') {
            table[at] |= TARGET;
        }
        if alphanumeric
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            )
        {
            table[at] |= NAME;
        }
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn scan(bytes: &[u8]) -> Result<Option<Head>, Kind> {
        HeadScanner::new(HeadLimits::default())
            .advance(bytes)
            .map_err(|fault| fault.kind)
    }

    /// The verdict when the bytes come in pieces that end at `cuts`.
    fn scan_in_pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Result<Option<Head>, Kind> {
        let mut scanner = HeadScanner::new(HeadLimits::default());
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut head = Ok(None);
        for cut in cuts {
            head = scanner
                .advance(&bytes[..cut.min(bytes.len())])
                .map_err(|fault| fault.kind);
            if head != Ok(None) {
                break;
            }
        }
        head
    }

    /// `GET / HTTP/1.1` with a host and these lines.
    fn get(lines: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
    }

    #[test]
    fn what_is_well_formed_passes() {
        let cases: &[(&str, Framing)] = &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            (
                "GET http://a:80/x HTTP/1.1\r\nHost: a:80\r\n\r\n",
                Framing::Length(0),
            ),
            (
                "GET HTTPS://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
                Framing::Length(0),
            ),
            (
                "GET /\"?a=%20&b=|{}`^[] HTTP/1.1\r\nHost: a\r\n\r\n",
                Framing::Length(0),
            ),
            ("GET //x HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            (
                "M-SEARCH / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
                Framing::Length(0),
            ),
            (
                "POST / HTTP/1.1\r\nHOST:a\r\ncontent-LENGTH:  7 \r\n\r\n",
                Framing::Length(7),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\t\r\n\r\n",
                Framing::Chunked,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t\r\nZ: \u{e9}\t;\r\n\r\n",
                Framing::Length(0),
            ),
            (
                "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n",
                Framing::Length(i64::MAX as u64),
            ),
        ];
        for (text, framing) in cases {
            let head = scan(text.as_bytes())
                .unwrap_or_else(|kind| panic!("{text:?}: {kind:?}"))
                .unwrap();
            assert_eq!(head.framing, *framing, "{text:?}");
            assert_eq!(head.end, text.len(), "{text:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        use Kind::*;
        let cases: Vec<(String, Kind)> = [
            // 1.11 the request line
            ("GET /\r\n\r\n", RequestLine),
            ("GET\r\n\r\n", RequestLine),
            (" GET / HTTP/1.1\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1 \r\n\r\n", RequestLine),
            ("GET / http/1.1\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1x\r\n\r\n", RequestLine),
            ("GET\t/\tHTTP/1.1\r\n\r\n", RequestLine),
            ("G(T / HTTP/1.1\r\n\r\n", RequestLine),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", RequestLine),
            ("\nGET / HTTP/1.1\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1\n\n", RequestLine),
            ("\u{16}\u{3}\u{1}", RequestLine),
            ("GET / HTTP/2.0\r\n\r\n", RequestVersion),
            ("GET / HTTP/1.2\r\n\r\n", RequestVersion),
            ("GET / HTTP/0.9\r\n\r\n", RequestVersion),
            ("GET / HTTP/3\r\n\r\n", RequestVersion),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RequestVersion),
            // 1.12 the target
            ("GET  HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET / a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /#a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /\u{1} HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /\u{7f} HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /<a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /?a> HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /` HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET /?\" HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET a.example HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET @a.example HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET unix:/a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET * HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET ?a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET ftp://a/ HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET http:/a HTTP/1.1\r\n\r\n", RequestTarget),
            // 1.13 the absolute form
            ("GET http:///a HTTP/1.1\r\n\r\n", RequestTarget),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", RequestTarget),
            ("GET http://%/ HTTP/1.1\r\nHost: %\r\n\r\n", RequestTarget),
            (
                "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n",
                RequestTarget,
            ),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", RequestHost),
            ("GET http://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", RequestHost),
            ("GET http://a/ HTTP/1.1\r\n\r\n", RequestHost),
            // 1.14 the host
            ("GET / HTTP/1.1\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", RequestHost),
            ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", RequestHost),
            // 1.16
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", RequestMethod),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", RequestMethod),
            // 1.3
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                RequestFraming,
            ),
        ]
        .map(|(text, kind)| (text.to_owned(), kind))
        .into_iter()
        .chain(
            [
                // 1.9 lines
                ("X: a\n", RequestHeader),
                ("X: a\r", RequestHeader),
                (" X: a\r\n", RequestHeader),
                ("X: a\r\n b\r\n", RequestHeader),
                ("X: a\r\n\tb\r\n", RequestHeader),
                ("X : a\r\n", RequestHeader),
                ("X\t: a\r\n", RequestHeader),
                (": a\r\n", RequestHeader),
                ("X\r\n", RequestHeader),
                ("X(: a\r\n", RequestHeader),
                ("X\u{e9}: a\r\n", RequestHeader),
                ("X\0: a\r\n", RequestHeader),
                // 1.10 values
                ("X: a\0\r\n", RequestHeader),
                ("X: a\u{1}\r\n", RequestHeader),
                ("X: a\u{b}\r\n", RequestHeader),
                ("X: a\u{7f}\r\n", RequestHeader),
                ("X: a\rY: b\r\n", RequestHeader),
                // 1.4, 1.5
                ("Content-Length: \r\n", RequestFraming),
                ("Content-Length: +1\r\n", RequestFraming),
                ("Content-Length: -1\r\n", RequestFraming),
                ("Content-Length: 1 1\r\n", RequestFraming),
                ("Content-Length: 0x1\r\n", RequestFraming),
                ("Content-Length: 1, 2\r\n", RequestFraming),
                ("Content-Length: 5, 5\r\n", RequestFraming),
                ("Content-Length: 5\r\nContent-Length: 5\r\n", RequestFraming),
                ("Content-Length: 5\r\ncontent-length: 6\r\n", RequestFraming),
                ("Content-Length: 9223372036854775808\r\n", RequestFraming),
                ("Content-Length: 99999999999999999999\r\n", RequestFraming),
                // 1.1, 1.2
                (
                    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                    RequestFraming,
                ),
                (
                    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                    RequestFraming,
                ),
                ("Transfer-Encoding: \r\n", RequestFraming),
                ("Transfer-Encoding: identity\r\n", RequestFraming),
                ("Transfer-Encoding: chunked, chunked\r\n", RequestFraming),
                ("Transfer-Encoding: chunked, gzip\r\n", RequestFraming),
                (
                    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                    RequestFraming,
                ),
                ("Transfer-Encoding: chunked;q=1\r\n", RequestFraming),
                ("Transfer-Encoding: \"chunked\"\r\n", RequestFraming),
                ("Transfer-Encoding: xchunked\r\n", RequestFraming),
                ("Transfer-Encoding: ,chunked\r\n", RequestFraming),
                ("Transfer-Encoding: gzip\r\n", RequestCoding),
                ("Transfer-Encoding: gzip, chunked\r\n", RequestCoding),
                // 1.19
                ("Expect: 200-ok\r\n", RequestExpect),
                ("Expect: 100-continue, x\r\n", RequestExpect),
            ]
            .map(|(lines, kind)| (get(lines), kind)),
        )
        .collect();
        for (text, kind) in cases {
            assert_eq!(scan(text.as_bytes()), Err(kind), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bounded_exactly() {
        let line = |target: usize| {
            format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                "a".repeat(target - 1)
            )
        };
        let field = |bytes: usize| get(&format!("X:{}\r\n", "a".repeat(bytes - 2)));
        let fields = |count: usize| get(&"X: a\r\n".repeat(count - 1));
        let method = |bytes: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(bytes));
        let whole = |bytes: usize| {
            let rest = bytes - get("").len() - 3 * "X:\r\n".len();
            let x = "a".repeat(rest / 3);
            get(&format!(
                "X:{x}\r\nX:{x}\r\nX:{x}{}\r\n",
                "a".repeat(rest % 3)
            ))
        };
        let verdict = |text: String| scan(text.as_bytes()).map(|head| head.is_some());
        assert_eq!(verdict(line(8 << 10)), Ok(true));
        assert_eq!(verdict(line((8 << 10) + 1)), Err(Kind::RequestTargetLength));
        assert_eq!(
            verdict("GET /".to_owned() + &"a".repeat(9000)),
            Err(Kind::RequestTargetLength)
        );
        assert_eq!(verdict(field(16 << 10)), Ok(true));
        assert_eq!(verdict(field((16 << 10) + 1)), Err(Kind::RequestHeadLength));
        assert_eq!(verdict(fields(100)), Ok(true));
        assert_eq!(verdict(fields(101)), Err(Kind::RequestHeadLength));
        assert_eq!(verdict(method(32)), Ok(true));
        assert_eq!(verdict(method(33)), Err(Kind::RequestLine));
        assert_eq!(whole(32 << 10).len(), 32 << 10);
        assert_eq!(verdict(whole(32 << 10)), Ok(true));
        assert_eq!(verdict(whole((32 << 10) + 1)), Err(Kind::RequestHeadLength));
    }

    #[test]
    fn a_head_says_what_the_exchange_needs() {
        let text = "\r\nPOST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nab";
        let head = scan(text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.start, head.end), (2, text.len() - 2));
        assert!(head.upgrade && head.expects_continue);
    }

    /// Heads made of pieces that are right, wrong, and wrong only together.
    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let line = select(vec![
            "GET / HTTP/1.1\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "POST / HTTP/1.0\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "G\rT / HTTP/1.1\r\n",
            "GET /\r\n",
        ]);
        let field = select(vec![
            "Host: a\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "X: a\r\n",
            "X: a\n",
            " fold\r\n",
            "\r",
            "Expect: 100-continue\r\n",
            "Upgrade: x\r\n",
        ]);
        let pieces = (line, proptest::collection::vec(field, 0..6), any::<bool>());
        let made = pieces.prop_map(|(line, fields, ends)| {
            let end = if ends { "\r\n" } else { "" };
            format!("{line}{}{end}", fields.concat()).into_bytes()
        });
        prop_oneof![made, proptest::collection::vec(any::<u8>(), 0..64)]
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
            head in heads(),
            cuts in proptest::collection::vec(0_usize..80, 0..8),
        ) {
            prop_assert_eq!(scan_in_pieces(&head, cuts), scan(&head));
            prop_assert_eq!(scan_in_pieces(&head, (0..head.len()).collect()), scan(&head));
        }

        #[test]
        fn what_follows_a_head_does_not_change_it(head in heads(), rest in proptest::collection::vec(any::<u8>(), 0..16)) {
            let longer = [head.clone(), rest].concat();
            match scan(&head) {
                Ok(None) => {}
                verdict => prop_assert_eq!(scan(&longer), verdict),
            }
        }
    }
}
