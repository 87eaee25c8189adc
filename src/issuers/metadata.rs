//! What the discovery document of an issuer says besides where its keys are (OpenID Connect Discovery 1.0 §3, RFC 8414).

use crate::identity::Claims;
use crate::outbound::Url;
use serde_json::{Value, json};

/// The members that count.
const AUTHORIZATION: &str = "authorization_endpoint";
const TOKEN: &str = "token_endpoint";
const END_SESSION: &str = "end_session_endpoint";
const METHODS: &str = "token_endpoint_auth_methods_supported";
const NAMES_ITSELF: &str = "authorization_response_iss_parameter_supported";

/// Where somebody can log in, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where browsers are sent. None if it is missing, or no place that may be asked, as with the others.
    pub authorization: Option<Url>,
    /// Where codes and refresh tokens are redeemed.
    pub token: Option<Url>,
    /// Where browsers log out (OpenID Connect RP-Initiated Logout 1.0 §2.1).
    pub end_session: Option<Url>,
    /// How clients say there who they are; `client_secret_basic` if nothing is said.
    pub methods: Vec<Box<str>>,
    /// Its answers to browsers have `iss` (RFC 9207 §3).
    pub names_itself: bool,
}

impl Metadata {
    /// `local`: places on this machine are taken, since the document came from here.
    pub fn of(document: &Claims, local: bool) -> Self {
        let url = |name: &str| {
            let url: Url = document.get(name)?.as_str()?.parse().ok()?;
            // an issuer elsewhere has no business on this machine
            (local || !url.is_of_this_machine()).then_some(url)
        };
        let methods = match document.get(METHODS) {
            Some(Value::Array(all)) => all
                .iter()
                .filter_map(Value::as_str)
                .take(32)
                .map(Into::into)
                .collect(),
            _ => vec!["client_secret_basic".into()],
        };
        Self {
            authorization: url(AUTHORIZATION),
            token: url(TOKEN),
            end_session: url(END_SESSION),
            methods,
            names_itself: document.get(NAMES_ITSELF) == Some(&Value::Bool(true)),
        }
    }

    /// A document that says the same.
    pub fn export(&self) -> Value {
        let text = |url: &Option<Url>| url.as_ref().map(|url| url.as_str().to_owned());
        json!({
            AUTHORIZATION: text(&self.authorization), TOKEN: text(&self.token), END_SESSION: text(&self.end_session),
            METHODS: self.methods, NAMES_ITSELF: self.names_itself,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_where_to_log_in() {
        let document = json!({
            "authorization_endpoint": "https://idp.example/auth", "token_endpoint": "https://idp.example/token",
            "end_session_endpoint": "http://127.0.0.1/end", "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "authorization_response_iss_parameter_supported": true,
        });
        let metadata = Metadata::of(document.as_object().unwrap(), false);
        assert_eq!(
            metadata.token.as_ref().unwrap().as_str(),
            "https://idp.example/token"
        );
        assert_eq!(
            metadata.end_session, None,
            "another machine does not send browsers here"
        );
        assert!(metadata.names_itself);
        let exported = metadata.export();
        assert_eq!(Metadata::of(exported.as_object().unwrap(), true), metadata);
        let nothing = Metadata::of(&Claims::new(), true);
        assert_eq!(*nothing.methods, [Box::from("client_secret_basic")]);
        assert!(nothing.authorization.is_none() && !nothing.names_itself);
        let clear = json!({"token_endpoint": "http://idp.example/token"});
        assert_eq!(Metadata::of(clear.as_object().unwrap(), true).token, None);
    }
}
