//! The signature base (RFC 9421 §2.5): the lines that are signed, made from a request and the list of what is covered.

use super::{COVERED_MAX, Reason};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use sfv::{BareItem, Dictionary, InnerList, Item, List, ListEntry, Parser, SerializeValue};
use std::borrow::Cow;

/// A request as it was signed: canonical, as the gateway sends it on.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host in lower case, and its port where it is not that of the scheme.
    pub authority: &'a str,
    pub path: &'a str,
    /// Without `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

impl Message<'_> {
    /// Whether a field says that there is a body. HTTP/2 needs no such field.
    pub fn announces_body(&self) -> bool {
        let length = self.headers.get(http::header::CONTENT_LENGTH);
        length.is_some_and(|length| length.as_bytes() != b"0")
            || self.headers.contains_key(http::header::TRANSFER_ENCODING)
    }

    fn target(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_owned(),
        }
    }
}

/// What a line of the base is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    Method,
    TargetUri,
    Authority,
    Scheme,
    RequestTarget,
    Path,
    Query,
    /// The value of a parameter, by its name as it is encoded.
    QueryParam(String),
    Field(HeaderName, Form),
}

impl Component {
    /// The whole of what has this name, without parameters; none if there is nothing of that name in a request.
    pub fn named(name: &str) -> Option<Self> {
        component(&Item::new(BareItem::String(name.to_owned())))
    }
}

/// Which form of a field is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// All lines, joined with commas.
    Joined,
    /// Each line as bytes (`bs`): for fields that must not be joined.
    Bytes,
    /// As a structured field writes it (`sf`).
    Structured,
    /// One member of a dictionary (`key`).
    Member(String),
}

/// Fields that are known to be dictionaries, which `sf` needs to know.
const DICTIONARIES: &[&str] = &[
    "content-digest",
    "repr-digest",
    "want-content-digest",
    "want-repr-digest",
    "priority",
    "signature",
    "signature-input",
];

/// What a signature covers.
pub struct Covered {
    /// With the text that stands before the colon.
    components: Vec<(Component, String)>,
    names: Vec<String>,
    params: String,
}

impl Covered {
    /// # Errors
    /// Components that are not known, not meant for requests, or named twice (RFC 9421 §2.5).
    pub fn read(input: &InnerList) -> Result<Self, Reason> {
        if input.items.len() > COVERED_MAX {
            return Err(Reason::SignatureComponent);
        }
        let mut components: Vec<(Component, String)> = Vec::with_capacity(input.items.len());
        let mut names = Vec::with_capacity(input.items.len());
        for item in &input.items {
            let component = component(item).ok_or(Reason::SignatureComponent)?;
            if components.iter().any(|(known, _)| *known == component) {
                return Err(Reason::SignatureComponent);
            }
            let text = item.serialize_value();
            let text = text.map_err(|_| Reason::SignatureMalformed)?;
            // a part of something is not that thing: only what is covered whole counts as covered
            if let (BareItem::String(name), true) = (&item.bare_item, is_whole(&component)) {
                names.push(name.clone());
            }
            components.push((component, text));
        }
        let params: List = vec![ListEntry::InnerList(input.clone())];
        let params = params.serialize_value();
        Ok(Self {
            components,
            names,
            params: params.map_err(|_| Reason::SignatureMalformed)?,
        })
    }

    /// Whether the whole of it is covered.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The bytes that were signed.
    ///
    /// # Errors
    /// Something is covered that the request does not have.
    pub fn base(&self, message: &Message<'_>) -> Result<Vec<u8>, Reason> {
        let mut base = Vec::with_capacity(512);
        for (component, text) in &self.components {
            base.extend_from_slice(text.as_bytes());
            base.extend_from_slice(b": ");
            base.extend_from_slice(&value(component, message).ok_or(Reason::SignatureComponent)?);
            base.push(b'\n');
        }
        base.extend_from_slice(b"\"@signature-params\": ");
        base.extend_from_slice(self.params.as_bytes());
        Ok(base)
    }
}

fn is_whole(component: &Component) -> bool {
    match component {
        Component::QueryParam(_) => false,
        Component::Field(_, form) => !matches!(form, Form::Member(_)),
        _ => true,
    }
}

