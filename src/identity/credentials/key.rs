//! The form of generated API keys: `prefix_` and 49 letters and digits, such as `ng_x1…`.
//!
//! The first 43 are drawn from 62 characters each, which is 256 bits of randomness; nothing of the kind can be guessed, so
//! that a fast digest is enough to keep it. The last 6 are a checksum over all that stands before them: a scanner that looks
//! for leaked keys tells one from a random word without asking anybody, and a slip in copying is found before it is looked
//! for in a log. Keys of other makers have other forms and are as good: only their digest counts.

use crate::units::Invalid;
use zeroize::Zeroizing;

/// The longest key that a request may carry, in bytes (security requirements 7).
pub const BYTES_MAX: usize = 512;

/// The shortest key of another maker that is taken, in bytes: what can't be tried out. A generated one has 52.
pub const BYTES_MIN: usize = 16;

/// What a generated key begins with where nothing else is asked for.
pub const PREFIX: &str = "ng";

/// The longest prefix.
const PREFIX_MAX: usize = 32;

/// Random characters: 62^43 is more than 2^256.
const RANDOM: usize = 43;

/// Characters of the checksum: 62^6 is more than 2^32.
const CHECK: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new key. `random` gives a random byte each time, from a source that is good enough for secrets.
///
/// # Errors
/// The prefix is not up to 32 letters, digits and `_`, the first one a letter and the last one no `_`; or there is no
/// random byte.
pub fn generate(
    prefix: &str,
    mut random: impl FnMut() -> Option<u8>,
) -> Result<Zeroizing<String>, Invalid> {
    check_prefix(prefix)?;
    // reserved, so that no copy is left behind by growing
    let mut key = Zeroizing::new(String::with_capacity(prefix.len() + 1 + RANDOM + CHECK));
    key.push_str(prefix);
    key.push('_');
    let mut drawn = 0;
    while drawn < RANDOM {
        // six bits; the two values that are no character are drawn again, so that all characters are as likely
        let byte = random().ok_or_else(|| Invalid::new("the system gives no random numbers"))?;
        if let Some(character) = ALPHABET.get(usize::from(byte & 0x3f)) {
            key.push(char::from(*character));
            drawn += 1;
        }
    }
    let check = checksum(key.as_bytes());
    key.push_str(&check);
    Ok(key)
}

/// What a text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A generated key, whole.
    Generated,
    /// The form of a generated key with a wrong checksum: one character or more is another than it was.
    Damaged,
    /// Anything else, such as a key of another maker.
    Foreign,
}

/// Tells a generated key from others by its form.
pub fn form_of(key: &str) -> Form {
    let Some((prefix, rest)) = key.rsplit_once('_') else {
        return Form::Foreign;
    };
    let plain = rest.len() == RANDOM + CHECK && rest.bytes().all(|byte| ALPHABET.contains(&byte));
    if !plain || check_prefix(prefix).is_err() {
        return Form::Foreign;
    }
    match key.split_at_checked(key.len().saturating_sub(CHECK)) {
        Some((before, check)) if checksum(before.as_bytes()) == check => Form::Generated,
        _ => Form::Damaged,
    }
}

fn check_prefix(prefix: &str) -> Result<(), Invalid> {
    let in_prefix = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let right = prefix.len() <= PREFIX_MAX
        && prefix.starts_with(|first: char| first.is_ascii_alphabetic())
        && prefix.bytes().all(in_prefix)
        && !prefix.ends_with('_');
    if right {
        return Ok(());
    }
    let shown: String = prefix.chars().take(PREFIX_MAX).collect();
    Err(
        Invalid::new(format!("`{}` can't begin a key", shown.escape_debug())).hint(format!(
            "up to {PREFIX_MAX} letters, digits and `_`, the first one a letter, such as `acme_live`"
        )),
    )
}

/// CRC-32 (ISO 3309, as in zlib) in base 62, which is how tokens of GitHub do it too.
fn checksum(text: &[u8]) -> String {
    let mut rest = crc32(text);
    let mut digits = [b'0'; CHECK];
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(rest % 62).unwrap_or_default();
        *digit = ALPHABET.get(value).copied().unwrap_or_default();
        rest /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(prefix: &str, mut seed: u64) -> String {
        let next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some((seed >> 33) as u8)
        };
        generate(prefix, next).unwrap().to_string()
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(b""), "000000");
    }

    #[test]
    fn bytes_that_are_no_character_are_drawn_again() {
        let mut bytes = [62, 63, 0x80, 61].into_iter().cycle();
        let key = generate("k", || bytes.next()).unwrap();
        assert!(key.starts_with("k_0z0z0z"), "{}", *key);
        assert_eq!(key.len(), 2 + RANDOM + CHECK);
        let mut few = std::iter::repeat_n(7, RANDOM - 1);
        assert!(generate("k", || few.next()).is_err());
    }

    #[test]
    fn a_prefix_is_a_word() {
        for prefix in ["ng", "acme_live", "A1"] {
            assert!(generate(prefix, || Some(7)).is_ok(), "{prefix}");
        }
        for prefix in ["", "1a", "_a", "a_", "a-b", "a b", &"a".repeat(33)] {
            assert!(generate(prefix, || Some(7)).is_err(), "{prefix}");
        }
    }

    #[test]
    fn keys_of_other_makers_are_foreign() {
        for key in [
            "",
            "_",
            "secret",
            "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
            "ng_",
            "\u{e4}_\u{e4}",
        ] {
            assert_eq!(form_of(key), Form::Foreign, "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_generated_key_is_known_as_one(prefix in "[a-z]([a-z0-9_]{0,10}[a-z0-9])?", seed: u64) {
            let key = made(&prefix, seed);
            prop_assert_eq!(form_of(&key), Form::Generated);
            prop_assert!(key.len() <= BYTES_MAX);
        }

        #[test]
        fn a_changed_key_is_not_taken_for_whole(seed: u64, at in 0..52_usize, to in 0..62_usize) {
            let key = made("ng", seed);
            let mut changed = key.clone().into_bytes();
            changed[at] = ALPHABET[to];
            let changed = String::from_utf8(changed).unwrap();
            prop_assume!(changed != key);
            prop_assert_ne!(form_of(&changed), Form::Generated);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            form_of(&text);
        }
    }
}
