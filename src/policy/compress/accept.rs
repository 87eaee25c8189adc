//! What a client says about codings, and which one it gets (RFC 9110 §12.5.3). Pure: no heads, no settings.

use super::Encoding;

/// What is settled between what a client takes and what is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Encoded {
        by: Encoding,
        /// The client takes nothing that is not encoded, however small.
        only: bool,
    },
    /// As it is.
    Plain,
}

/// Weights in thousandths; none for what is not named.
#[derive(Clone, Copy, Debug, Default)]
struct Weights {
    named: [Option<u16>; Encoding::ALL.len()],
    identity: Option<u16>,
    others: Option<u16>,
}

/// Chooses what the client likes best; what it likes equally, in the order of `offered`. `fields` are the values of all
/// `Accept-Encoding` fields. Without any, everything would be allowed, but only plain content is sure to be understood.
///
/// Elements that can't be read count for nothing. What is named twice counts with the lower weight.
pub fn choose<'f>(fields: impl Iterator<Item = &'f [u8]>, offered: &[Encoding]) -> Choice {
    let mut weights = Weights::default();
    for element in fields.flat_map(|field| field.split(|byte| *byte == b',')) {
        if let Some((name, weight)) = element_of(element.trim_ascii()) {
            weights.note(name, weight);
        }
    }
    weights.choose(offered)
}

impl Weights {
    fn note(&mut self, name: &[u8], weight: u16) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let slot = if is("*") {
            &mut self.others
        } else if is("identity") {
            &mut self.identity
        } else if let Some(named) =
            Encoding::named(name).and_then(|at| self.named.get_mut(at as usize))
        {
            named
        } else {
            return;
        };
        *slot = Some(slot.map_or(weight, |before| before.min(weight)));
    }

    fn choose(&self, offered: &[Encoding]) -> Choice {
        let weight = |encoding: &Encoding| {
            let named = self.named.get(*encoding as usize).copied().flatten();
            named.or(self.others).unwrap_or(0)
        };
        // the first of those that are liked most
        let best = offered.iter().rev().max_by_key(|encoding| weight(encoding));
        let plain = self.identity.or(self.others);
        match best {
            // unless it is refused, plain content is acceptable; unless it is liked better, encoded content goes before
            Some(best) if weight(best) > 0 && plain.is_none_or(|plain| plain <= weight(best)) => {
                Choice::Encoded {
                    by: *best,
                    only: plain == Some(0),
                }
            }
            _ => Choice::Plain,
        }
    }
}

/// The coding and the weight of one element: `gzip`, `br;q=0.5`.
fn element_of(element: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let Some(parameter) = parts.next() else {
        return Some((name, 1000));
    };
    let value = parameter
        .strip_prefix(b"q=")
        .or_else(|| parameter.strip_prefix(b"Q="))?;
    parts
        .next()
        .is_none()
        .then(|| Some((name, thousandths(value)?)))?
}