/// None for what is not known, and for what is about answers (`req`, `@status`) or trailers (`tr`).
fn component(item: &Item) -> Option<Component> {
    let name = item.bare_item.as_str()?;
    let params: Vec<(&str, &BareItem)> = item
        .params
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    if !name.starts_with('@') {
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let field = is_lower.then(|| HeaderName::from_bytes(name.as_bytes()).ok())??;
        let form = match *params.as_slice() {
            [] => Form::Joined,
            [("bs", BareItem::Boolean(true))] => Form::Bytes,
            [("sf", BareItem::Boolean(true))] => Form::Structured,
            [("key", BareItem::String(member))] => Form::Member(member.clone()),
            _ => return None,
        };
        return Some(Component::Field(field, form));
    }
    Some(match (name, params.as_slice()) {
        ("@query-param", [("name", BareItem::String(name))]) => Component::QueryParam(name.clone()),
        ("@method", []) => Component::Method,
        ("@target-uri", []) => Component::TargetUri,
        ("@authority", []) => Component::Authority,
        ("@scheme", []) => Component::Scheme,
        ("@request-target", []) => Component::RequestTarget,
        ("@path", []) => Component::Path,
        ("@query", []) => Component::Query,
        _ => return None,
    })
}

/// What stands after the colon; none if the request has no such thing.
fn value<'a>(component: &Component, message: &'a Message<'_>) -> Option<Cow<'a, [u8]>> {
    let text = |text: String| Some(Cow::Owned(text.into_bytes()));
    match component {
        Component::Method => Some(message.method.as_bytes().into()),
        Component::Authority => Some(message.authority.as_bytes().into()),
        Component::Scheme => Some(message.scheme.as_bytes().into()),
        Component::Path => Some(message.path.as_bytes().into()),
        Component::Query => text(format!("?{}", message.query.unwrap_or_default())),
        Component::RequestTarget => text(message.target()),
        Component::TargetUri => text(format!(
            "{}://{}{}",
            message.scheme,
            message.authority,
            message.target()
        )),
        Component::QueryParam(name) => text(query_param(message.query?, name)?),
        Component::Field(name, form) => field(message.headers, name, form),
    }
}

/// The value of a parameter that comes once, encoded anew (RFC 9421 §2.2.8). One that comes twice must not be covered:
/// nobody could say which of them was signed.
fn query_param(query: &str, name: &str) -> Option<String> {
    let mut values = query.split('&').filter_map(|pair| {
        let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
        (encoded(known) == name).then(|| encoded(value))
    });
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Everything but what the percent-encoding of a form leaves alone, blanks included (the URL standard's
/// `application/x-www-form-urlencoded` percent-encode set).
const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'*')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');

fn encoded(text: &str) -> String {
    let blanks = text.replace('+', " ");
    let decoded: Vec<u8> = percent_decode(blanks.as_bytes()).collect();
    percent_encode(&decoded, FORM).to_string()
}

fn field<'a>(headers: &HeaderMap, name: &HeaderName, form: &Form) -> Option<Cow<'a, [u8]>> {
    let all = joined(headers, name)?;
    match form {
        Form::Joined => Some(all.into()),
        Form::Bytes => {
            let lines = headers.get_all(name).iter();
            let lines =
                lines.map(|line| format!(":{}:", STANDARD.encode(trimmed(line.as_bytes()))));
            Some(Cow::Owned(
                lines.collect::<Vec<_>>().join(", ").into_bytes(),
            ))
        }
        Form::Structured => {
            let known = DICTIONARIES.contains(&name.as_str());
            let dictionary = known.then(|| Parser::parse_dictionary(&all).ok())??;
            Some(Cow::Owned(dictionary.serialize_value().ok()?.into_bytes()))
        }
        Form::Member(member) => {
            let mut dictionary: Dictionary = Parser::parse_dictionary(&all).ok()?;
            let text = match dictionary.swap_remove(member)? {
                ListEntry::Item(item) => item.serialize_value().ok()?,
                list => List::from([list]).serialize_value().ok()?,
            };
            Some(Cow::Owned(text.into_bytes()))
        }
    }
}

/// All lines of a field, without blanks at their ends, joined with commas (RFC 9421 §2.1); none if there are none.
pub(super) fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let mut all = trimmed(lines.next()?.as_bytes()).to_vec();
    for line in lines {
        all.extend_from_slice(b", ");
        all.extend_from_slice(trimmed(line.as_bytes()));
    }
    Some(all)
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.trim_ascii()
}
