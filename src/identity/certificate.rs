//! The certificate that a client showed, and proved to hold the key of.

use super::{Claims, Reason};
use ahash::AHashMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// What a verified certificate says. Names are as the authority wrote them; whether they are believed was settled by the
/// handshake.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The distinguished name in the form of RFC 4514, which is that of nginx' `$ssl_client_s_dn`: the last part first,
    /// no blanks between parts.
    pub subject: Arc<str>,
    pub issuer: Arc<str>,
    /// In hexadecimal, lower case, without leading zeros.
    pub serial: Arc<str>,
    /// SHA-256 of the whole certificate, in hexadecimal, lower case.
    pub fingerprint: Arc<str>,
    /// Absent if the subject has none, or several.
    pub common_name: Option<Arc<str>>,
    /// Alternative names (RFC 5280 §4.2.1.6); those of hosts in lower case.
    pub dns: Vec<Arc<str>>,
    pub uris: Vec<Arc<str>>,
    pub emails: Vec<Arc<str>>,
    pub addresses: Vec<IpAddr>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// As it was shown, the client's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Under which authorities and lists of revoked certificates it was verified last, and what came of it.
    verified: Mutex<Verified>,
    /// Made when it is first asked for.
    field: OnceLock<Option<HeaderValue>>,
    claims: OnceLock<Arc<Claims>>,
}

/// What of a certificate says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    Subject,
    CommonName,
    Dns,
    Uri,
    Email,
    Fingerprint,
}

/// The certificates that consumers have, by what tells them.
#[derive(Debug, Default)]
pub struct KnownCertificates(AHashMap<(Attribute, Box<str>), Arc<str>>);

