//! Files with a credential in each line, for sets that are too large for the configuration or that others write.
//!
//! ```text
//! # id       digest              consumer  expires     more
//! acme-2026  blake3:qN3k…        acme      2027-01-01
//! acme-2027  blake3:x1Zo…        acme      -           not_before=2026-12-01
//! shop-1     blake3:7f0a…        shop      -           plan=gold groups=partners,eu
//! ```
//!
//! Words stand between spaces or tabs; `#` before a word begins a comment. A list of revoked ids has one in each line.

use super::digest::WrittenDigest;
use super::table::{Key, Owner};
use crate::units::{Invalid, Timestamp};

/// The longest id, name of a consumer, plan or group, in bytes.
const WORD_MAX: usize = 128;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Both from 1; the column counts characters.
    pub line: u32,
    pub column: u32,
    pub message: String,
    pub hint: Option<String>,
}

/// A key with its line.
#[derive(Clone, Debug)]
pub struct KeyLine<'a> {
    pub line: u32,
    pub digest: WrittenDigest,
    pub key: Key<'a>,
}

/// The keys of a file, and what is wrong with lines that hold none.
pub fn keys(text: &str) -> impl Iterator<Item = Result<KeyLine<'_>, LineError>> {
    lines(text).filter_map(|line| key(&line).transpose())
}

/// The ids of a list, each with its line.
pub fn ids(text: &str) -> impl Iterator<Item = Result<(u32, &str), LineError>> {
    lines(text).filter_map(|line| {
        let mut words = line.words();
        let first = words.next()?;
        match words.next() {
            None => Some(Ok((line.number, first))),
            Some(second) => {
                let invalid = Invalid::new("an id is one word").hint("one id in each line");
                Some(Err(line.error(second, invalid)))
            }
        }
    })
}

/// Whether a text can be an id, or the name of a consumer, plan or group, in a file.
pub fn is_word(text: &str) -> bool {
    let in_word = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b',' | b'=');
    !text.is_empty() && text.len() <= WORD_MAX && text != "-" && text.bytes().all(in_word)
}

/// A line without its comment.
pub(super) struct Line<'a> {
    pub number: u32,
    pub text: &'a str,
}

/// The lines of a file.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .zip(1..)
        .map(|(text, number)| Line { number, text })
}

impl<'a> Line<'a> {
    pub fn words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text
            .split_ascii_whitespace()
            .take_while(|word| !word.starts_with('#'))
    }

    /// `part` is a part of the line.
    pub fn error(&self, part: &str, invalid: Invalid) -> LineError {
        let before = part.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        let before = self.text.get(..before).unwrap_or_default();
        LineError {
            line: self.number,
            column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
            message: invalid.message,
            hint: invalid.hint,
        }
    }

    fn error_at_end(&self, invalid: Invalid) -> LineError {
        let last = self.words().last().unwrap_or_default();
        self.error(last, invalid)
    }
}

fn key<'a>(line: &Line<'a>) -> Result<Option<KeyLine<'a>>, LineError> {
    let mut words = line.words();
    let Some(id) = words.next() else {
        return Ok(None);
    };
    check_word(line, id, "the id of a key")?;
    let missing = |what| {
        let hint = "`id digest consumer expires`, and `-` for a key that never expires";
        line.error_at_end(Invalid::new(format!("the line lacks {what}")).hint(hint))
    };
    let digest = words.next().ok_or_else(|| missing("a digest"))?;
    let digest: WrittenDigest = digest
        .parse()
        .map_err(|invalid| line.error(digest, invalid))?;
    let consumer = words.next().ok_or_else(|| missing("a consumer"))?;
    check_word(line, consumer, "the name of a consumer")?;
    let mut key = Key {
        id,
        digest: digest.digest,
        owner: Owner {
            consumer,
            plan: None,
            groups: None,
        },
        not_before: None,
        expires: None,
    };
    let mut words = words.peekable();
    if let Some(word) = words.next_if(|word| !word.contains('='))
        && word != "-"
    {
        key.expires = Some(moment(line, word)?);
    }
    for word in words {
        setting(line, word, &mut key)?;
    }
    if let (Some(from), Some(until)) = (key.not_before, key.expires)
        && from >= until
    {
        let invalid = Invalid::new("the key expires before it is valid");
        return Err(line.error(id, invalid));
    }
    Ok(Some(KeyLine {
        line: line.number,
        digest,
        key,
    }))
}

fn setting<'a>(line: &Line<'a>, word: &'a str, key: &mut Key<'a>) -> Result<(), LineError> {
    let hint = "`not_before=2027-01-01`, `plan=gold`, `groups=a,b`";
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let twice = match name {
        "not_before" => key.not_before.replace(moment(line, value)?).is_some(),
        "plan" => {
            check_word(line, value, "the name of a plan")?;
            key.owner.plan.replace(value).is_some()
        }
        "groups" => {
            for group in value.split(',') {
                check_word(line, group, "the name of a group")?;
            }
            key.owner.groups.replace(value).is_some()
        }
        _ => {
            let shown: String = name.chars().take(40).collect();
            let message = format!("`{}` is not known here", shown.escape_debug());
            return Err(line.error(word, Invalid::new(message).hint(hint)));
        }
    };
    match twice {
        true => Err(line.error(word, Invalid::new(format!("`{name}` stands twice")))),
        false => Ok(()),
    }
}