/// `0`, `0.5`, `1.000` (RFC 9110 §12.4.2).
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole] => (whole, [].as_slice()),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut fraction = 0;
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        fraction = fraction * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    match (whole, fraction) {
        (b'0', fraction) => Some(fraction),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Encoding::{Br, Gzip, Zstd};
    use super::*;
    use proptest::prelude::*;

    fn chosen(field: &str) -> Choice {
        choose([field.as_bytes()].into_iter(), &[Br, Zstd, Gzip])
    }

    fn by(by: Encoding) -> Choice {
        Choice::Encoded { by, only: false }
    }

    #[test]
    fn the_client_decides_and_the_order_of_the_server_breaks_ties() {
        assert_eq!(chosen("gzip, deflate, br, zstd"), by(Br));
        assert_eq!(chosen("gzip, zstd"), by(Zstd));
        assert_eq!(chosen("gzip;q=1.0, br;q=0.9"), by(Gzip));
        assert_eq!(chosen("GZIP"), by(Gzip));
        assert_eq!(chosen("x-gzip ; Q=0.3"), by(Gzip));
        assert_eq!(chosen("deflate"), Choice::Plain);
        assert_eq!(chosen(""), Choice::Plain);
        assert_eq!(choose(std::iter::empty(), &[Gzip]), Choice::Plain);
        let fields = ["gzip;q=0.5", "br;q=0.7"];
        let fields = fields.iter().map(|field| field.as_bytes());
        assert_eq!(choose(fields, &[Gzip, Br]), by(Br));
    }

    #[test]
    fn zero_refuses() {
        assert_eq!(chosen("gzip;q=0"), Choice::Plain);
        assert_eq!(chosen("gzip;q=0.000, zstd"), by(Zstd));
        assert_eq!(chosen("br;q=0, *"), by(Zstd));
        assert_eq!(chosen("*;q=0"), Choice::Plain);
        // whatever comes first: Pingora's own compression takes the first token for wanted
        assert_eq!(chosen("br;q=0, zstd;q=0, gzip;q=0.1"), by(Gzip));
    }

    #[test]
    fn plain_content_has_a_weight_too() {
        assert_eq!(chosen("gzip;q=0.5, identity"), Choice::Plain);
        assert_eq!(chosen("gzip;q=0.5, identity;q=0.5"), by(Gzip));
        let only = |by| Choice::Encoded { by, only: true };
        assert_eq!(chosen("gzip;q=0.5, identity;q=0"), only(Gzip));
        assert_eq!(chosen("gzip, *;q=0"), only(Gzip));
        assert_eq!(chosen("identity;q=0"), Choice::Plain);
        assert_eq!(chosen("gzip;q=0.2, *;q=0.5"), by(Br));
    }

    #[test]
    fn what_cannot_be_read_counts_for_nothing() {
        for field in [
            "gzip;q=2",
            "gzip;q=",
            "gzip;q=0.1234",
            "gzip;q=-1",
            "gzip;level=1",
            "gzip;q=1;x",
            ";q=1",
            "gz ip",
            "gzip;q=1.001",
        ] {
            assert_eq!(chosen(field), Choice::Plain, "{field}");
        }
        assert_eq!(chosen("gzip;q=x, , br;q=0.1,,"), by(Br));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_only_what_is_offered_is_chosen(field: Vec<u8>, offered in prop::sample::subsequence(vec![Br, Zstd, Gzip], 1..3)) {
            if let Choice::Encoded { by, .. } = choose([field.as_slice()].into_iter(), &offered) {
                prop_assert!(offered.contains(&by));
            }
        }

        /// Against a slow and plain reading of RFC 9110 §12.5.3.
        #[test]
        fn the_choice_is_the_one_of_the_standard(
            weights in prop::collection::vec((prop::sample::select(vec!["br", "zstd", "gzip", "identity", "*", "deflate"]), 0_u16..=1000), 0..8),
            offered in Just(vec![Br, Zstd, Gzip]).prop_shuffle(),
        ) {
            let mut known = std::collections::BTreeMap::new();
            for (name, weight) in &weights {
                known.entry(*name).and_modify(|before: &mut u16| *before = (*before).min(*weight)).or_insert(*weight);
            }
            let text = |weight: u16| format!("{}.{:03}", weight / 1000, weight % 1000);
            let elements: Vec<_> = weights.iter().map(|(name, weight)| format!("{name};q={}", text(*weight))).collect();
            let field = elements.join(", ");
            let choice = choose([field.as_bytes()].into_iter(), &offered);
            let of = |name: &str| known.get(name).or(known.get("*")).copied();
            let likes = |encoding: Encoding| of(encoding.as_str()).unwrap_or(0);
            let most = offered.iter().map(|encoding| likes(*encoding)).max().unwrap_or(0);
            let plain = of("identity");
            match choice {
                Choice::Plain => prop_assert!(most == 0 || plain.is_some_and(|plain| plain > most)),
                Choice::Encoded { by, only } => {
                    prop_assert!(most > 0 && likes(by) == most);
                    prop_assert_eq!(offered.iter().find(|encoding| likes(**encoding) == most), Some(&by));
                    prop_assert!(plain.is_none_or(|plain| plain <= most));
                    prop_assert_eq!(only, plain == Some(0));
                }
            }
        }
    }
}
