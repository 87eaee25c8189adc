//! Why a credential was not accepted: exactly, for operators, and what a client may know of it.

/// What a client is told. Anything more helps whoever guesses (RFC 6750 §3.1, RFC 8725).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// There was no credential.
    Missing,
    /// It was good, and its time is over. Said only after its signature has been verified.
    Expired,
    Invalid,
}

/// Declares the closed set of reasons as one table: variant, code, what a client may know.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident $code:literal $public:ident;)*) => {
        /// Every reason for which a credential is not accepted. The code is stable: it is in the log, and the label of
        /// `northgate_auth_refused_total`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])* $name),* }

        impl Reason {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The stable code, such as `auth.jwt.signature`.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $code),* }
            }

            /// What a client may know of it.
            pub const fn public(self) -> Public {
                match self { $(Reason::$name => Public::$public),* }
            }

            /// The sentence of the table in the documentation.
            pub fn description(self) -> String {
                let lines: &[&str] = match self { $(Reason::$name => &[$($doc),*]),* };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

reasons! {
    /// The request carries no credential.
    Missing "auth.missing" Missing;
    /// The request carries credentials of several kinds where one decides.
    Several "auth.several" Invalid;
    /// The field, parameter or cookie that holds the credential is repeated.
    Repeated "auth.repeated" Invalid;
    /// Two credentials that are both required name different consumers.
    Conflict "auth.conflict" Invalid;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_described() {
        let codes: HashSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.code().starts_with("auth."), "{reason:?}");
            assert!(reason.description().ends_with('.'), "{reason:?}");
        }
    }
}
