//! Changes `Location` and cookie paths of an answer back to what the client has to ask for.

use super::context::RequestContext;
use crate::exchange::Facts;
use crate::snapshot::rewrite::Rewrite;
use crate::upstream::Endpoint;
use crate::upstream::service::Host;
use http::{HeaderValue, header};
use pingora_http::ResponseHeader;

/// Maps what names the origin itself. URLs of other hosts are left alone.
pub fn map_back(context: &RequestContext, response: &mut ResponseHeader) {
    let rewrite = context
        .route
        .rewrite
        .as_ref()
        .filter(|rewrite| rewrite.map_back);
    let (Some(facts), Some(forward)) = (context.facts.as_ref(), context.forward.as_ref()) else {
        return;
    };
    // the origin knows itself by another name than its clients do
    let renamed = !matches!(forward.service.host, Host::Preserve);
    let off = context
        .route
        .rewrite
        .as_ref()
        .is_some_and(|rewrite| !rewrite.map_back);
    if off || (rewrite.is_none() && !renamed) {
        return;
    }
    let known = Known {
        facts,
        endpoint: forward.endpoint(),
        host: &forward.service.host,
    };
    if let Some(location) = response.headers.get(header::LOCATION)
        && let Some(mapped) = location
            .to_str()
            .ok()
            .and_then(|url| known.mapped_url(url, rewrite))
        && let Ok(value) = HeaderValue::try_from(mapped)
    {
        let _ = response.insert_header(header::LOCATION, value);
    }
    if let Some(rewrite) = rewrite {
        map_cookies(rewrite, response);
    }
}

/// The names of the origin, and the client's name for the gateway.
struct Known<'a> {
    facts: &'a Facts,
    endpoint: Option<&'a Endpoint>,
    host: &'a Host,
}

impl Known<'_> {
    /// The URL to send to the client; none when it may stay as it is.
    fn mapped_url(&self, url: &str, rewrite: Option<&Rewrite>) -> Option<String> {
        if url.starts_with('/') && !url.starts_with("//") {
            return rewrite?.mapped_back(url).map(|path| path.into_owned());
        }
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))?;
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?;
        if !self.is_origin(authority) {
            return None;
        }
        let path = if path.is_empty() { "/" } else { path };
        let mapped = rewrite.and_then(|rewrite| rewrite.mapped_back(path));
        let port = self
            .facts
            .port
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let (scheme, host) = (self.facts.scheme.as_str(), self.facts.host.as_str());
        Some(format!(
            "{scheme}://{host}{port}{}",
            mapped.as_deref().unwrap_or(path)
        ))
    }

    /// Whether an authority is one that the origin was, or could have been, asked by.
    fn is_origin(&self, authority: &str) -> bool {
        let asked = match self.host {
            Host::Preserve | Host::Endpoint => false,
            Host::Value(value) => value.as_bytes().eq_ignore_ascii_case(authority.as_bytes()),
        };
        let client = self.facts.host.as_str();
        let by_client = match (self.facts.port, authority.rsplit_once(':')) {
            (None, _) => authority.eq_ignore_ascii_case(client),
            (Some(port), Some((host, given))) => {
                host.eq_ignore_ascii_case(client) && given.parse() == Ok(port)
            }
            (Some(_), None) => false,
        };
        asked
            || by_client
            || self
                .endpoint
                .is_some_and(|endpoint| *endpoint.name == *authority)
    }
}

/// Changes the `Path` attribute of every cookie (RFC 6265 §5.2.4).
fn map_cookies(rewrite: &Rewrite, response: &mut ResponseHeader) {
    if !response.headers.contains_key(header::SET_COOKIE) {
        return;
    }
    let cookies: Vec<HeaderValue> = response
        .headers
        .get_all(header::SET_COOKIE)
        .iter()
        .cloned()
        .collect();
    response.remove_header(&header::SET_COOKIE);
    for cookie in cookies {
        let mapped = cookie
            .to_str()
            .ok()
            .and_then(|text| mapped_cookie(text, rewrite));
        let value = mapped
            .and_then(|text| HeaderValue::try_from(text).ok())
            .unwrap_or(cookie);
        let _ = response.append_header(header::SET_COOKIE, value);
    }
}

fn mapped_cookie(text: &str, rewrite: &Rewrite) -> Option<String> {
    let mut changed = false;
    let parts = text.split(';').enumerate().map(|(at, part)| {
        let path = part
            .trim()
            .split_once('=')
            .filter(|(name, _)| at > 0 && name.trim().eq_ignore_ascii_case("path"));
        let mapped = path.and_then(|(_, path)| rewrite.mapped_back(path.trim()));
        match mapped {
            Some(mapped) => {
                changed = true;
                format!(" Path={mapped}")
            }
            None => part.to_owned(),
        }
    });
    let text = parts.collect::<Vec<_>>().join(";");
    changed.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::rewrite::Change;

    #[test]
    fn only_the_path_of_a_cookie_changes() {
        let rewrite = Rewrite {
            change: Change::Prefix {
                strip: "/shop".into(),
                prefix: "".into(),
            },
            map_back: true,
        };
        let mapped = |text| mapped_cookie(text, &rewrite);
        assert_eq!(
            mapped("a=b; Path=/x; Secure").as_deref(),
            Some("a=b; Path=/shop/x; Secure")
        );
        assert_eq!(mapped("path=/x; HttpOnly"), None);
        assert_eq!(mapped("a=b"), None);
    }
}