impl KnownCertificates {
    /// Adds one of a consumer's. Gives the consumer back that has it already, if it is another.
    pub fn add(
        &mut self,
        attribute: Attribute,
        value: &str,
        consumer: &Arc<str>,
    ) -> Option<Arc<str>> {
        let known = self.0.entry((attribute, value.into()));
        let known = known.or_insert_with(|| consumer.clone());
        (known != consumer).then(|| known.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose it is, by whatever tells it.
    ///
    /// # Errors
    /// It is that of several consumers.
    pub fn find(&self, certificate: &ClientCertificate) -> Result<Option<&Arc<str>>, Reason> {
        use Attribute::*;
        let mut found = None;
        for attribute in [Fingerprint, Subject, Uri, Dns, Email, CommonName] {
            for value in certificate.values(attribute) {
                // a pair can't be asked for by borrowed halves
                let Some(consumer) = self.0.get(&(attribute, (**value).into())) else {
                    continue;
                };
                if found.is_some_and(|found| found != consumer) {
                    return Err(Reason::CertificateSeveral);
                }
                found = Some(consumer);
            }
        }
        Ok(found)
    }
}

/// A digest of what a certificate was verified against.
pub type TrustDigest = [u8; 32];

#[derive(Clone, Copy, Debug)]
struct Verified {
    against: TrustDigest,
    good: bool,
}

impl ClientCertificate {
    /// Reads the first certificate of a chain that was verified against `against`. None if it is malformed, which a
    /// verified one is not.
    pub fn read(
        chain: &[CertificateDer<'_>],
        fingerprint: [u8; 32],
        against: TrustDigest,
    ) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let mut common = leaf.subject().iter_common_name();
        let common_name = match (common.next(), common.next()) {
            (Some(name), None) => name.as_str().ok().map(Arc::from),
            _ => None,
        };
        let mut certificate = Self {
            subject: distinguished(leaf.subject()).into(),
            issuer: distinguished(leaf.issuer()).into(),
            serial: serial(leaf.raw_serial()).into(),
            fingerprint: hex(&fingerprint).into(),
            common_name,
            dns: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            addresses: Vec::new(),
            not_before: instant(leaf.validity().not_before.timestamp()),
            not_after: instant(leaf.validity().not_after.timestamp()),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            verified: Mutex::new(Verified {
                against,
                good: true,
            }),
            field: OnceLock::new(),
            claims: OnceLock::new(),
        };
        let alternatives = leaf.subject_alternative_name().ok()?;
        let names = alternatives
            .iter()
            .flat_map(|names| &names.value.general_names);
        for name in names {
            match name {
                GeneralName::DNSName(name) => {
                    certificate.dns.push(name.to_ascii_lowercase().into());
                }
                GeneralName::URI(uri) => certificate.uris.push((*uri).into()),
                GeneralName::RFC822Name(email) => certificate.emails.push((*email).into()),
                GeneralName::IPAddress(bytes) => certificate.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(certificate)
    }

    /// What it says under an attribute.
    pub fn values(&self, attribute: Attribute) -> impl Iterator<Item = &Arc<str>> {
        let one = std::slice::from_ref;
        let common = self.common_name.as_slice();
        let values = match attribute {
            Attribute::Subject => one(&self.subject),
            Attribute::Fingerprint => one(&self.fingerprint),
            Attribute::CommonName => common,
            Attribute::Dns => &self.dns,
            Attribute::Uri => &self.uris,
            Attribute::Email => &self.emails,
        };
        values.iter()
    }

    /// What it says under an attribute, where that is one thing.
    pub fn value(&self, attribute: Attribute) -> Option<&Arc<str>> {
        let mut values = self.values(attribute);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// What it says, as the claims of its caller: `subject`, `issuer`, `serial`, `fingerprint`, `common_name`, and the
    /// lists `dns`, `uri`, `email`, `address`.
    pub fn claims(&self) -> &Arc<Claims> {
        self.claims.get_or_init(|| {
            let list = |names: &[Arc<str>]| names.iter().map(|name| json!(**name)).collect();
            let addresses = self.addresses.iter();
            let mut claims = Claims::new();
            let texts = [
                ("subject", Some(&self.subject)),
                ("issuer", Some(&self.issuer)),
                ("serial", Some(&self.serial)),
                ("fingerprint", Some(&self.fingerprint)),
                ("common_name", self.common_name.as_ref()),
            ];
            for (name, text) in texts {
                if let Some(text) = text {
                    claims.insert(name.to_owned(), json!(**text));
                }
            }
            let lists: [(&str, Vec<Value>); 4] = [
                ("dns", list(&self.dns)),
                ("uri", list(&self.uris)),
                ("email", list(&self.emails)),
                (
                    "address",
                    addresses
                        .map(|address| json!(address.to_string()))
                        .collect(),
                ),
            ];
            for (name, values) in lists {
                if !values.is_empty() {
                    claims.insert(name.to_owned(), Value::Array(values));
                }
            }
            Arc::new(claims)
        })
    }

    /// As a field carries it to an endpoint (RFC 9440 §2.1).
    pub fn field(&self) -> Option<&HeaderValue> {
        let encode = || {
            let leaf = STANDARD.encode(self.chain.first()?);
            HeaderValue::try_from(format!(":{leaf}:")).ok()
        };
        self.field.get_or_init(encode).as_ref()
    }

    /// Whether it holds against what is trusted now, which after a reload may be something else than at the handshake.
    /// `verify` is asked once for each change.
    pub fn holds(&self, against: &TrustDigest, verify: impl FnOnce() -> bool) -> bool {
        let mut verified = self.verified.lock();
        if verified.against != *against {
            *verified = Verified {
                against: *against,
                good: verify(),
            };
        }
        verified.good
    }

    /// Whether `now` is within its time.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Some(bytes.into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// Seconds since the epoch as an instant; what does not fit is the epoch, and so expired.
fn instant(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let at = SystemTime::UNIX_EPOCH.checked_add(since);
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn serial(bytes: &[u8]) -> String {
    let text = hex(bytes);
    match text.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    }
}

/// RFC 4514 §2: the parts from last to first, those of one set joined by `+`, and nothing in a value can pass for
/// another part.
fn distinguished(name: &X509Name<'_>) -> String {
    let sets: Vec<String> = name
        .iter()
        .map(|set| {
            let mut parts: Vec<String> = set
                .iter()
                .map(|part| {
                    let oid = part.attr_type().to_id_string();
                    match (short(&oid), text(part.attr_value())) {
                        (Some(short), Some(value)) => format!("{short}={}", escaped(&value)),
                        (None, Some(value)) => format!("{oid}={}", escaped(&value)),
                        (short, None) => {
                            let value = hex(part.attr_value().data);
                            format!("{}=#{value}", short.unwrap_or(&oid))
                        }
                    }
                })
                .collect();
            parts.sort();
            parts.join("+")
        })
        .collect();
    sets.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// What the parts of names are called: by RFC 4514 §3, and as OpenSSL prints them, whose output is what people copy.
const PARTS: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

fn short(oid: &str) -> Option<&'static str> {
    let known = PARTS.iter().find(|(known, _)| *known == oid);
    known.map(|(_, name)| *name)
}

/// A distinguished name that somebody wrote (RFC 4514 §3), as [`ClientCertificate::subject`] has it: other escapes of the
/// same letters, other cases of the same words and other orders within one set are the same name. None if it is none.
pub fn written_name(text: &str) -> Option<String> {
    let sets = unescaped(text, ',').into_iter().map(|set| {
        let parts = unescaped(set, '+').into_iter().map(written_part);
        let mut parts = parts.collect::<Option<Vec<String>>>()?;
        parts.sort();
        Some(parts.join("+"))
    });
    Some(sets.collect::<Option<Vec<String>>>()?.join(","))
}

fn written_part(text: &str) -> Option<String> {
    let (kind, value) = text.split_once('=')?;
    let is_oid = kind.contains('.')
        && kind
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let name = match is_oid {
        true => short(kind).unwrap_or(kind),
        false => PARTS
            .iter()
            .map(|(_, name)| *name)
            .find(|name| name.eq_ignore_ascii_case(kind))?,
    };
    if let Some(digits) = value.strip_prefix('#') {
        let is_hex = digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_hex.then(|| format!("{name}=#{}", digits.to_ascii_lowercase()));
    }
    // blanks at the ends are escaped, or not part of a name as it is to be written
    let ends = value.starts_with(' ') || (value.ends_with(' ') && !value.ends_with("\\ "));
    if ends {
        return None;
    }
    Some(format!("{name}={}", escaped(&read_escapes(value)?)))
}

/// The parts between separators that no backslash stands before.
fn unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|letter: char| {
        let ends = letter == separator && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    })
    .collect()
}

/// Takes the escapes out of a value: `\,` and `\C3\A9` (RFC 4514 §2.4).
fn read_escapes(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        let mut put =
            |letter: char| bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        match letter {
            '\\' => {
                let next = letters.next()?;
                match next.to_digit(16) {
                    Some(high) => {
                        let low = letters.next()?.to_digit(16)?;
                        bytes.push(u8::try_from(high << 4 | low).ok()?);
                    }
                    None => put(next),
                }
            }
            '"' | ';' | '<' | '>' => return None,
            letter => put(letter),
        }
    }
    String::from_utf8(bytes).ok()
}

/// The kinds of texts that are ASCII or UTF-8; others are shown as bytes.
fn text(value: &Any<'_>) -> Option<String> {
    let plain = [
        Tag::Utf8String,
        Tag::PrintableString,
        Tag::Ia5String,
        Tag::NumericString,
    ];
    let known = plain.contains(&value.tag());
    known
        .then(|| std::str::from_utf8(value.data).ok().map(str::to_owned))
        .flatten()
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', letter]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            control if control.is_ascii_control() => {
                let _ = write!(text, "\\{:02x}", u32::from(control));
            }
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn read(subject: &[(DnType, &str)], names: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        params.serial_number = Some(vec![0, 10, 255].into());
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        ClientCertificate::read(&[made.der().clone()], [7; 32], [0; 32]).unwrap()
    }

    #[test]
    fn names_are_read_as_they_are_compared() {
        let certificate = read(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Acme, Inc."),
                (DnType::CommonName, "orders"),
            ],
            vec![
                SanType::DnsName("Orders.Acme.Example".try_into().unwrap()),
                SanType::URI("spiffe://acme/orders".try_into().unwrap()),
                SanType::Rfc822Name("ops@acme.example".try_into().unwrap()),
                SanType::IpAddress("10.0.0.1".parse().unwrap()),
            ],
        );
        assert_eq!(&*certificate.subject, "CN=orders,O=Acme\\, Inc.,C=DE");
        assert_eq!(certificate.subject, certificate.issuer);
        assert_eq!(&*certificate.serial, "aff");
        assert_eq!(*certificate.fingerprint, "07".repeat(32));
        assert_eq!(certificate.common_name.as_deref(), Some("orders"));
        assert_eq!(certificate.dns, [Arc::from("orders.acme.example")]);
        assert_eq!(certificate.uris, [Arc::from("spiffe://acme/orders")]);
        assert_eq!(certificate.emails, [Arc::from("ops@acme.example")]);
        assert_eq!(
            certificate.addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        assert!(certificate.is_valid_at(SystemTime::now()));
        assert!(!certificate.is_valid_at(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn a_value_can_not_pass_for_another_part() {
        for (value, shown) in [
            ("a,O=root", "CN=a\\,O\\=root"),
            ("a+UID=0", "CN=a\\+UID\\=0"),
            (" a ", "CN=\\ a\\ "),
            ("#04", "CN=\\#04"),
            ("a\nb\0", "CN=a\\0ab\\00"),
            ("a\"<>;\\", "CN=a\\\"\\<\\>\\;\\\\"),
            ("", "CN="),
            (" ", "CN=\\ "),
        ] {
            let certificate = read(&[(DnType::CommonName, value)], Vec::new());
            assert_eq!(&*certificate.subject, shown);
        }
        let unknown = DnType::CustomDnType(vec![1, 2, 3]);
        assert_eq!(&*read(&[(unknown, "x")], Vec::new()).subject, "1.2.3=x");
    }

    #[test]
    fn a_name_that_was_copied_from_openssl_is_the_name_of_the_certificate() {
        let kinds = |oid: &str| {
            DnType::CustomDnType(oid.split('.').map(|part| part.parse().unwrap()).collect())
        };
        let certificate = read(
            &[
                (DnType::CountryName, "DE"),
                (kinds("2.5.4.9"), "Main, St. 1"),
                (kinds("2.5.4.97"), "PSDDE-BAFIN-1"),
                (DnType::OrganizationName, "Caf\u{e9} = x"),
                (kinds("1.2.3"), "y"),
                (DnType::CommonName, " #1"),
            ],
            Vec::new(),
        );
        for written in [
            "CN=\\ #1,1.2.3=y,O=Caf\\C3\\A9 = x,organizationIdentifier=PSDDE-BAFIN-1,street=Main\\, St. 1,C=DE",
            "cn=\\20#1,1.2.3=y,o=Caf\u{e9} \\= x,2.5.4.97=PSDDE-BAFIN-1,STREET=Main\\2c St. 1,c=DE",
        ] {
            assert_eq!(
                written_name(written).as_deref(),
                Some(&*certificate.subject),
                "{written}"
            );
        }
        assert_eq!(
            written_name("OU=b+CN=a,O=c").as_deref(),
            Some("CN=a+OU=b,O=c")
        );
        for text in [
            "",
            "a",
            "CN",
            "=a",
            "XX=a",
            "CN=a, O=b",
            "C = DE, O = b",
            "/C=DE/O=b",
            "CN=a;O=b",
            "CN=\"a\"",
            "CN=a\\",
            "CN=\\C3",
            "CN=a,",
            "CN=#zz",
            "CN=a ",
            "CN=\\cz",
        ] {
            assert_eq!(written_name(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_can_be_written(value in "[ -~éß\\n\\x00]{1,12}") {
            let shown = format!("CN={}", escaped(&value));
            proptest::prop_assert_eq!(written_name(&shown), Some(shown));
        }

        #[test]
        fn no_text_panics(text in "[\\\\,+=#;CNOa-f0-9 é]{0,20}") {
            let _ = written_name(&text);
        }
    }

    #[test]
    fn a_consumer_is_found_by_any_name_and_two_are_none() {
        let certificate = read(
            &[(DnType::CommonName, "orders")],
            vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::DnsName("b.example".try_into().unwrap()),
            ],
        );
        let (acme, other): (Arc<str>, Arc<str>) = ("acme".into(), "other".into());
        let mut known = KnownCertificates::default();
        assert_eq!(known.find(&certificate), Ok(None));
        assert_eq!(known.add(Attribute::Dns, "b.example", &acme), None);
        assert_eq!(known.find(&certificate), Ok(Some(&acme)));
        assert_eq!(known.add(Attribute::Subject, "CN=orders", &acme), None);
        assert_eq!(known.find(&certificate), Ok(Some(&acme)));
        assert_eq!(
            known.add(Attribute::Dns, "b.example", &other),
            Some(acme.clone())
        );
        assert_eq!(known.add(Attribute::Dns, "a.example", &other), None);
        assert_eq!(known.find(&certificate), Err(Reason::CertificateSeveral));
        assert_eq!(
            certificate.value(Attribute::CommonName).map(|name| &**name),
            Some("orders")
        );
        // of two nobody can say which it is
        assert_eq!(certificate.value(Attribute::Dns), None);
        assert_eq!(certificate.value(Attribute::Uri), None);
    }

    #[test]
    fn a_change_of_trust_is_asked_about_once() {
        let certificate = read(&[(DnType::CommonName, "a")], Vec::new());
        assert!(certificate.holds(&[0; 32], || unreachable!()));
        assert!(!certificate.holds(&[1; 32], || false));
        assert!(!certificate.holds(&[1; 32], || unreachable!()));
        assert!(certificate.holds(&[2; 32], || true));
    }
}
