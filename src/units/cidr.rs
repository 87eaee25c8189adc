//! Networks: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use super::{Invalid, written_as_text};
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network of IP addresses. One address is a network of one.
///
/// IPv4 networks mapped into IPv6 (`::ffff:10.0.0.0/104`) are kept as IPv4, because that is how clients' addresses are
/// kept: written the other way they would match nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

impl Cidr {
    /// Whether the address lies in it. The address must be canonical: not IPv4 mapped into IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address.to_canonical())));
        }
        let net: IpNet = text.parse().map_err(|_| {
            Invalid::new(format!("`{text}` is not a network"))
                .hint("such as `10.0.0.0/8` or `192.0.2.7`")
        })?;
        if net.trunc() != net {
            return Err(
                Invalid::new(format!("`{text}` has bits after the prefix")).hint(format!(
                    "`{}`, or `{}` for the one address",
                    net.trunc(),
                    net.addr()
                )),
            );
        }
        unmapped(net).map(Self).ok_or_else(|| {
            Invalid::new(format!("`{text}` mixes IPv4 and IPv6"))
                .hint("write IPv4 networks as IPv4: `10.0.0.0/8`")
        })
    }
}

/// The network with an IPv4 one taken out of its IPv6 form. None where it holds mapped addresses and others too,
/// other than `::/0` and its like, which nobody writes to mean IPv4.
fn unmapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(six) = net else {
        return Some(net);
    };
    let Some(four) = six.addr().to_ipv4_mapped() else {
        return Some(net);
    };
    let length = six.prefix_len().checked_sub(96)?;
    Ipv4Net::new(four, length).ok().map(IpNet::V4)
}

/// One address without its prefix.
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            return self.0.addr().fmt(f);
        }
        self.0.fmt(f)
    }
}

written_as_text!(Cidr, "a network, such as `10.0.0.0/8`", {
    "description": "A network, or one address.",
    "type": "string",
    "examples": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"],
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(address: IpAddr, length in 0u8..=128) {
            let length = length.min(if address.is_ipv4() { 32 } else { 128 });
            let net = IpNet::new(address, length).expect("a length that fits").trunc();
            if let Some(net) = unmapped(net) {
                prop_assert_eq!(Cidr(net).to_string().parse(), Ok(Cidr(net)));
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Cidr>();
        }
    }

    #[test]
    fn mapped_networks_are_ipv4() {
        let cidr: Cidr = "::ffff:10.0.0.0/104".parse().expect("a network");
        assert_eq!(cidr.to_string(), "10.0.0.0/8");
        assert!(cidr.contains(IpAddr::from([10, 1, 2, 3])));
        let cidr: Cidr = "::ffff:192.0.2.7".parse().expect("an address");
        assert_eq!(cidr.to_string(), "192.0.2.7");
    }

    #[test]
    fn bits_after_the_prefix_are_refused() {
        let invalid = "10.0.0.1/8".parse::<Cidr>().unwrap_err();
        assert_eq!(
            invalid.hint.as_deref(),
            Some("`10.0.0.0/8`, or `10.0.0.1` for the one address")
        );
    }
}
