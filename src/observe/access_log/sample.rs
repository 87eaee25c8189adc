//! A share of all requests.

use crate::observe::random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A share such as `20%`: more than none, at most all. Kept in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+(\.[0-9]{1,4})?%$"))]
pub struct Share(u32);

const ALL: u32 = 1_000_000;

impl TryFrom<String> for Share {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let share = text.strip_suffix('%').and_then(millionths);
        let share = share.filter(|share| (1..=ALL).contains(share));
        share
            .map(Self)
            .ok_or("a share of more than 0% and at most 100% is expected, such as `20%`")
    }
}

/// The millionths in a number of hundredths with up to four decimals.
fn millionths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
    whole.checked_mul(10_000)?.checked_add(decimals)
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        let (whole, decimals) = (share.0 / 10_000, share.0 % 10_000);
        let decimals = format!(".{decimals:04}");
        format!(
            "{whole}{}%",
            decimals.trim_end_matches('0').trim_end_matches('.')
        )
    }
}

/// Chooses a share at random.
pub struct Sampling {
    /// Random numbers up to this are taken; none when all are.
    most: Option<u64>,
}

impl Sampling {
    pub fn new(share: Option<Share>) -> Self {
        let part = share.filter(|share| share.0 < ALL);
        Self {
            most: part.map(|part| u64::MAX / u64::from(ALL) * u64::from(part.0)),
        }
    }

    /// Whether the next one is in the sample.
    pub fn takes(&self) -> bool {
        self.most.is_none_or(|most| random::next() <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sample_is_about_its_share() {
        let sampling = Sampling::new(Some(Share(250_000)));
        let taken = (0..100_000).filter(|_| sampling.takes()).count();
        assert!((23_000..27_000).contains(&taken), "{taken}");
        assert!(Sampling::new(None).takes());
    }

    #[test]
    fn shares_that_are_none_are_refused() {
        for text in [
            "",
            "%",
            "0%",
            "0.0%",
            "101%",
            "20",
            "1.%",
            ".5%",
            "1.00001%",
            "-1%",
            "1e2%",
            "99999999999%",
        ] {
            assert!(Share::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_share_reads_as_what_it_was_written_as(millionths in 1..=ALL) {
            let text = String::from(Share(millionths));
            prop_assert_eq!(Share::try_from(text), Ok(Share(millionths)));
        }
    }
}
