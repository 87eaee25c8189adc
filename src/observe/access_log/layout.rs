//! From a record to its line.

use super::escape::{write_address, write_json, write_milliseconds, write_number, write_quoted};
use super::fields::{FIELDS, Field, FieldName, Record};
use super::mask::{write_query, write_url};
use super::{AccessLogConfig, FieldChoice, Format};
use crate::exchange::connection::Peer;
use crate::identity::claim_text;
use crate::observe::time::Clock;
use crate::units::OneOrMany;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// How the lines of one log are written, prepared as far as it can be.
pub enum Layout {
    Json {
        members: Box<[Member]>,
        claims: Box<[Claim]>,
    },
    Combined,
}

/// A claim of who calls, which comes behind the members.
pub struct Claim {
    path: Box<str>,
    /// A comma, the name of the field in quotes, a colon.
    key: Box<[u8]>,
}

impl Claim {
    fn new(path: &str) -> Self {
        let mut key = b",\"".to_vec();
        write_json(
            FieldName::Claim(path.into()).to_string().as_bytes(),
            &mut key,
        );
        key.extend_from_slice(b"\":");
        Self {
            path: path.into(),
            key: key.into(),
        }
    }

    /// As one text, as endpoints are told; nothing where there is no such claim.
    fn write(&self, record: &Record<'_>, line: &mut Vec<u8>) -> Option<()> {
        let text = claim_text(record.identity?.claim(&self.path)?)?;
        line.extend_from_slice(&self.key);
        line.push(b'"');
        write_json(text.as_bytes(), line);
        line.push(b'"');
        Some(())
    }
}

/// A field with its name as a line has it.
pub struct Member {
    key: Key,
    field: &'static Field,
}

impl From<&'static Field> for Member {
    fn from(field: &'static Field) -> Self {
        Self {
            key: Key::new(field.name),
            field,
        }
    }
}

/// More than any field's name takes with a comma, two quotes and a colon.
const KEY_BYTES: usize = 32;

/// A comma, the name of a field in quotes, a colon: in so many bytes as one processor instruction copies, since a
/// line has two dozen of them and a call that copies a few bytes takes longer than their copy.
struct Key {
    padded: [u8; KEY_BYTES],
    surplus: usize,
}

impl Key {
    fn new(name: &str) -> Self {
        let mut padded = [0; KEY_BYTES];
        let text = format!(",\"{name}\":");
        padded
            .iter_mut()
            .zip(text.bytes())
            .for_each(|(place, byte)| *place = byte);
        Self {
            padded,
            surplus: KEY_BYTES.saturating_sub(text.len()),
        }
    }

    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(&self.padded);
        line.truncate(line.len() - self.surplus);
    }
}

impl Layout {
    /// # Errors
    /// A sentence about settings that contradict each other or would change nothing.
    pub fn new(config: &AccessLogConfig) -> Result<Self, String> {
        match (config.format, &config.fields) {
            (Format::Combined, Some(_)) => {
                Err("the combined format has no fields to add or drop".into())
            }
            (Format::Combined, None) => Ok(Layout::Combined),
            (Format::Json, None) => Ok(Layout::Json {
                members: FIELDS
                    .iter()
                    .filter(|field| field.usual)
                    .map(Member::from)
                    .collect(),
                claims: Box::default(),
            }),
            (Format::Json, Some(choice)) => chosen(choice),
        }
    }

    /// Appends the line of a record, its end included.
    pub fn write(&self, record: &Record<'_>, clock: &mut Clock, line: &mut Vec<u8>) {
        match self {
            Layout::Json { members, claims } => {
                write_object(members, claims, record, clock, line);
            }
            Layout::Combined => write_combined(record, clock, line),
        }
        line.push(b'\n');
    }
}

