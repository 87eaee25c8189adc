//! Hashes of passwords: argon2id (RFC 9106) and bcrypt, as `northgate key hash --password` and `htpasswd -B` write them.
//!
//! Both take tens of milliseconds of CPU on purpose. Formats that can be tried out by the million are refused by name.
//! bcrypt reads no more than 72 bytes of a password; a longer one is never right, since it would be right with any ending.

use crate::units::Invalid;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt;
use subtle::ConstantTimeEq;

/// The longest password, in bytes.
pub const PASSWORD_MAX: usize = 1024;

/// What bcrypt reads of a password.
const BCRYPT_BYTES: usize = 72;

/// The highest costs that are taken: a slip must not let a few requests take a machine's memory, or minutes of its time.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
const BCRYPT_COST_MAX: u32 = 15;

/// Below this, bcrypt is little work for who has stolen the hash (OWASP Password Storage Cheat Sheet).
const BCRYPT_COST_FAIR: u32 = 10;

/// The same for argon2id, in KiB times passes: the sheet's least are 7 MiB and 5 passes, or 46 MiB and one.
const ARGON2_WORK_FAIR: u64 = 32 * 1024;

/// What new hashes are made with: 19 MiB, two passes, one lane (the sheet's recommendation).
const NEW: (u32, u32, u32) = (19 * 1024, 2, 1);

/// A hash of a password.
#[derive(Clone)]
pub enum PasswordHash {
    Argon2id {
        params: Params,
        version: Version,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    Bcrypt {
        cost: u32,
        text: Box<str>,
    },
}

/// How much work a hash is: two of the same take the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    Bcrypt { cost: u32 },
    Argon2id { kib: u32, passes: u32, lanes: u32 },
}

impl PasswordHash {
    /// Reads a hash. The text is in no error.
    ///
    /// # Errors
    /// It is of another format, or its costs are out of bounds.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("$argon2id$") {
            return argon2id(text);
        }
        if ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return bcrypt(text);
        }
        let weak = match text {
            _ if text.starts_with("$apr1$") => "`$apr1$` (MD5)",
            _ if text.starts_with("{SHA}") => "`{SHA}` (SHA-1 without a salt)",
            _ if text.starts_with("{SSHA}") => "`{SSHA}` (SHA-1)",
            _ if text.starts_with("$1$") => "`$1$` (MD5)",
            _ if text.starts_with("$2x$") => "`$2x$` (a broken bcrypt)",
            _ if text.starts_with("$5$") || text.starts_with("$6$") => "SHA-crypt",
            _ if text.starts_with("$argon2") => "argon2 of another kind than argon2id",
            _ => "no hash that is known here: a password in the clear, or the old crypt",
        };
        let message = match weak {
            weak if weak.starts_with("no hash") => format!("this is {weak}"),
            weak => format!("passwords hashed with {weak} are not taken"),
        };
        Err(Invalid::new(message)
            .hint("argon2id or bcrypt: `northgate key hash --password`, or `htpasswd -B -C 12`"))
    }

    /// Hashes a password anew, with 16 random bytes.
    pub fn new(password: &[u8], salt: [u8; 16]) -> Option<Self> {
        let (kib, passes, lanes) = NEW;
        let params = Params::new(kib, passes, lanes, Some(32)).ok()?;
        let mut hash = [0; 32];
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        hasher.hash_password_into(password, &salt, &mut hash).ok()?;
        Some(PasswordHash::Argon2id {
            params,
            version: Version::V0x13,
            salt: salt.into(),
            hash: hash.into(),
        })
    }

    /// Whether this is the password. Takes as long whether it is or not.
    pub fn matches(&self, password: &[u8]) -> bool {
        match self {
            PasswordHash::Argon2id {
                params,
                version,
                salt,
                hash,
            } => {
                let mut made = vec![0; hash.len()];
                let hasher = Argon2::new(Algorithm::Argon2id, *version, params.clone());
                let hashed = hasher.hash_password_into(password, salt, &mut made);
                hashed.is_ok() && made.ct_eq(hash).into()
            }
            PasswordHash::Bcrypt { text, .. } => {
                // hashed all the same: how long it takes must not tell that there is such a user
                let right = bcrypt::verify(password, text).unwrap_or(false);
                right && password.len() <= BCRYPT_BYTES
            }
        }
    }

    pub fn effort(&self) -> Effort {
        match self {
            PasswordHash::Argon2id { params, .. } => Effort::Argon2id {
                kib: params.m_cost(),
                passes: params.t_cost(),
                lanes: params.p_cost(),
            },
            PasswordHash::Bcrypt { cost, .. } => Effort::Bcrypt { cost: *cost },
        }
    }

    /// A hash that no password has, and that takes as long: for users that are not there.
    pub fn decoy(&self) -> Self {
        match self {
            PasswordHash::Argon2id {
                params, version, ..
            } => PasswordHash::Argon2id {
                params: params.clone(),
                version: *version,
                salt: [0; 16].into(),
                hash: [0; 32].into(),
            },
            PasswordHash::Bcrypt { cost, .. } => PasswordHash::Bcrypt {
                cost: *cost,
                text: format!("$2b${cost:02}${}", ".".repeat(53)).into(),
            },
        }
    }
}

