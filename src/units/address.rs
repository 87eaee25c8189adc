//! Where something listens: `ip:port`, `name:port`, `unix:/path`.

use super::{Invalid, written_as_text};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a Unix socket that `sockaddr_un` holds, with its closing NUL, on Linux.
const UNIX_PATH_MAX: usize = 107;

/// An address to listen on or to connect to. Whether a name may stand in a place is for that place to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Ip(SocketAddr),
    /// A host name, in lower case, and a port.
    Name {
        host: Box<str>,
        port: u16,
    },
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether two sockets can't listen at both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Address::Ip(one), Address::Ip(other)) => overlap(one, other),
            (one, other) => one == other,
        }
    }
}

/// Whether two sockets can't listen at both: they are equal, or one is all addresses of the machine at the port of the
/// other. `[::]` takes clients of IPv4 too.
pub fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let scope = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    let (here, there) = (one.ip().to_canonical(), other.ip().to_canonical());
    let same = here == there && scope(one) == scope(other);
    let covers =
        |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    // the kernel gives port 0 another one each time
    one.port() == other.port()
        && one.port() != 0
        && (same || covers(here, there) || covers(there, here))
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(port_zero(text)),
                _ => Ok(Address::Ip(address)),
            };
        }
        named(text)
    }
}

fn unix(path: &str) -> Result<Address, Invalid> {
    if !path.starts_with('/') || path.starts_with("//") {
        let path = path.trim_start_matches('/');
        return Err(Invalid::new("a Unix socket is given by its absolute path")
            .hint(format!("such as `unix:/run/{path}`")));
    }
    if path.len() > UNIX_PATH_MAX {
        return Err(Invalid::new(format!(
            "the path of a Unix socket has at most {UNIX_PATH_MAX} bytes"
        )));
    }
    if path.contains('\0') {
        return Err(Invalid::new("the path of a Unix socket can't hold NUL"));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn named(text: &str) -> Result<Address, Invalid> {
    let invalid = || Invalid::new(format!("`{text}` is not an address"));
    if text.contains("://") {
        return Err(invalid().hint("an address has no scheme and no path: `10.0.0.1:8080`"));
    }
    let lacks_port =
        |hint: String| Err(Invalid::new(format!("the address `{text}` lacks a port")).hint(hint));
    if let Ok(ip) = text.parse::<IpAddr>() {
        return match bracketed(text) {
            Some(address) => {
                Err(invalid().hint(format!("IPv6 addresses stand in brackets: `{address}`")))
            }
            None => lacks_port(format!("such as `{}`", SocketAddr::new(ip, 8080))),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Err(invalid().hint(format!("`0.0.0.0:{text}`, or `[::]:{text}` for IPv6 too"))),
            false => lacks_port(format!("such as `{text}:8080`")),
        };
    };
    if host.is_empty() {
        return Err(invalid().hint(format!("`0.0.0.0:{port}`, or `[::]:{port}` for IPv6 too")));
    }
    if let Some(address) = bracketed(text) {
        return Err(invalid().hint(format!("IPv6 addresses stand in brackets: `{address}`")));
    }
    if !is_host_name(host) {
        return Err(invalid().hint("`ip:port`, `name:port` or `unix:/path`"));
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid().hint("after the colon, a port number"));
    }
    match port.parse::<u16>() {
        Ok(0) => Err(port_zero(text)),
        Ok(port) => Ok(Address::Name {
            host: host.to_ascii_lowercase().into(),
            port,
        }),
        Err(_) => Err(invalid().hint("a port is a number from 1 to 65535")),
    }
}

/// An IPv6 address and a port that were written without brackets, with them. A last part that can't be a port was not
/// meant as one.
fn bracketed(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let ip: Ipv6Addr = host.parse().ok()?;
    (port.len() >= 2).then_some(())?;
    Some(SocketAddr::new(ip.into(), port.parse().ok()?))
}

fn port_zero(text: &str) -> Invalid {
    Invalid::new(format!("the port of `{text}` is 0")).hint("a port is a number from 1 to 65535")
}

/// Labels of letters, digits, `-` and `_`, the last one not a number: that would be a malformed IP address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last_is_number = host
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && !last_is_number && host.split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Name { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

written_as_text!(Address, "an address, such as `10.0.0.1:8080`", {
    "description": "An address: `ip:port`, `name:port` or `unix:/path`.",
    "type": "string",
    "pattern": "^(unix:/.+|.+:[0-9]+)$",
    "examples": ["10.0.0.1:8080", "[::1]:8080", "orders.internal:8080", "unix:/run/orders.sock"],
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![
            (any::<IpAddr>(), 1u16..).prop_map(|(ip, port)| Address::Ip(SocketAddr::new(ip, port))),
            ("[a-z][a-z0-9]{0,9}(\\.[a-z]{1,9}){0,3}", 1u16..).prop_map(|(host, port)| {
                Address::Name {
                    host: host.into(),
                    port,
                }
            }),
            "/[a-z/]{1,50}[a-z]"
                .prop_filter("one slash", |path| !path.starts_with("//"))
                .prop_map(|path| Address::Unix(path.into())),
        ]
    }

    #[test]
    fn all_addresses_take_in_every_one_of_their_family() {
        let overlap = |one: &str, other: &str| {
            let (one, other): (Address, Address) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        for (one, other) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("[::]:80", "10.1.2.3:80"),
            ("[::]:80", "[::1]:80"),
            ("0.0.0.0:80", "[::ffff:10.1.2.3]:80"),
            ("10.1.2.3:80", "[::ffff:10.1.2.3]:80"),
            ("[::ffff:0.0.0.0]:80", "10.1.2.3:80"),
            ("[fe80::1%2]:80", "[::]:80"),
            ("unix:/run/a", "unix:/run/a"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("0.0.0.0:80", "0.0.0.0:81"),
            ("0.0.0.0:80", "[::1]:80"),
            ("[fe80::1%2]:80", "[fe80::1%3]:80"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("unix:/run/a", "unix:/run/b"),
            ("unix:/run/a", "0.0.0.0:80"),
        ] {
            assert!(!overlap(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(address in address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Address>();
        }
    }

    #[test]
    fn near_misses_are_told_what_to_write() {
        let hint = |text: &str| {
            text.parse::<Address>()
                .unwrap_err()
                .hint
                .unwrap_or_default()
        };
        assert_eq!(hint("10.0.0.1"), "such as `10.0.0.1:8080`");
        assert_eq!(hint("::1"), "such as `[::1]:8080`");
        assert_eq!(hint("orders"), "such as `orders:8080`");
        assert_eq!(hint(":8080"), "`0.0.0.0:8080`, or `[::]:8080` for IPv6 too");
        assert_eq!(hint("8080"), "`0.0.0.0:8080`, or `[::]:8080` for IPv6 too");
        assert_eq!(
            hint("::1:9001"),
            "IPv6 addresses stand in brackets: `[::1]:9001`"
        );
        assert_eq!(
            hint("1:2:3:4:5:6:7:8:80"),
            "IPv6 addresses stand in brackets: `[1:2:3:4:5:6:7:8]:80`"
        );
        assert_eq!(
            hint("fe80::1:x:80"),
            "`ip:port`, `name:port` or `unix:/path`"
        );
        assert_eq!(
            hint("http://a:80"),
            "an address has no scheme and no path: `10.0.0.1:8080`"
        );
        assert_eq!(hint("a:0"), "a port is a number from 1 to 65535");
        assert_eq!(hint("a:99999"), "a port is a number from 1 to 65535");
        assert_eq!(
            hint("10.0.0.256:80"),
            "`ip:port`, `name:port` or `unix:/path`"
        );
        assert_eq!(hint("unix:run/a.sock"), "such as `unix:/run/run/a.sock`");
    }
}