fn chosen(choice: &FieldChoice) -> Result<Layout, String> {
    let (add, drop) = (names(choice.add.as_ref()), names(choice.drop.as_ref()));
    if choice.added().chain(choice.dropped()).next().is_none() {
        return Err("`fields` neither adds nor drops any".into());
    }
    if let Some(claim) = choice
        .dropped()
        .find(|field| matches!(field, FieldName::Claim(_)))
    {
        return Err(format!(
            "`{claim}` is not written by default: there is nothing to drop"
        ));
    }
    let mut claims: Vec<Claim> = Vec::new();
    for path in choice.claims() {
        if claims.iter().any(|claim| *claim.path == *path) {
            let name = FieldName::Claim(path.into());
            return Err(format!("`{name}` stands twice"));
        }
        claims.push(Claim::new(path));
    }
    for field in FIELDS {
        if field.usual && add.contains(&field.name) {
            return Err(format!(
                "`{}` is written by default: there is nothing to add",
                field.name
            ));
        }
        if !field.usual && drop.contains(&field.name) {
            return Err(format!(
                "`{}` is not written by default: there is nothing to drop",
                field.name
            ));
        }
    }
    let chosen = |field: &&Field| {
        if field.usual {
            !drop.contains(&field.name)
        } else {
            add.contains(&field.name)
        }
    };
    Ok(Layout::Json {
        members: FIELDS.iter().filter(chosen).map(Member::from).collect(),
        claims: claims.into(),
    })
}

/// Those of the table.
fn names(list: Option<&OneOrMany<FieldName>>) -> Vec<&'static str> {
    let names = list.into_iter().flat_map(|names| &names.0);
    let known = names.filter_map(|name| match name {
        FieldName::Known(name) => Some(*name),
        FieldName::Claim(_) => None,
    });
    known.collect()
}

fn write_object(
    members: &[Member],
    claims: &[Claim],
    record: &Record<'_>,
    clock: &mut Clock,
    line: &mut Vec<u8>,
) {
    let start = line.len();
    for Member { key, field } in members {
        // a fact that is not known has no field
        let _ = (field.write)(record, Entry { key, clock, line });
    }
    for claim in claims {
        let _ = claim.write(record, line);
    }
    // the first comma is where the object begins
    match line.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => line.push(b'{'),
    }
    line.push(b'}');
}

/// The place of one field in a line. What is written here gets its name in front; so that a field of a fact that is not
/// known is one expression, each of these answers `Some`.
pub struct Entry<'l> {
    key: &'l Key,
    clock: &'l mut Clock,
    line: &'l mut Vec<u8>,
}

impl Entry<'_> {
    pub fn number(self, number: u64) -> Option<()> {
        self.key.write(self.line);
        write_number(number, self.line);
        Some(())
    }

    pub fn milliseconds(self, duration: Duration) -> Option<()> {
        self.key.write(self.line);
        write_milliseconds(duration, self.line);
        Some(())
    }

    pub fn text(self, text: &[u8]) -> Option<()> {
        self.quoted(|line, _| write_json(text, line))
    }

    /// What needs no escape, by what it is: names of the configuration, tokens (RFC 9110 §5.6.2), request ids as they
    /// are taken, and words of our own.
    pub fn plain(self, text: &[u8]) -> Option<()> {
        self.quoted(|line, _| line.extend_from_slice(text))
    }

    pub fn address(self, address: IpAddr) -> Option<()> {
        self.quoted(|line, _| write_address(address, line))
    }

    pub fn peer(self, peer: Peer) -> Option<()> {
        self.quoted(|line, _| write_peer(peer, line))
    }

    pub fn time(self, time: SystemTime) -> Option<()> {
        self.quoted(|line, clock| clock.write_rfc3339(time, line))
    }

    /// Masked.
    pub fn query(self, query: &[u8]) -> Option<()> {
        self.quoted(|line, _| write_query(query, |piece| write_json(piece, line)))
    }

    /// Masked behind its question mark.
    pub fn url(self, url: &[u8]) -> Option<()> {
        self.quoted(|line, _| write_url(url, |piece| write_json(piece, line)))
    }

    fn quoted(self, write: impl FnOnce(&mut Vec<u8>, &mut Clock)) -> Option<()> {
        self.key.write(self.line);
        self.line.push(b'"');
        write(self.line, self.clock);
        self.line.push(b'"');
        Some(())
    }
}

fn write_peer(peer: Peer, line: &mut Vec<u8>) {
    match (peer, peer.ip()) {
        (Peer::Ip(socket), Some(address)) => {
            let (open, close): (&[u8], &[u8]) = if address.is_ipv6() {
                (b"[", b"]:")
            } else {
                (b"", b":")
            };
            line.extend_from_slice(open);
            write_address(address, line);
            line.extend_from_slice(close);
            write_number(u64::from(socket.port()), line);
        }
        _ => line.extend_from_slice(b"unix"),
    }
}

