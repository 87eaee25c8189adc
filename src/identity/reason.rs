//! Why a credential was not accepted: exactly, for operators, and what a client may know of it.

/// What a client is told. Anything more helps whoever guesses (RFC 6750 §3.1, RFC 8725).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// There was no credential.
    Missing,
    /// It was good, and its time is over. Said only after its signature has been verified.
    Expired,
    Invalid,
    /// A page of another site may have sent it: it does not count, good or bad.
    CrossSite,
    /// Too many were wrong before: it was not looked at.
    Guessing,
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
    /// The credential ended while what it had opened was still open (`close_at_expiry`).
    Ended "auth.ended" Expired;
    /// The credential stands in a cookie, and the request was made by a page of another origin.
    CrossSite "auth.cross_site" CrossSite;
    /// Too many passwords or keys from this client address were wrong.
    GuessingAddress "auth.guessing.address" Guessing;
    /// Too many passwords for this name were wrong.
    GuessingName "auth.guessing.name" Guessing;
    /// The token is longer than 8 KiB; nothing of it was decoded.
    JwtTooLong "auth.jwt.too_long" Invalid;
    /// The token is not three parts of base64url, with JSON in them that has one meaning.
    JwtMalformed "auth.jwt.malformed" Invalid;
    /// The token names no algorithm, `none`, one that is not accepted, or one that its key is not for.
    JwtAlgorithm "auth.jwt.algorithm" Invalid;
    /// The token has a critical extension (`crit`, `b64`); none is known.
    JwtCritical "auth.jwt.critical" Invalid;
    /// The `typ` of the token says that it is for another purpose.
    JwtType "auth.jwt.type" Invalid;
    /// The key of the token is none of its issuer's.
    JwtKey "auth.jwt.key" Invalid;
    /// The signature is wrong.
    JwtSignature "auth.jwt.signature" Invalid;
    /// The token is over; everything else about it is right.
    JwtExpired "auth.jwt.expired" Expired;
    /// The token does not count yet (`nbf`).
    JwtNotBefore "auth.jwt.not_before" Invalid;
    /// The token was issued in the future (`iat`).
    JwtIssuedAt "auth.jwt.issued_at" Invalid;
    /// The token is not of an issuer that is accepted here (`iss`).
    JwtIssuer "auth.jwt.issuer" Invalid;
    /// The token is for somebody else (`aud`).
    JwtAudience "auth.jwt.audience" Invalid;
    /// A claim is missing that every token needs, or has a value that it can't have.
    JwtClaims "auth.jwt.claims" Invalid;
    /// The `jti` of the token is on a list of revoked ones.
    JwtRevoked "auth.jwt.revoked" Invalid;
    /// The token can't be one: it is empty, longer than 8 KiB, or has other letters than RFC 6750 §2.1 has.
    IntrospectionMalformed "auth.introspection.malformed" Invalid;
    /// The authorisation server says that the token is not active, or no longer.
    IntrospectionInactive "auth.introspection.inactive" Invalid;
    /// The token is not of the issuer that is accepted here.
    IntrospectionIssuer "auth.introspection.issuer" Invalid;
    /// The token is for somebody else.
    IntrospectionAudience "auth.introspection.audience" Invalid;
    /// The client certificate was good until it expired, on a connection that is still open.
    CertificateExpired "auth.mtls.expired" Expired;
    /// The client certificate is none of those that consumers have.
    CertificateUnknown "auth.mtls.unknown" Invalid;
    /// The client certificate is that of several consumers.
    CertificateSeveral "auth.mtls.several" Invalid;
    /// The client certificate has no name of the kind that tells who it is, or several.
    CertificateName "auth.mtls.name" Invalid;
    /// The external authoriser said no; the client got its answer.
    ForwardDenied "auth.forward.denied" Invalid;
    /// The external authoriser could not be asked, or answered neither yes nor no.
    ForwardFailed "auth.forward.failed" Invalid;
    /// Of `Signature` and `Signature-Input` one is missing, or has no signature that counts.
    SignatureMissing "auth.signature.missing" Invalid;
    /// Several signatures could be meant.
    SignatureSeveral "auth.signature.several" Invalid;
    /// `Signature` or `Signature-Input` is malformed, longer than 8 KiB, or lacks a parameter.
    SignatureMalformed "auth.signature.malformed" Invalid;
    /// Something is covered that is unknown, not there, or named twice.
    SignatureComponent "auth.signature.component" Invalid;
    /// Something has to be covered and is not.
    SignatureCoverage "auth.signature.coverage" Invalid;
    /// No consumer has a key of that id.
    SignatureKey "auth.signature.key" Invalid;
    /// The signature names another algorithm than the one of its key.
    SignatureAlgorithm "auth.signature.algorithm" Invalid;
    /// The signature is not that of the request by this key.
    SignatureWrong "auth.signature.wrong" Invalid;
    /// The signature was made in the future.
    SignatureEarly "auth.signature.early" Invalid;
    /// The signature is older than it may be, or past its `expires`.
    SignatureExpired "auth.signature.expired" Expired;
    /// The signature needs a nonce of up to 256 characters.
    SignatureNonce "auth.signature.nonce" Invalid;
    /// The nonce of the signature was seen before.
    SignatureReplayed "auth.signature.replayed" Invalid;
    /// `Content-Digest` is covered, and missing, malformed, or not that of the body.
    SignatureDigest "auth.signature.digest" Invalid;
    /// What stands where a key belongs is empty, `null`, or longer than 512 bytes.
    KeyMalformed "auth.key.malformed" Invalid;
    /// No consumer has that key.
    KeyUnknown "auth.key.unknown" Invalid;
    /// The id of the key is on a list of revoked ones.
    KeyRevoked "auth.key.revoked" Invalid;
    /// The `not_before` of the key is still to come.
    KeyEarly "auth.key.not_yet_valid" Invalid;
    /// The key was good until it expired.
    KeyExpired "auth.key.expired" Expired;
    /// What stands behind `Basic` is not base64 of a user and a password (RFC 7617), or too long.
    BasicMalformed "auth.basic.malformed" Invalid;
    /// Nobody has that name.
    BasicUser "auth.basic.user" Invalid;
    /// The user has another password.
    BasicPassword "auth.basic.password" Invalid;
    /// The session cookie is none that this gateway sealed for this client, or a part of it is missing.
    OidcSession "auth.oidc.session" Invalid;
    /// The session of the browser was good until it ended: by age, without use, or with its tokens.
    OidcExpired "auth.oidc.expired" Expired;
    /// The session was ended before its time: by a logout, or by the identity provider.
    OidcEnded "auth.oidc.ended" Expired;
    /// A login comes back that this browser has not begun, that is too old, or that is malformed.
    OidcState "auth.oidc.state" Invalid;
    /// The identity provider answered a login with an error, such as that the user declined.
    OidcDenied "auth.oidc.denied" Invalid;
    /// The answer to a login is of another issuer (RFC 9207).
    OidcIssuer "auth.oidc.issuer" Invalid;
    /// The identity provider did not take the code, or the gateway as its client.
    OidcCode "auth.oidc.code" Invalid;
    /// The identity provider gave no id token, or an access token in place of one.
    OidcToken "auth.oidc.token" Invalid;
    /// The id token is that of another login (`nonce`).
    OidcNonce "auth.oidc.nonce" Invalid;
    /// The id token does not belong to the access token that came with it (`at_hash`).
    OidcHash "auth.oidc.at_hash" Invalid;
    /// A renewed id token is somebody else's.
    OidcSubject "auth.oidc.subject" Invalid;
    /// The session is too large for the cookies that it may have.
    OidcTooLarge "auth.oidc.too_large" Invalid;
    /// Nobody logs in over plain HTTP, other than on this machine.
    OidcClear "auth.oidc.clear" Invalid;
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