fn moment(line: &Line<'_>, word: &str) -> Result<Timestamp, LineError> {
    word.parse().map_err(|invalid| line.error(word, invalid))
}

/// The text is in no error: the words of the line may be in another order, and it may be a key.
fn check_word(line: &Line<'_>, word: &str, what: &str) -> Result<(), LineError> {
    if is_word(word) {
        return Ok(());
    }
    let hint = format!("up to {WORD_MAX} visible ASCII characters without `#`, `,` and `=`");
    Err(line.error(
        word,
        Invalid::new(format!("this can't be {what}")).hint(hint),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::digest::DigestKey;
    use super::*;
    use proptest::prelude::*;

    fn digest(secret: &str) -> String {
        let key = DigestKey::new(b"test");
        key.written(key.digest(secret.as_bytes())).to_string()
    }

    fn error(text: &str) -> String {
        let error = keys(text).find_map(Result::err).expect("an error");
        let hint = error.hint.map(|hint| format!(" ({hint})"));
        format!(
            "{}:{}: {}{}",
            error.line,
            error.column,
            error.message,
            hint.unwrap_or_default()
        )
    }

    #[test]
    fn a_line_says_whose_a_key_is_and_how_long() {
        let one = digest("1");
        let text = format!(
            "\u{feff}# keys\n\n a-1\t{one} acme 2027-01-01 # of the partner\r\na-2 {one} acme - not_before=2026-12-01T10:00:00Z plan=gold groups=x,y\na-3 {one} acme\n"
        );
        let read: Vec<KeyLine<'_>> = keys(&text).map(Result::unwrap).collect();
        let [first, second, third] = &read[..] else {
            panic!("{read:?}")
        };
        assert_eq!(
            (first.line, first.key.id, first.key.owner.consumer),
            (3, "a-1", "acme")
        );
        assert_eq!(first.key.expires, Some("2027-01-01".parse().unwrap()));
        assert_eq!(first.key.digest, DigestKey::new(b"test").digest(b"1"));
        assert_eq!(second.key.expires, None);
        assert_eq!(
            second.key.not_before,
            Some("2026-12-01T10:00:00Z".parse().unwrap())
        );
        assert_eq!(second.key.owner.plan, Some("gold"));
        assert_eq!(second.key.owner.groups, Some("x,y"));
        assert_eq!((third.line, third.key.expires), (5, None));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        let one = digest("1");
        let cases = [
            (
                "a".to_owned(),
                "1:1: the line lacks a digest (`id digest consumer expires`, and `-` for a key that never expires)",
            ),
            (
                "\n  a hunter2 acme".into(),
                "2:5: this is not the digest of a key (`northgate key hash` makes it of a key: `blake3:` and 48 characters)",
            ),
            (
                format!("a {one}"),
                "1:3: the line lacks a consumer (`id digest consumer expires`, and `-` for a key that never expires)",
            ),
            (
                format!("a {one} acme tomorrow"),
                "1:64: `tomorrow` is not a moment (a day such as `2027-03-01`, or `2027-03-01T12:00:00Z`)",
            ),
            (
                format!("a {one} acme - plan=x plan=y"),
                "1:73: `plan` stands twice",
            ),
            (
                format!("a {one} acme - colour=red"),
                "1:66: `colour` is not known here (`not_before=2027-01-01`, `plan=gold`, `groups=a,b`)",
            ),
            (
                format!("a {one} acme - groups=a,,b"),
                "1:75: this can't be the name of a group (up to 128 visible ASCII characters without `#`, `,` and `=`)",
            ),
            (
                format!("a {one} acme 2027-01-01 not_before=2027-01-01"),
                "1:1: the key expires before it is valid",
            ),
            (
                format!("\u{e4} {one} acme"),
                "1:1: this can't be the id of a key (up to 128 visible ASCII characters without `#`, `,` and `=`)",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(error(&text), wanted, "{text}");
        }
    }

    #[test]
    fn a_list_has_an_id_in_each_line() {
        let read: Result<Vec<_>, _> = ids("# gone\na-1\n\n  b/2 # stolen\n").collect();
        assert_eq!(read, Ok(vec![(2, "a-1"), (4, "b/2")]));
        let wrong: Vec<_> = ids("a b").collect();
        assert!(matches!(
            &wrong[..],
            [Err(LineError {
                line: 1,
                column: 3,
                ..
            })]
        ));
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "[a-z0-9:=,#\\- \n\r\t\u{e4}]{0,80}") {
            keys(&text).for_each(drop);
            ids(&text).for_each(drop);
        }
    }
}
