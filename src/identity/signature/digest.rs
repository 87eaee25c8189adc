//! `Content-Digest` (RFC 9530): what a body has to be, looked at while it passes.

use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA512};
use sfv::{ListEntry, Parser};

/// The digests of a body that a field names, as far as they are worth anything (RFC 9530 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    sha256: Option<Vec<u8>>,
    sha512: Option<Vec<u8>>,
}

impl Digests {
    /// Reads the value of a field. None if it is malformed, or has nothing but digests that can be forged.
    pub fn read(value: &[u8]) -> Option<Self> {
        let members = Parser::parse_dictionary(value).ok()?;
        let digest = |name: &str, length: usize| match members.get(name) {
            None => Some(None),
            Some(ListEntry::Item(item)) => {
                let bytes = item.bare_item.as_byte_seq()?;
                (bytes.len() == length).then(|| Some(bytes.clone()))
            }
            Some(ListEntry::InnerList(_)) => None,
        };
        let digests = Self {
            sha256: digest("sha-256", 32)?,
            sha512: digest("sha-512", 64)?,
        };
        (digests.sha256.is_some() || digests.sha512.is_some()).then_some(digests)
    }

    /// Begins to look at a body.
    pub fn watch(&self) -> Watch {
        let one = |algorithm: &'static Algorithm, wanted: &Option<Vec<u8>>| {
            wanted
                .as_ref()
                .map(|wanted| (Context::new(algorithm), wanted.clone()))
        };
        let all = [one(&SHA256, &self.sha256), one(&SHA512, &self.sha512)];
        Watch(all.into_iter().flatten().collect())
    }

    /// Whether they are those of this body.
    pub fn are_of(&self, body: &[u8]) -> bool {
        let mut watch = self.watch();
        watch.piece(body);
        watch.is_good()
    }
}

/// One body, piece by piece.
pub struct Watch(Vec<(Context, Vec<u8>)>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    pub fn piece(&mut self, piece: &[u8]) {
        for (context, _) in &mut self.0 {
            context.update(piece);
        }
    }

    /// Whether what has been seen has every digest that was named.
    pub fn is_good(&self) -> bool {
        self.0
            .iter()
            .all(|(context, wanted)| context.clone().finish().as_ref() == wanted.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9530 appendix B.
    const HELLO: &[u8] = b"{\"hello\": \"world\"}\n";
    const SHA_256: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";

    #[test]
    fn the_digests_of_the_rfc_are_those_of_its_bodies() {
        assert!(Digests::read(SHA_256.as_bytes()).unwrap().are_of(HELLO));
        // RFC 9421 appendix B.2
        let value = b"sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
        let digests = Digests::read(value).unwrap();
        assert!(digests.are_of(b"{\"hello\": \"world\"}"));
        assert!(!digests.are_of(HELLO));
        assert!(!digests.are_of(b""));
    }

    #[test]
    fn all_that_are_named_have_to_be_right() {
        let wrong = format!("{SHA_256}, sha-512=:{}:", "A".repeat(86) + "==");
        assert!(!Digests::read(wrong.as_bytes()).unwrap().are_of(HELLO));
        let with_md5 = format!("md5=:AAAA:, {SHA_256}");
        assert!(Digests::read(with_md5.as_bytes()).unwrap().are_of(HELLO));
    }

    #[test]
    fn what_says_nothing_is_none() {
        for value in [
            "",
            "md5=:AAAA:",
            "sha-256=:AAAA:",
            "sha-256=x",
            "sha-256=(1)",
            "sha-256",
        ] {
            assert_eq!(Digests::read(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn pieces_make_no_difference() {
        let digests = Digests::read(SHA_256.as_bytes()).unwrap();
        let mut watch = digests.watch();
        for piece in HELLO.chunks(3) {
            watch.piece(piece);
        }
        assert!(watch.is_good());
        watch.piece(b" ");
        assert!(!watch.is_good());
    }
}