impl Effort {
    /// What is to be said about so little work, if it is too little.
    pub fn weakness(self) -> Option<String> {
        match self {
            Effort::Bcrypt { cost } if cost < BCRYPT_COST_FAIR => Some(format!(
                "bcrypt with a cost of {cost} is tried out quickly by who steals the hash: take {BCRYPT_COST_FAIR} or more"
            )),
            Effort::Argon2id { kib, passes, .. }
                if u64::from(kib) * u64::from(passes) < ARGON2_WORK_FAIR =>
            {
                Some(format!(
                    "argon2id with m={kib},t={passes} is tried out quickly by who steals the hash: take m=19456,t=2 or more"
                ))
            }
            _ => None,
        }
    }
}

/// The PHC string of argon2id. A bcrypt hash is written as it was read.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordHash::Argon2id {
                params,
                version,
                salt,
                hash,
            } => {
                let (kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                let version = u32::from(*version);
                write!(
                    f,
                    "$argon2id$v={version}$m={kib},t={passes},p={lanes}${salt}${hash}"
                )
            }
            PasswordHash::Bcrypt { text, .. } => f.write_str(text),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::units::MASK)
    }
}

/// `$argon2id$v=19$m=19456,t=2,p=1$salt$hash` (the PHC string format); without `v` it is of the version before.
fn argon2id(text: &str) -> Result<PasswordHash, Invalid> {
    let wrong = || {
        Invalid::new("the argon2id hash is not complete")
            .hint("`$argon2id$v=19$m=…,t=…,p=…$salt$hash`; in YAML it needs quotes")
    };
    let parts: Vec<&str> = text.split('$').collect();
    let (version, costs, salt, hash) = match parts[..] {
        ["", "argon2id", "v=19", costs, salt, hash] => (Version::V0x13, costs, salt, hash),
        ["", "argon2id", "v=16", costs, salt, hash] | ["", "argon2id", costs, salt, hash] => {
            (Version::V0x10, costs, salt, hash)
        }
        _ => return Err(wrong()),
    };
    let costs: Vec<&str> = costs.split(',').collect();
    let [kib, passes, lanes] = costs[..] else {
        return Err(wrong());
    };
    let cost = |text: &str, name| -> Result<u32, Invalid> {
        let digits = text
            .strip_prefix(name)
            .filter(|digits| !digits.starts_with('+'));
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(wrong)
    };
    let (kib, passes, lanes) = (cost(kib, "m=")?, cost(passes, "t=")?, cost(lanes, "p=")?);
    if kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        let most = format!("up to m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX}");
        let message = "the argon2id hash takes more memory or time than a request may";
        return Err(Invalid::new(message).hint(most));
    }
    let bytes = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| wrong());
    let (salt, hash) = (bytes(salt)?, bytes(hash)?);
    if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&hash.len()) {
        return Err(wrong());
    }
    let params = Params::new(kib, passes, lanes, Some(hash.len())).map_err(|_| wrong())?;
    Ok(PasswordHash::Argon2id {
        params,
        version,
        salt: salt.into(),
        hash: hash.into(),
    })
}

