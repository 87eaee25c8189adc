//! Who may log in with a password: the users of `basic`, htpasswd files among them.

use super::lines::{LineError, lines};
use super::password::{Effort, PasswordHash};
use crate::units::Invalid;
use ahash::AHashMap;
use std::sync::Arc;

/// The longest name of a user, in bytes.
pub const USER_MAX: usize = 255;

/// Somebody with a password.
#[derive(Clone, Debug)]
pub struct User {
    pub consumer: Arc<str>,
    pub hash: PasswordHash,
    /// Another for another hash: what was found out about one password holds as long as this stays.
    pub mark: [u8; 16],
}

impl User {
    pub fn new(consumer: Arc<str>, hash: PasswordHash) -> Self {
        let digest = blake3::hash(hash.to_string().as_bytes());
        let mark = digest.as_bytes().first_chunk().copied();
        Self {
            consumer,
            hash,
            mark: mark.unwrap_or_default(),
        }
    }
}

/// All users of a configuration.
#[derive(Debug, Default)]
pub struct Passwords {
    users: AHashMap<Arc<str>, User>,
    /// A hash that nobody's password has for each kind of work that some user's hash is.
    decoys: Vec<PasswordHash>,
}

impl Passwords {
    pub fn new(users: impl IntoIterator<Item = (Arc<str>, User)>) -> Self {
        let users: AHashMap<_, _> = users.into_iter().collect();
        let mut efforts: AHashMap<Effort, PasswordHash> = AHashMap::new();
        for user in users.values() {
            let decoy = || user.hash.decoy();
            efforts.entry(user.hash.effort()).or_insert_with(decoy);
        }
        let mut decoys: Vec<_> = efforts.into_iter().collect();
        decoys.sort_by_key(|(effort, _)| *effort);
        Self {
            users,
            decoys: decoys.into_iter().map(|(_, decoy)| decoy).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The user of that name.
    pub fn find(&self, name: &str) -> Option<(&Arc<str>, &User)> {
        self.users.get_key_value(name)
    }

    /// What a password is compared with. For a name that nobody has it is a decoy, and always the same one: who asks
    /// twice, or measures, learns nothing. `mark` is a number that belongs to the name, and that nobody outside can tell.
    pub fn hash_for(&self, name: &str, mark: u64) -> Option<&PasswordHash> {
        if let Some(user) = self.users.get(name) {
            return Some(&user.hash);
        }
        let count = u64::try_from(self.decoys.len()).ok()?;
        let at = mark.checked_rem(count)?;
        self.decoys.get(usize::try_from(at).ok()?)
    }
}

/// A user as a file has it.
#[derive(Clone, Debug)]
pub struct UserLine<'a> {
    pub line: u32,
    pub name: &'a str,
    pub hash: PasswordHash,
}

/// The users of an htpasswd file: `name:hash` in each line, `#` at its beginning for a comment.
pub fn htpasswd(text: &str) -> impl Iterator<Item = Result<UserLine<'_>, LineError>> {
    lines(text).filter_map(|line| {
        let text = line.text.trim_end();
        if text.trim_start().is_empty() || text.starts_with('#') {
            return None;
        }
        let Some((name, hash)) = text.split_once(':') else {
            let invalid = Invalid::new("the line lacks a colon").hint("`user:hash`");
            return Some(Err(line.error(text, invalid)));
        };
        if let Err(invalid) = check_name(name) {
            return Some(Err(line.error(name, invalid)));
        }
        let read = PasswordHash::parse(hash).map_err(|invalid| line.error(hash, invalid));
        Some(read.map(|hash| UserLine {
            line: line.number,
            name,
            hash,
        }))
    })
}

/// Whether somebody can log in with that name (RFC 7617 §2): the colon ends it.
///
/// # Errors
/// Nobody can.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    let right = !name.is_empty()
        && name.len() <= USER_MAX
        && !name.contains(|of: char| of == ':' || of.is_control());
    match right {
        true => Ok(()),
        false => Err(
            Invalid::new("nobody can log in with that name").hint(format!(
                "up to {USER_MAX} bytes, no colons and no control characters"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bcrypt(cost: u32) -> String {
        format!("$2b${cost:02}${}", ".".repeat(53))
    }

    #[test]
    fn a_file_of_htpasswd_is_read_and_its_mistakes_have_places() {
        let text = format!("# team\nanna:{}\n\nb b:{} \r\n", bcrypt(4), bcrypt(5));
        let read: Vec<UserLine<'_>> = htpasswd(&text).map(Result::unwrap).collect();
        let shown: Vec<_> = read.iter().map(|user| (user.line, user.name)).collect();
        assert_eq!(shown, [(2, "anna"), (4, "b b")]);
        for (text, line, column, message) in [
            ("anna", 1, 1, "the line lacks a colon"),
            (
                "\nanna:hunter2",
                2,
                6,
                "this is no hash that is known here: a password in the clear, or the old crypt",
            ),
            (
                "a:$apr1$x$y",
                1,
                3,
                "passwords hashed with `$apr1$` (MD5) are not taken",
            ),
            (":$2b$", 1, 1, "nobody can log in with that name"),
        ] {
            let error = htpasswd(text).find_map(Result::err).unwrap();
            assert_eq!(
                (error.line, error.column, &*error.message),
                (line, column, message)
            );
        }
    }

    #[test]
    fn who_is_not_there_is_as_much_work_as_somebody_who_is() {
        let user = |cost| User::new("c".into(), PasswordHash::parse(&bcrypt(cost)).unwrap());
        let users = [("a", 4), ("b", 4), ("c", 5)];
        let passwords = Passwords::new(users.map(|(name, cost)| (name.into(), user(cost))));
        assert_eq!(
            passwords.hash_for("c", 0).unwrap().effort(),
            Effort::Bcrypt { cost: 5 }
        );
        for mark in 0..9 {
            let decoy = passwords.hash_for("nobody", mark).unwrap();
            let cost = if mark % 2 == 0 { 4 } else { 5 };
            assert_eq!(decoy.effort(), Effort::Bcrypt { cost });
            assert!(!decoy.matches(b""));
        }
        assert!(Passwords::default().hash_for("nobody", 1).is_none());
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "[a-z:$#{}\n\r \u{e4}]{0,60}") {
            htpasswd(&text).for_each(drop);
        }
    }
}
