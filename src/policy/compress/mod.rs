//! `compress`: encodes what endpoints answer, for clients that ask for it: brotli, zstd, gzip (RFC 9110 §12.5.3).
//!
//! What the client likes best is what it gets, by its weights; `;q=0` refuses, and `identity` counts too. Left alone is
//! what is encoded already, what says `no-transform` (RFC 9111 §5.2), carries a digest of its bytes, is a part of a whole
//! (206), is small, or is of another type; gRPC always. Whatever could have been answered otherwise says so in `Vary`; an
//! encoded answer has no length, no ranges, and a weak `ETag`, since its bytes are not those the tag was made for.
//!
//! Answers without a length, event streams among them, are handed out piece by piece as they come. An endpoint sees the
//! client's `Accept-Encoding`: one that compresses by itself goes on doing so. The gateway's own answers stay as they
//! are. A trailer section of an answer that is encoded is not passed on.
//!
//! ```yaml
//! policies:
//!   compress: {encodings: [br, gzip], types: [text/*, application/json], min_size: 512B, level: {gzip: 4}}
//! ```

mod accept;
mod encoder;

use super::{BodyFilter, CompileContext, Hooks, OnResponseBody, Policy, Stage};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::exchange::client::is_event_stream;
use crate::observe::metrics::CompressMetrics;
use crate::units::{ByteSize, MediaPattern, OneOrMany, Spanned};
use accept::Choice;
use bytes::Bytes;
use encoder::Encoder;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// The smallest answer that is encoded, where nothing is written: below it, little is left to gain within one packet.
const SIZE_MIN: ByteSize = ByteSize(1024);

