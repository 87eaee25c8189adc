//! Which of the fields that the request path looks for a head has.

use http::HeaderMap;

/// One look at each name, which is cheaper than a search for each field: most heads have few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    pub const ACCEPT: Self = Self(1);
    pub const CONTENT_LENGTH: Self = Self(1 << 1);
    pub const CONTENT_TYPE: Self = Self(1 << 2);
    pub const EXPECT: Self = Self(1 << 3);
    pub const TRACEPARENT: Self = Self(1 << 4);
    pub const TRACESTATE: Self = Self(1 << 5);
    pub const UPGRADE: Self = Self(1 << 8);
    pub const USER_AGENT: Self = Self(1 << 6);
    pub const REFERER: Self = Self(1 << 7);
    pub const VIA: Self = Self(1 << 9);

    pub fn of(headers: &HeaderMap) -> Self {
        let flags = headers.keys().map(|name| match name.as_str() {
            "accept" => Self::ACCEPT,
            "content-length" => Self::CONTENT_LENGTH,
            "content-type" => Self::CONTENT_TYPE,
            "expect" => Self::EXPECT,
            "traceparent" => Self::TRACEPARENT,
            "tracestate" => Self::TRACESTATE,
            "upgrade" => Self::UPGRADE,
            "user-agent" => Self::USER_AGENT,
            "referer" => Self::REFERER,
            "via" => Self::VIA,
            _ => Self(0),
        });
        Self(flags.fold(0, |all, flag| all | flag.0))
    }

    /// Whether one of these is there.
    pub fn any(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }
}

impl std::ops::BitOr for Present {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header};

    #[test]
    fn each_field_is_found_by_itself() {
        let all = [
            (header::ACCEPT.as_str(), Present::ACCEPT),
            (header::CONTENT_LENGTH.as_str(), Present::CONTENT_LENGTH),
            (header::CONTENT_TYPE.as_str(), Present::CONTENT_TYPE),
            (header::EXPECT.as_str(), Present::EXPECT),
            ("traceparent", Present::TRACEPARENT),
            ("tracestate", Present::TRACESTATE),
            (header::UPGRADE.as_str(), Present::UPGRADE),
            (header::USER_AGENT.as_str(), Present::USER_AGENT),
            (header::REFERER.as_str(), Present::REFERER),
            (header::VIA.as_str(), Present::VIA),
        ];
        for (name, flag) in all {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("a"));
            headers.insert(name, HeaderValue::from_static("a"));
            let present = Present::of(&headers);
            let found = all.iter().filter(|(_, other)| present.any(*other));
            assert_eq!(found.map(|(name, _)| *name).collect::<Vec<_>>(), [name]);
            assert!(present.any(flag));
        }
    }
}
