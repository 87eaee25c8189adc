//! What the gateway calls itself in `Via`, and how it knows a request that it has sent (RFC 9110 §7.6.3).
//!
//! Every request that is sent on says which proxies it has been through. One that comes back and names this gateway would
//! go round for ever, or until everything is used up: it is answered with 508. The name is made up anew in each process,
//! so that gateways in a row, even on one machine, never take each other for themselves.

use crate::state::Kept;
use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// The name, and the members of the list that say it.
#[derive(Debug)]
pub struct Via {
    name: Box<str>,
    /// By the version of HTTP that the request came with.
    http1_0: HeaderValue,
    http1_1: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A name that no other process has, as long as nobody else draws this number.
    pub fn made_up(random: u64) -> Self {
        Self::named(&format!("northgate-{random:016x}"))
    }

    /// `name` is a token, as names in the configuration are.
    pub fn named(name: &str) -> Self {
        let member = |version: &str| {
            let text = HeaderValue::try_from(format!("{version} {name}"));
            text.unwrap_or_else(|_| HeaderValue::from_static("1.1 northgate"))
        };
        Self {
            http1_0: member("1.0"),
            http1_1: member("1.1"),
            http2: member("2.0"),
            name: name.into(),
        }
    }

    /// Adds this gateway to the list, behind whoever is there already.
    pub fn add_to(&self, headers: &mut HeaderMap, received: Version) {
        let member = match received {
            Version::HTTP_10 => &self.http1_0,
            Version::HTTP_2 => &self.http2,
            _ => &self.http1_1,
        };
        headers.append(VIA, member.clone());
    }

    /// Whether a request has been here: some member of the list, over all lines, was received by this name.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(VIA).iter();
        let mut members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        members.any(|member| {
            let mut words = member
                .split(|byte| matches!(byte, b' ' | b'\t'))
                .filter(|word| !word.is_empty());
            let name = words.nth(1);
            name.is_some_and(|name| name.eq_ignore_ascii_case(self.name.as_bytes()))
        })
    }
}

/// It stays over reloads, and every process has its own.
impl Kept for Via {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|line| (VIA, HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    #[test]
    fn a_request_that_has_been_here_is_known() {
        let via = Via::named("edge");
        for lines in [
            &["1.1 edge"][..],
            &["1.0 fred, 1.1 EDGE (Northgate)"],
            &["1.0 fred", "2.0 edge,1.1 other"],
            &["HTTP/1.1\t edge"],
        ] {
            assert!(via.is_in(&headers(lines)), "{lines:?}");
        }
        for lines in [
            &[][..],
            &["1.1 edges"],
            &["edge"],
            &["1.1 fred (edge)"],
            &["1.1 edge:80"],
            &[",", ""],
        ] {
            assert!(!via.is_in(&headers(lines)), "{lines:?}");
        }
    }

    #[test]
    fn it_is_added_behind_the_others() {
        let via = Via::made_up(1);
        let mut headers = headers(&["1.0 fred"]);
        via.add_to(&mut headers, Version::HTTP_2);
        let lines: Vec<&str> = headers
            .get_all(VIA)
            .iter()
            .map(|line| line.to_str().unwrap())
            .collect();
        assert_eq!(lines[0], "1.0 fred");
        assert!(lines[1].starts_with("2.0 northgate-"), "{lines:?}");
        assert!(via.is_in(&headers) && !Via::made_up(2).is_in(&headers));
    }
}