fn bcrypt(text: &str) -> Result<PasswordHash, Invalid> {
    let wrong = || {
        Invalid::new("the bcrypt hash is not complete")
            .hint("60 characters, such as `$2y$12$…`; in YAML it needs quotes")
    };
    let parts: bcrypt::HashParts = text.parse().map_err(|_| wrong())?;
    let cost = parts.get_cost();
    if !(4..=BCRYPT_COST_MAX).contains(&cost) {
        let message = format!("a cost of {cost} is not between 4 and {BCRYPT_COST_MAX}");
        return Err(Invalid::new(message).hint("12 takes about a quarter of a second"));
    }
    Ok(PasswordHash::Bcrypt {
        cost,
        text: text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn what_others_have_hashed_is_verified() {
        let hash = PasswordHash::parse(REFERENCE).unwrap();
        assert!(hash.matches(b"password"));
        assert!(!hash.matches(b"Password"));
        // the first vector of OpenBSD's own tests, with a cost that is soon computed
        let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let hash = PasswordHash::parse(hash).unwrap();
        assert!(hash.matches(b"U*U"));
        assert!(!hash.matches(b"U*U*"));
    }

    #[test]
    fn a_new_hash_is_written_as_it_is_read() {
        let hash = PasswordHash::new("pässword".as_bytes(), [7; 16]).unwrap();
        let read = PasswordHash::parse(&hash.to_string()).unwrap();
        assert!(read.matches("pässword".as_bytes()));
        assert_eq!(read.to_string(), hash.to_string());
        assert_eq!(read.effort().weakness(), None);
        assert_eq!(format!("{read:?}"), "***");
    }

    #[test]
    fn of_a_password_bcrypt_reads_72_bytes_and_more_is_never_right() {
        let hashed = |password: &str| {
            let text = bcrypt::hash(password, 4).unwrap();
            PasswordHash::parse(&text).unwrap()
        };
        let (long, longer) = ("a".repeat(72), "a".repeat(73));
        assert!(hashed(&long).matches(long.as_bytes()));
        assert!(!hashed(&long).matches(longer.as_bytes()));
        assert!(!hashed(&longer).matches(longer.as_bytes()));
    }

    #[test]
    fn formats_that_are_soon_tried_out_are_refused_by_name() {
        for (text, wanted) in [
            ("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", "`$apr1$` (MD5)"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "`{SHA}`"),
            (
                "$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g.",
                "SHA-crypt",
            ),
            ("rl.3StKT.4T8M", "the old crypt"),
            ("hunter2", "in the clear"),
            (
                "$argon2i$v=19$m=16,t=2,p=1$MTIzNDU2Nzg$rYBI9eZPGkLZn4bbMOjmKw",
                "of another kind",
            ),
        ] {
            let error = PasswordHash::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(wanted) && error.contains("htpasswd -B"),
                "{error}"
            );
            assert!(!error.contains(text), "{error}");
        }
    }

    #[test]
    fn costs_have_bounds() {
        for costs in [
            "m=262145,t=2,p=1",
            "m=65536,t=17,p=1",
            "m=65536,t=2,p=17",
            "m=+65536,t=2,p=1",
            "m=1,t=1,p=1",
        ] {
            assert!(
                PasswordHash::parse(&REFERENCE.replace("m=65536,t=2,p=1", costs)).is_err(),
                "{costs}"
            );
        }
        let bcrypt = |cost| format!("$2b${cost}${}", ".".repeat(53));
        assert!(PasswordHash::parse(&bcrypt("16")).is_err());
        assert!(PasswordHash::parse(&bcrypt("03")).is_err());
        let weak = PasswordHash::parse(&bcrypt("05")).unwrap();
        assert!(
            weak.effort()
                .weakness()
                .is_some_and(|why| why.contains("cost of 5"))
        );
    }

    #[test]
    fn a_decoy_is_as_much_work_and_never_right() {
        for text in [REFERENCE.to_owned(), format!("$2b$04${}", ".".repeat(53))] {
            let hash = PasswordHash::parse(&text).unwrap();
            let decoy = hash.decoy();
            assert_eq!(decoy.effort(), hash.effort());
            assert!(PasswordHash::parse(&decoy.to_string()).is_ok());
            assert!(!decoy.matches(b"password") && !decoy.matches(b""));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn no_other_password_is_right(password in "\\PC{1,20}", other in "\\PC{0,20}", at in 0..20_usize) {
            let hash = PasswordHash::parse(&bcrypt::hash(&password, 4).unwrap()).unwrap();
            prop_assert!(hash.matches(password.as_bytes()));
            if other != password {
                prop_assert!(!hash.matches(other.as_bytes()));
            }
            let mut changed = password.into_bytes();
            let at = at % changed.len();
            changed[at] ^= 1;
            prop_assert!(!hash.matches(&changed));
        }

        #[test]
        fn no_text_panics(text in "(\\$argon2id\\$v=19\\$m=16,t=1,p=1|\\$2b\\$0)?[$a-zA-Z0-9./=,+\u{e4}]{0,70}") {
            let _ = PasswordHash::parse(&text);
        }
    }
}
