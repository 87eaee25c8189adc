//! Many networks: written in place or in a file, and asked quickly.

use super::{Cidr, FileText, Invalid, OneOrMany};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// A network, a list of them, or `{file}` with one in each line, where `#` begins a comment.
#[derive(Clone, Debug)]
pub struct Networks {
    all: OneOrMany<Cidr>,
    file: Option<FileText>,
}

/// The long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NetworksFile")]
struct Written {
    /// A file with one network in each line; `#` begins a comment.
    file: FileText,
}

impl Networks {
    /// All of them, ready to be asked.
    pub fn set(&self) -> AddressSet {
        self.all.iter().copied().collect()
    }
}

impl TryFrom<FileText> for Networks {
    type Error = Invalid;

    fn try_from(file: FileText) -> Result<Self, Invalid> {
        let shown = file.path.display();
        let text = std::str::from_utf8(&file.text)
            .map_err(|_| Invalid::new(format!("`{shown}` is not UTF-8")))?;
        let mut all = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let network = line.parse().map_err(|invalid: Invalid| Invalid {
                message: format!("{shown}:{}: {}", index + 1, invalid.message),
                hint: invalid.hint,
            })?;
            all.push(network);
        }
        if all.is_empty() {
            return Err(
                Invalid::new(format!("`{shown}` holds no network")).hint("one in each line")
            );
        }
        Ok(Self {
            all: OneOrMany(all),
            file: Some(file),
        })
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Networks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network, a list of networks, or `{file: …}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Networks, E> {
                let one: Cidr = text.parse().map_err(E::custom)?;
                Ok(Networks {
                    all: one.into(),
                    file: None,
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Networks, A::Error> {
                let mut all = Vec::new();
                while let Some(network) = list.next_element()? {
                    all.push(network);
                }
                if all.is_empty() {
                    return Err(A::Error::custom(super::one_or_many::EMPTY_LIST));
                }
                Ok(Networks {
                    all: OneOrMany(all),
                    file: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Networks, A::Error> {
                let written = Written::deserialize(MapAccessDeserializer::new(map))?;
                Networks::try_from(written.file).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.file {
            Some(file) => Written { file: file.clone() }.serialize(serializer),
            None => self.all.serialize(serializer),
        }
    }
}

impl JsonSchema for Networks {
    fn schema_name() -> Cow<'static, str> {
        "Networks".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = generator.subschema_for::<OneOrMany<Cidr>>();
        let file = generator.subschema_for::<Written>();
        schemars::json_schema!({"anyOf": [list, file]})
    }
}

/// A set of addresses, as sorted ranges that neither touch nor overlap: asking takes a binary search, whatever the
/// number of networks.
#[derive(Clone, Debug, Default)]
pub struct AddressSet {
    four: Vec<(u32, u32)>,
    six: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Whether it holds the address. IPv4 mapped into IPv6 is asked for as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(four) => holds(&self.four, four.to_bits()),
            IpAddr::V6(six) => holds(&self.six, six.to_bits()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.four.is_empty() && self.six.is_empty()
    }
}

fn holds<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    ranges
        .get(after.wrapping_sub(1))
        .is_some_and(|(_, last)| address <= *last)
}

/// Sorts ranges and joins those that overlap.
fn joined<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

impl FromIterator<Cidr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for network in networks {
            match network.0 {
                IpNet::V4(net) => four.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => six.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            four: joined(four),
            six: joined(six),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network() -> impl Strategy<Value = Cidr> {
        (any::<IpAddr>(), 0u8..=128).prop_map(|(address, length)| {
            let address = address.to_canonical();
            let length = length.min(if address.is_ipv4() { 32 } else { 128 });
            Cidr(
                IpNet::new(address, length)
                    .expect("a length that fits")
                    .trunc(),
            )
        })
    }

    proptest! {
        #[test]
        fn a_set_holds_what_one_of_its_networks_holds(
            networks in proptest::collection::vec(network(), 0..20),
            address: IpAddr,
            picked: proptest::sample::Index,
        ) {
            let set: AddressSet = networks.iter().copied().collect();
            let address = address.to_canonical();
            prop_assert_eq!(set.contains(address), networks.iter().any(|network| network.contains(address)));
            if !networks.is_empty() {
                let network = picked.get(&networks);
                prop_assert!(set.contains(network.0.network()) && set.contains(network.0.broadcast()));
            }
        }
    }

    #[test]
    fn mapped_addresses_are_asked_for_as_ipv4() {
        let set: AddressSet = ["10.0.0.0/8".parse().expect("a network")]
            .into_iter()
            .collect();
        assert!(set.contains("::ffff:10.1.1.1".parse().expect("an address")));
        assert!(!set.contains("::ffff:11.1.1.1".parse().expect("an address")));
    }

    #[test]
    fn a_file_has_one_network_in_each_line() {
        let file = |text: &str| FileText {
            path: "deny.txt".into(),
            text: text.as_bytes().to_vec().into(),
        };
        let networks = Networks::try_from(file("# bots\n10.0.0.0/8\n\n192.0.2.7 # one\n"))
            .expect("two networks");
        assert!(
            networks
                .set()
                .contains("192.0.2.7".parse().expect("an address"))
        );
        let invalid = Networks::try_from(file("10.0.0.0/8\nnonsense\n")).unwrap_err();
        assert_eq!(invalid.message, "deny.txt:2: `nonsense` is not a network");
        assert!(Networks::try_from(file("# none\n")).is_err());
    }
}