/// `address - - [time] "request line" status bytes "referrer" "user agent"`. Nobody is authenticated by the gateway in
/// the sense of the third field.
fn write_combined(record: &Record<'_>, clock: &mut Clock, line: &mut Vec<u8>) {
    match record.client_address {
        Some(address) => write_address(address, line),
        None => line.push(b'-'),
    }
    line.extend_from_slice(b" - - [");
    clock.write_ncsa(record.time, line);
    line.extend_from_slice(b"] \"");
    write_quoted(record.method.as_str().as_bytes(), line);
    line.push(b' ');
    write_quoted(record.path, line);
    if let Some(query) = record.query {
        line.push(b'?');
        write_query(query, |piece| write_quoted(piece, line));
    }
    line.push(b' ');
    line.extend_from_slice(record.protocol().as_bytes());
    line.extend_from_slice(b"\" ");
    match record.status {
        Some(status) => write_number(u64::from(status), line),
        None => line.push(b'-'),
    }
    line.push(b' ');
    write_number(record.response_bytes, line);
    line.extend_from_slice(b" \"");
    write_url(record.referer.unwrap_or(b"-"), |piece| {
        write_quoted(piece, line)
    });
    line.extend_from_slice(b"\" \"");
    write_quoted(record.user_agent.unwrap_or(b"-"), line);
    line.push(b'"');
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::exchange::Scheme;
    use crate::identity::Identity;
    use crate::observe::trace::TraceContext;
    use crate::problem::Kind;
    use http::{Method, Version};
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    /// A request with every fact known.
    pub fn record() -> Record<'static> {
        let trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_709_251_199_007),
            request_id: b"0192-id",
            client_address: Some([203, 0, 113, 7].into()),
            peer: Peer::Ip("[2001:db8::1]:5000".parse().unwrap()),
            introduced_by: Some(Peer::Ip("10.0.0.9:6000".parse().unwrap())),
            listener: "public",
            method: &Method::GET,
            scheme: Scheme::Https,
            host: "shop.example.com",
            path: b"/orders/7",
            query: Some(b"page=2&token=abc"),
            version: Version::HTTP_2,
            status: Some(502),
            route: Some("orders"),
            identity: None,
            service: Some("orders"),
            endpoint: Some("10.0.0.1:8080"),
            tries: 2,
            request_bytes: 0,
            response_bytes: 312,
            duration: Duration::from_micros(12_345),
            own: Some(Duration::from_micros(45)),
            upstream: Some(Duration::from_millis(12)),
            user_agent: Some(b"curl/8 \"x\""),
            referer: Some(b"https://a.example/?code=1"),
            problem: Some(Kind::UpstreamConnect),
            reason: Some("connection refused"),
            store_failure: None,
            trace_id: TraceContext::parse(trace).map(|context| context.trace_id()),
            tls_version: Some("TLSv1.3"),
            server_name: Some("shop.example.com"),
        }
    }

    fn line(config: Json, record: &Record<'_>) -> String {
        let config: AccessLogConfig = serde_json::from_value(config).unwrap();
        let mut line = Vec::new();
        let layout = Layout::new(&config).unwrap();
        layout.write(record, &mut Clock::default(), &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_json_line_holds_the_usual_fields_in_their_order() {
        let line = line(json!({}), &record());
        let expected = json!({
            "time": "2024-02-29T23:59:59.007Z", "request_id": "0192-id", "client_address": "203.0.113.7",
            "listener": "public", "method": "GET", "scheme": "https", "host": "shop.example.com", "path": "/orders/7",
            "query": "page=2&token=***", "protocol": "HTTP/2.0", "status": 502, "route": "orders", "service": "orders",
            "endpoint": "10.0.0.1:8080", "tries": 2, "request_bytes": 0, "response_bytes": 312, "duration_ms": 12.345,
            "upstream_ms": 12.0, "user_agent": "curl/8 \"x\"", "referer": "https://a.example/?code=***",
            "code": "upstream.connect", "reason": "connection refused", "trace_id": "0af7651916cd43dd8448eb211c80319c",
        });
        let written: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(written, expected);
        assert!(
            line.starts_with("{\"time\":\"") && line.ends_with("}\n"),
            "{line}"
        );
    }

    #[test]
    fn fields_can_be_added_and_dropped() {
        let config = json!({"fields": {"add": ["peer", "own_ms", "tls_version", "server_name"], "drop": "time"}});
        let written: Json = serde_json::from_str(&line(config, &record())).unwrap();
        assert_eq!(written["peer"], "[2001:db8::1]:5000");
        assert_eq!(written["own_ms"], 0.045);
        assert_eq!(written["tls_version"], "TLSv1.3");
        assert_eq!(written.get("time"), None);
        let every: Vec<_> = FIELDS
            .iter()
            .filter(|field| field.usual)
            .map(|field| field.name)
            .collect();
        assert_eq!(line(json!({"fields": {"drop": every}}), &record()), "{}\n");
    }

    #[test]
    fn every_name_has_room_in_its_key() {
        for field in FIELDS {
            let mut line = Vec::new();
            Key::new(field.name).write(&mut line);
            assert_eq!(line, format!(",\"{}\":", field.name).as_bytes());
        }
    }

    #[test]
    fn facts_that_are_not_known_have_no_field() {
        let record = Record {
            route: None,
            identity: None,
            problem: None,
            store_failure: None,
            trace_id: None,
            ..record()
        };
        let written: Json = serde_json::from_str(&line(json!({}), &record)).unwrap();
        for absent in ["route", "code", "trace_id"] {
            assert_eq!(written.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn claims_stand_at_the_end_as_texts_and_forge_nothing() {
        let claims = json!({
            "tenant": "a\",\"status\":\"200\n", "realm": {"roles": ["x", "y"], "deep": {}}, "n": 7, "https://a.example/b": true,
        });
        let identity = Identity {
            claims: claims.as_object().cloned().map(Arc::new),
            consumer: Some("acme".into()),
            ..Identity::default()
        };
        let record = Record {
            identity: Some(&identity),
            ..record()
        };
        let add = [
            "claim.tenant",
            "claim.realm.roles",
            "claim.realm.deep",
            "claim.n",
            "claim.none",
            "claim.https://a.example/b",
        ];
        let config = json!({"fields": {"add": add, "drop": "time"}});
        let text = line(config.clone(), &record);
        let written: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(
            (&written["consumer"], &written["status"]),
            (&json!("acme"), &json!(502))
        );
        assert_eq!(written["claim.tenant"], "a\",\"status\":\"200\n");
        assert_eq!(written["claim.realm.roles"], "x,y");
        assert_eq!(written["claim.n"], "7");
        assert_eq!(written["claim.https://a.example/b"], "true");
        for absent in ["claim.realm.deep", "claim.none"] {
            assert_eq!(written.get(absent), None, "{absent}");
        }
        let nobody = super::tests::record();
        assert!(!line(config, &nobody).contains("claim."));
    }

    #[test]
    fn a_combined_line_is_what_web_servers_write() {
        let expected = concat!(
            r#"203.0.113.7 - - [29/Feb/2024:23:59:59 +0000] "GET /orders/7?page=2&token=*** HTTP/2.0" 502 312 "#,
            r#""https://a.example/?code=***" "curl/8 \"x\"""#,
            "\n"
        );
        assert_eq!(line(json!({"format": "combined"}), &record()), expected);
        let bare = Record {
            client_address: None,
            status: None,
            query: None,
            referer: None,
            user_agent: None,
            ..record()
        };
        let expected =
            "- - - [29/Feb/2024:23:59:59 +0000] \"GET /orders/7 HTTP/2.0\" - 312 \"-\" \"-\"\n";
        assert_eq!(line(json!({"format": "combined"}), &bare), expected);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_forge_a_line(path: Vec<u8>, query: Vec<u8>, agent: Vec<u8>, referer: Vec<u8>) {
            let record = Record {
                path: &path, query: Some(&query), user_agent: Some(&agent), referer: Some(&referer), ..record()
            };
            let written = line(json!({}), &record);
            prop_assert_eq!(written.matches('\n').count(), 1);
            let written: Json = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(written["path"].as_str().unwrap_or_default(), &*String::from_utf8_lossy(&path));
            prop_assert_eq!(&written["status"], 502);
            let combined = line(json!({"format": "combined"}), &record);
            prop_assert!(combined.trim_end_matches('\n').bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let quotes = combined.replace(r"\\", "").replace("\\\"", "").matches('"').count();
            prop_assert_eq!(quotes, 6);
        }
    }
}
