//! Whom a request is for, and how it got there: a host and a scheme.

use smallvec::SmallVec;

/// How the client reached the gateway, as far as the origin is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A host name kept without allocation up to 64 bytes. Always ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostText(SmallVec<[u8; 64]>);

impl HostText {
    /// The text with ASCII upper case lowered. Anything but ASCII is refused.
    pub fn lowered(text: &str) -> Option<Self> {
        text.is_ascii().then(|| {
            let mut bytes = SmallVec::from_slice(text.as_bytes());
            bytes.make_ascii_lowercase();
            Self(bytes)
        })
    }

    pub fn as_str(&self) -> &str {
        // SAFETY: nothing but ASCII gets in, by `lowered`. Every request asks several times.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }
}
