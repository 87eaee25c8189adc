//! What is checked before a path is looked at: the host, the right to change something, the kind of body.

use super::Access;
use super::answer::Code;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, request::Parts};
use std::net::IpAddr;

/// Refuses what must not get to a handler.
///
/// # Errors
/// The code to answer with, and a detail for the operator.
pub fn check(request: &Parts, access: Access) -> Result<(), (Code, &'static str)> {
    if !host_is_ours(request, access) {
        return Err((
            Code::Host,
            "the host must be localhost or a loopback address",
        ));
    }
    if access == Access::ReadOnly && !reads(&request.method) {
        return Err((Code::ReadOnly, "use the Unix socket to change something"));
    }
    if has_body(&request.headers) && !is_json(&request.headers) {
        return Err((Code::MediaType, "the content type is not application/json"));
    }
    Ok(())
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A page on the web may let its own name resolve to 127.0.0.1 (DNS rebinding); its requests then carry that name. No page
/// reaches a Unix socket, whose clients call it what they like: `curl --unix-socket admin.sock http://northgate/v1/status`.
fn host_is_ours(request: &Parts, access: Access) -> bool {
    if access == Access::Full {
        return true;
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, _) => Some(""),
        (Some(_), Some(_)) => None,
    };
    let target = request.uri.authority().map(|authority| authority.as_str());
    let fine = |host: &str| match host.is_empty() {
        true => target.is_some(),
        false => is_loopback(host),
    };
    host.is_some_and(fine) && target.is_none_or(is_loopback)
}

/// `localhost` or a loopback literal, with or without a port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "no port")),
        None => host
            .find(':')
            .map_or((host, ""), |colon| host.split_at(colon)),
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    let address = name.parse::<IpAddr>().is_ok_and(|address| {
        let bracketed = host.starts_with('[');
        address.to_canonical().is_loopback() && bracketed == address.is_ipv6()
    });
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (address || name.eq_ignore_ascii_case("localhost"))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// A form that a page on the web sends without asking first can't have this type.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn code(method: &str, uri: &str, headers: &[(&str, &str)], access: Access) -> Option<Code> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, access).err().map(|(code, _)| code)
    }

    #[test]
    fn only_loopback_is_our_host() {
        for host in [
            "localhost",
            "LocalHost:9901",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]",
            "[::1]:9901",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(
                code("GET", "/livez", &[("host", host)], Access::ReadOnly),
                None,
                "{host}"
            );
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "[2001:db8::1]",
            "::1",
            "[::1",
            "localhost:80:80",
            "localhost:x",
            "[127.0.0.1]",
            "0.0.0.0",
            "[localhost]:x",
            "@localhost",
        ] {
            assert_eq!(
                code("GET", "/livez", &[("host", host)], Access::ReadOnly),
                Some(Code::Host),
                "{host}"
            );
        }
    }

    #[test]
    fn the_socket_has_any_name_and_needs_none() {
        for host in ["", "northgate", "admin:80", "example.com"] {
            assert_eq!(code("GET", "/livez", &[("host", host)], Access::Full), None);
        }
        assert_eq!(code("GET", "/livez", &[], Access::Full), None);
        assert_eq!(
            code("GET", "/livez", &[], Access::ReadOnly),
            Some(Code::Host)
        );
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(
            code("GET", "/livez", &two, Access::ReadOnly),
            Some(Code::Host)
        );
    }

    #[test]
    fn the_target_is_a_host_too() {
        let host = [("host", "localhost")];
        assert_eq!(
            code("GET", "http://evil.example/livez", &host, Access::ReadOnly),
            Some(Code::Host)
        );
        assert_eq!(
            code("GET", "http://localhost/livez", &host, Access::ReadOnly),
            None
        );
    }

    #[test]
    fn over_tcp_nothing_changes_anything() {
        let host = ("host", "localhost");
        assert_eq!(
            code("POST", "/v1/reload", &[host], Access::ReadOnly),
            Some(Code::ReadOnly)
        );
        assert_eq!(code("POST", "/v1/reload", &[host], Access::Full), None);
    }

    #[test]
    fn a_body_is_json_or_nothing() {
        let post = |headers: &[_]| code("POST", "/v1/reload", headers, Access::Full);
        assert_eq!(post(&[("content-length", "2")]), Some(Code::MediaType));
        assert_eq!(
            post(&[("content-length", "2"), ("content-type", "text/plain")]),
            Some(Code::MediaType)
        );
        assert_eq!(
            post(&[
                ("content-length", "2"),
                ("content-type", "application/json; charset=utf-8")
            ]),
            None
        );
        assert_eq!(post(&[("content-length", "0")]), None);
    }
}
