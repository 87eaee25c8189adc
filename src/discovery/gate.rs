//! Which addresses discovery may bring (security requirement 10; OWASP API7, server-side request forgery).
//!
//! Whoever can write a DNS record or an endpoints file must not thereby reach what only this machine can: services on
//! loopback, the cloud's metadata service, the gateway itself. Private networks are where origins live, and are fine.

use crate::units::Cidr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Metadata services outside the link-local networks: AWS over IPv6, Alibaba Cloud, Azure's host agent.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Why an address is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    Unspecified,
    Loopback,
    LinkLocal,
    Metadata,
    Multicast,
    Broadcast,
    OwnListener,
}

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::Loopback,
        Self::LinkLocal,
        Self::Metadata,
        Self::Multicast,
        Self::Broadcast,
        Self::OwnListener,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::OwnListener => "own_listener",
        }
    }
}

/// Why no origin has this address, as far as anybody can tell from the address alone.
pub fn class_of(address: IpAddr) -> Option<Refusal> {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return Some(Refusal::Metadata);
    }
    match address {
        IpAddr::V4(four) => class_of_v4(four),
        IpAddr::V6(six) => class_of_v6(six),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Option<Refusal> {
    match address.octets() {
        // "this network" (RFC 791 §3.2): Linux takes all of it for the machine itself
        [0, ..] => Some(Refusal::Unspecified),
        [127, ..] => Some(Refusal::Loopback),
        [169, 254, ..] => Some(Refusal::LinkLocal),
        [224..=239, ..] => Some(Refusal::Multicast),
        [255, 255, 255, 255] => Some(Refusal::Broadcast),
        _ => None,
    }
}

fn class_of_v6(address: Ipv6Addr) -> Option<Refusal> {
    if address.is_unspecified() {
        return Some(Refusal::Unspecified);
    }
    if address.is_loopback() {
        return Some(Refusal::Loopback);
    }
    if address.is_multicast() {
        return Some(Refusal::Multicast);
    }
    let [first, second, third, .., seventh, eighth] = address.segments();
    if first & 0xffc0 == 0xfe80 {
        return Some(Refusal::LinkLocal);
    }
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        class_of(Ipv4Addr::new(a, b, c, d).into())
    };
    match (first, second) {
        // IPv4 inside: NAT64 (RFC 6052), 6to4 (RFC 3056), and the old compatible form (RFC 4291 §2.5.5.1)
        (0x64, 0xff9b) => four(seventh, eighth),
        (0x2002, high) => four(high, third),
        (0, 0) if address.segments().iter().take(6).all(|part| *part == 0) => four(seventh, eighth),
        _ => None,
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Networks whose addresses are taken whatever they are.
    pub allow: Vec<Cidr>,
    /// Where the gateway listens itself.
    pub own: Vec<SocketAddr>,
}

impl Gate {
    /// # Errors
    /// Why the address is not taken.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refusal> {
        if self.is_own(address, is_of_this_machine) {
            return Err(Refusal::OwnListener);
        }
        let ip = address.ip().to_canonical();
        match class_of(ip) {
            Some(refusal) if !self.allow.iter().any(|net| net.contains(ip)) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Whether a connection to this address comes out at a listener of the gateway. `is_local` tells whether an address
    /// that is not loopback is one of this machine: what a listener on every address has.
    pub fn is_own(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let ip = address.ip().to_canonical();
        self.own.iter().any(|own| {
            let listens = own.ip().to_canonical();
            let anywhere = listens.is_unspecified();
            // IPv6's "any" takes IPv4 too; a connection to "any" is one to loopback
            own.port() == address.port()
                && (listens == ip
                    || anywhere && (ip.is_loopback() || ip.is_unspecified() || is_local(ip))
                    || ip.is_unspecified() && listens.is_loopback())
        })
    }
}

/// Whether an interface of this machine has the address.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    interfaces
        .filter_map(|interface| interface.address)
        .any(|address| {
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            let six = address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip()));
            four == Some(ip) || six == Some(ip)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(address: &str) -> Option<Refusal> {
        class_of(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_told_apart() {
        use Refusal::*;
        for (refusal, addresses) in [
            (
                Unspecified,
                &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"][..],
            ),
            (
                Loopback,
                &[
                    "127.0.0.1",
                    "127.255.0.9",
                    "::1",
                    "::ffff:127.0.0.1",
                    "64:ff9b::7f00:1",
                    "2002:7f00:1::",
                ],
            ),
            (
                LinkLocal,
                &["169.254.1.1", "fe80::1", "febf::1", "::ffff:169.254.0.1"],
            ),
            (
                Metadata,
                &[
                    "169.254.169.254",
                    "fd00:ec2::254",
                    "::ffff:169.254.169.254",
                    "64:ff9b::a9fe:a9fe",
                    "::169.254.169.254",
                    "100.100.100.200",
                ],
            ),
            (Multicast, &["224.0.0.1", "239.1.1.1", "ff02::1"]),
            (Broadcast, &["255.255.255.255"]),
        ] {
            for address in addresses {
                assert_eq!(class(address), Some(refusal), "{address}");
            }
        }
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "2002:a00:1::",
        ] {
            assert_eq!(class(address), None, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_passes_and_own_listeners_never_do() {
        let gate = Gate {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            own: vec!["127.0.0.1:80".parse().unwrap(), "[::]:443".parse().unwrap()],
        };
        let check = |text: &str| gate.check(text.parse().unwrap());
        assert_eq!(check("127.0.0.2:80"), Ok(()));
        assert_eq!(check("[::ffff:127.0.0.2]:80"), Ok(()));
        assert_eq!(check("127.0.0.1:81"), Ok(()));
        assert_eq!(check("127.0.0.1:80"), Err(Refusal::OwnListener));
        assert_eq!(check("0.0.0.0:80"), Err(Refusal::OwnListener));
        assert_eq!(check("127.9.9.9:443"), Err(Refusal::OwnListener));
        assert_eq!(check("[::1]:443"), Err(Refusal::OwnListener));
        assert_eq!(check("[::1]:80"), Err(Refusal::Loopback));
        let own = |text: &str| {
            gate.is_own(text.parse().unwrap(), |ip| {
                ip == IpAddr::from([10, 0, 0, 1])
            })
        };
        assert!(own("10.0.0.1:443") && !own("10.0.0.2:443") && !own("10.0.0.1:80"));
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_what_it_stands_for(bytes: [u8; 4]) {
            let four = Ipv4Addr::from(bytes);
            prop_assert_eq!(class_of(four.into()), class_of(four.to_ipv6_mapped().into()));
        }

        #[test]
        fn what_the_standard_library_calls_special_is_refused(address: IpAddr) {
            if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
                prop_assert!(class_of(address).is_some());
            }
        }
    }
}