/// What is encoded where nothing is written: text in its many forms, and formats that are not compressed by themselves.
const TYPES: [&str; 20] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/x-ndjson",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/*+xml",
    "application/yaml",
    "application/graphql",
    "application/wasm",
    "application/rtf",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/*+xml",
    "image/bmp",
    "image/x-icon",
    "image/vnd.microsoft.icon",
];

static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
static DIGEST: HeaderName = HeaderName::from_static("digest");
static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// See the module.
pub struct Compress;

/// The settings of `compress`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CompressPolicy")]
pub struct Config {
    /// What is offered, and in which order where a client likes several equally: `br`, `zstd`, `gzip` by default.
    #[serde(default)]
    pub encodings: Option<OneOrMany<Spanned<Encoding>>>,
    /// Answers that are known to be smaller stay as they are: 1 KiB by default.
    #[serde(default)]
    pub min_size: Option<ByteSize>,
    /// Media types, such as `text/*` or `application/*+json`: text, JSON, XML, scripts and fonts by default.
    #[serde(default)]
    pub types: Option<OneOrMany<Spanned<MediaPattern>>>,
    /// How hard to try, for each encoding.
    #[serde(default)]
    pub level: Levels,
}

/// How hard to try: more takes longer, and the thread's other requests wait. Levels above these bounds are for files
/// that are compressed once.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CompressLevels")]
pub struct Levels {
    /// 0 to 9; 4 by default.
    #[serde(default)]
    pub br: Option<Spanned<u32>>,
    /// 1 to 12; 3 by default.
    #[serde(default)]
    pub zstd: Option<Spanned<u32>>,
    /// 1 to 9; 5 by default.
    #[serde(default)]
    pub gzip: Option<Spanned<u32>>,
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ContentEncoding")]
pub enum Encoding {
    Br,
    Zstd,
    Gzip,
}

impl Encoding {
    /// All, as they are preferred where nothing is written: what gets the same text smaller in about the same time
    /// first.
    pub const ALL: [Self; 3] = [Self::Br, Self::Zstd, Self::Gzip];

    /// As `Content-Encoding` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The one of that name, in upper or lower case. `x-gzip` is the same as `gzip` (RFC 9110 §8.4.1.3).
    fn named(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Self::Gzip);
        }
        let mut all = Self::ALL.into_iter();
        all.find(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()))
    }

    /// The lowest and the highest level: 64 KiB, the largest piece that comes at once, take a few milliseconds at most.
    fn levels(self) -> (u32, u32) {
        match self {
            Self::Br => (0, 9),
            Self::Zstd => (1, 12),
            Self::Gzip => (1, 9),
        }
    }

    fn default_level(self) -> u32 {
        match self {
            Self::Br => 4,
            Self::Zstd => 3,
            Self::Gzip => 5,
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }
}

impl Levels {
    fn of(&self, encoding: Encoding) -> Option<&Spanned<u32>> {
        match encoding {
            Encoding::Br => self.br.as_ref(),
            Encoding::Zstd => self.zstd.as_ref(),
            Encoding::Gzip => self.gzip.as_ref(),
        }
    }
}

impl Policy for Compress {
    type Config = Config;
    const STAGE: Stage = Stage::Transform;
    const ALTERS: bool = true;
    const BARE: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let metrics = cx.metrics().compress(cx.place());
        let rules = Rules::compile(config, metrics, &mut |error| cx.report(error));
        Ok(Hooks::new().on_response_body(Arc::new(rules)))
    }
}

/// Compiled settings.
struct Rules {
    offered: Vec<Encoding>,
    size_min: u64,
    types: Vec<MediaPattern>,
    /// By [`Encoding`].
    levels: [u32; Encoding::ALL.len()],
    metrics: Arc<CompressMetrics>,
}

impl Rules {
    fn compile(
        config: &Config,
        metrics: Arc<CompressMetrics>,
        report: &mut dyn FnMut(Diagnostic),
    ) -> Self {
        let offered = offered(config, report);
        let mut levels = Encoding::ALL.map(Encoding::default_level);
        for encoding in Encoding::ALL {
            let Some(written) = config.level.of(encoding) else {
                continue;
            };
            if let Err(diagnostic) = check_level(encoding, written, &offered) {
                report(diagnostic);
            }
            if let Some(level) = levels.get_mut(encoding as usize) {
                *level = **written;
            }
        }
        Self {
            offered,
            size_min: config.min_size.unwrap_or(SIZE_MIN).0,
            types: types(config, report),
            levels,
            metrics,
        }
    }

    /// Whether answers of that type are encoded.
    fn takes(&self, headers: &HeaderMap) -> bool {
        let written = headers.get(header::CONTENT_TYPE);
        let Some(text) = written.and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let media_type = text.split(';').next().unwrap_or(text).trim();
        !is_grpc(media_type) && self.types.iter().any(|pattern| pattern.covers(media_type))
    }

    fn choose(&self, view: View<'_>) -> Choice {
        let fields = view.request.headers.get_all(header::ACCEPT_ENCODING);
        let fields = fields.iter().map(HeaderValue::as_bytes);
        accept::choose(fields, &self.offered)
    }

    /// Keeps what a client has stored of an encoded answer apart from what it might have stored of a plain one: the tag
    /// that it asks about is the weak one that it was given.
    fn not_modified(&self, view: View<'_>, response: &mut ResponseHeader) {
        let Some(weak) = weakened(&response.headers) else {
            return;
        };
        let asked = view.request.headers.get_all(header::IF_NONE_MATCH).iter();
        let tags = asked.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
        let ours = tags
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == weak.as_bytes());
        if ours && self.choose(view) != Choice::Plain {
            let _ = response.insert_header(header::ETAG, weak);
            vary(response);
        }
    }

    fn filter(&self, encoding: Encoding, response: &ResponseHeader) -> Option<Filter> {
        let length = content_length(&response.headers);
        let level = self.levels.get(encoding as usize).copied()?;
        let encoder = Encoder::new(encoding, level, length).ok()?;
        Some(Filter {
            encoder: Some(encoder),
            flush: length.is_none() || is_event_stream(&response.headers),
            taken: 0,
            given: 0,
            metrics: self.metrics.clone(),
        })
    }
}

fn offered(config: &Config, report: &mut dyn FnMut(Diagnostic)) -> Vec<Encoding> {
    let Some(written) = &config.encodings else {
        return Encoding::ALL.to_vec();
    };
    let mut offered: Vec<Encoding> = Vec::new();
    for encoding in &written.0 {
        if offered.contains(encoding) {
            let message = format!("`{}` stands twice", encoding.as_str());
            report(Diagnostic::error(message, encoding.span()).hint("once is enough"));
        } else {
            offered.push(**encoding);
        }
    }
    offered
}

fn check_level(
    encoding: Encoding,
    written: &Spanned<u32>,
    offered: &[Encoding],
) -> Result<(), Diagnostic> {
    let name = encoding.as_str();
    if !offered.contains(&encoding) {
        let message = format!("a level for `{name}`, which is not offered");
        return Err(Diagnostic::error(message, written.span())
            .hint(format!("leave it out, or add `{name}` to `encodings`")));
    }
    let (lowest, highest) = encoding.levels();
    if !(lowest..=highest).contains(&**written) {
        let message = format!("{} is not a level of `{name}` here", **written);
        return Err(Diagnostic::error(message, written.span()).hint(format!(
            "from {lowest} to {highest}; what is beyond takes too long while a client waits"
        )));
    }
    Ok(())
}

fn types(config: &Config, report: &mut dyn FnMut(Diagnostic)) -> Vec<MediaPattern> {
    let Some(written) = &config.types else {
        // they are read by a test
        let default = TYPES.iter().filter_map(|text| text.parse().ok());
        return default.collect();
    };
    let never = written.0.iter().filter(|pattern| is_grpc(pattern.as_str()));
    for grpc in never {
        let message = format!("`{}` is never compressed here", grpc.as_str());
        let hint = "gRPC compresses its messages by itself";
        report(Diagnostic::error(message, grpc.span()).hint(hint));
    }
    let written = written.0.iter();
    written.map(|pattern| (**pattern).clone()).collect()
}

/// gRPC and its relatives, such as `application/grpc-web+proto`.
fn is_grpc(media_type: &str) -> bool {
    let start = media_type.get(.."application/grpc".len());
    start.is_some_and(|start| start.eq_ignore_ascii_case("application/grpc"))
        && !media_type
            .as_bytes()
            .get("application/grpc".len())
            .is_some_and(u8::is_ascii_alphanumeric)
}

/// Answers whose bytes are what they are: those without any, parts of a whole, and tunnels.
fn has_whole_body(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        )
}

/// Whether somebody relies on the very bytes.
fn is_fixed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::CONTENT_RANGE)
        || headers.contains_key(&CONTENT_DIGEST)
        || headers.contains_key(&CONTENT_MD5)
        || headers.contains_key(&DIGEST)
        || headers.contains_key(&REPR_DIGEST)
        || forbids_transforming(headers)
}

/// Whether `Cache-Control` has `no-transform` (RFC 9111 §5.2.1.6, §5.2.2.6).
fn forbids_transforming(headers: &HeaderMap) -> bool {
    lists(headers, &header::CACHE_CONTROL, |item| {
        item.eq_ignore_ascii_case(b"no-transform")
    })
}

/// Whether a list in fields of that name has such an item.
fn lists(headers: &HeaderMap, name: &HeaderName, is: impl Fn(&[u8]) -> bool) -> bool {
    let fields = headers.get_all(name).iter();
    let mut items = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    items.any(|item| is(item.trim_ascii()))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// The `ETag` as a weak one; none if it is weak, or there is none (RFC 9110 §8.8.3).
fn weakened(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG)?.as_bytes();
    if tag.starts_with(b"W/") {
        return None;
    }
    HeaderValue::from_bytes(&[b"W/", tag].concat()).ok()
}

/// Says that the answer depends on `Accept-Encoding` (RFC 9110 §12.5.5).
fn vary(response: &mut ResponseHeader) {
    let known = |item: &[u8]| item == b"*" || item.eq_ignore_ascii_case(b"accept-encoding");
    if !lists(&response.headers, &header::VARY, known) {
        let value = HeaderValue::from_static("Accept-Encoding");
        // appending fails only when a head has more fields than its map can hold
        let _ = response.append_header(header::VARY, value);
    }
}

impl OnResponseBody for Rules {
    fn on_response_body(
        &self,
        view: View<'_>,
        response: &mut ResponseHeader,
    ) -> Option<Box<dyn BodyFilter>> {
        if response.status == StatusCode::NOT_MODIFIED {
            self.not_modified(view, response);
            return None;
        }
        let length = content_length(&response.headers);
        if !has_whole_body(response.status)
            || length == Some(0)
            || !self.takes(&response.headers)
            || is_fixed(&response.headers)
        {
            return None;
        }
        let small = length.is_some_and(|length| length < self.size_min);
        let choice = match self.choose(view) {
            // a small answer is the same for everybody, but for those who refuse it
            Choice::Encoded { only: false, .. } | Choice::Plain if small => return None,
            choice => choice,
        };
        vary(response);
        let Choice::Encoded { by, .. } = choice else {
            return None;
        };
        if forbids_transforming(&view.request.headers) {
            return None;
        }
        // the head of an answer to HEAD is that of the answer to GET
        let filter = match view.request.method == Method::HEAD {
            true => None,
            false => Some(self.filter(by, response)?),
        };
        let _ = response.insert_header(header::CONTENT_ENCODING, by.value());
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::ACCEPT_RANGES);
        if let Some(weak) = weakened(&response.headers) {
            let _ = response.insert_header(header::ETAG, weak);
        }
        filter.map(|filter| Box::new(filter) as Box<dyn BodyFilter>)
    }
}

/// One answer on its way.
struct Filter {
    /// None after the end.
    encoder: Option<Encoder>,
    /// Whether the client waits for each piece.
    flush: bool,
    taken: u64,
    given: u64,
    metrics: Arc<CompressMetrics>,
}

impl BodyFilter for Filter {
    fn piece(&mut self, piece: &mut Option<Bytes>, end: bool) -> io::Result<()> {
        let Some(mut encoder) = self.encoder.take() else {
            // nothing follows the end
            *piece = None;
            return Ok(());
        };
        let plain = piece.take().unwrap_or_default();
        self.taken += plain.len() as u64;
        let encoded = if end {
            encoder.finish(&plain)?
        } else {
            let encoded = encoder.piece(&plain, self.flush && !plain.is_empty())?;
            self.encoder = Some(encoder);
            encoded
        };
        self.given += encoded.len() as u64;
        if !encoded.is_empty() {
            *piece = Some(Bytes::from(encoded));
        }
        Ok(())
    }
}

/// Also of an answer that broke off.
impl Drop for Filter {
    fn drop(&mut self) {
        self.metrics.encoded(self.taken, self.given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;
    use encoder::tests::decoded;
    use proptest::prelude::*;

    #[test]
    fn the_default_types_are_types() {
        let rules = rules(&Config::default());
        assert_eq!(rules.types.len(), TYPES.len());
        let takes = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            rules.takes(&headers)
        };
        for text in [
            "text/html; charset=utf-8",
            "TEXT/CSS",
            "application/json",
            "application/problem+json",
            "image/svg+xml",
            "application/grpcish+json",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in [
            "image/png",
            "application/octet-stream",
            "video/mp4",
            "application/grpc",
            "application/grpc+json",
            "Application/gRPC-web+json",
            "font/woff2",
            "",
        ] {
            assert!(!takes(text), "{text}");
        }
    }

    fn rules(config: &Config) -> Rules {
        let metrics = Metrics::new().compress("test");
        Rules::compile(config, metrics, &mut |error| panic!("{error:?}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_body_in_any_pieces_reaches_the_client_whole(
            pieces in prop::collection::vec(prop::option::of("[a-d]{0,40}"), 0..12), known: bool, last: bool,
        ) {
            let rules = rules(&Config::default());
            let whole: String = pieces.iter().flatten().cloned().collect();
            for encoding in Encoding::ALL {
                let mut head = ResponseHeader::build(200, None).unwrap();
                if known {
                    head.insert_header(header::CONTENT_LENGTH, whole.len().to_string()).unwrap();
                }
                let mut filter = rules.filter(encoding, &head).unwrap();
                let mut sent = Vec::new();
                let count = pieces.len();
                for (at, piece) in pieces.iter().enumerate() {
                    let mut piece = piece.clone().map(Bytes::from);
                    filter.piece(&mut piece, last && at + 1 == count).unwrap();
                    sent.extend(piece.unwrap_or_default());
                }
                let mut end = None;
                filter.piece(&mut end, true).unwrap();
                sent.extend(end.unwrap_or_default());
                prop_assert_eq!(decoded(encoding, &sent).unwrap(), whole.as_bytes());
            }
        }
    }

    #[test]
    fn a_digest_or_no_transform_keeps_the_bytes_as_they_are() {
        for (name, value) in [
            ("content-digest", "sha-256=:x:"),
            ("cache-control", "max-age=1, No-Transform"),
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-1/2"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert!(is_fixed(&headers), "{name}");
        }
        assert!(!is_fixed(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_becomes_weak_once_and_vary_says_it_once() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header(header::ETAG, "\"a\"").unwrap();
        assert_eq!(weakened(&head.headers).unwrap(), "W/\"a\"");
        head.insert_header(header::ETAG, "W/\"a\"").unwrap();
        assert_eq!(weakened(&head.headers), None);
        head.insert_header(header::VARY, "Origin").unwrap();
        vary(&mut head);
        vary(&mut head);
        let fields: Vec<_> = head.headers.get_all(header::VARY).iter().collect();
        assert_eq!(fields, ["Origin", "Accept-Encoding"]);
    }
}
