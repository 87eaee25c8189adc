//! What `${…}` stands for in a value: `${env:NAME}` and `${env:NAME:-default}` anywhere, `${file:/path}` and
//! `${credential:name}` where a secret is expected. `$${` is a plain `${`.
//!
//! References are resolved after the YAML is parsed, so that what they stand for can't become structure.

use crate::units::Invalid;
use std::borrow::Cow;

/// Where references lead.
pub(super) trait Resolve {
    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;

    /// The text of a file that holds a secret.
    fn secret_file(&self, path: &str) -> Result<String, Invalid>;

    /// The text of a systemd credential.
    fn credential(&self, name: &str) -> Result<String, Invalid>;
}

/// What kind of value the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    Plain,
    Secret,
}

/// The text with every reference replaced.
pub(super) fn expand<'t>(
    text: &'t str,
    expects: Expects,
    resolve: &dyn Resolve,
) -> Result<Cow<'t, str>, Invalid> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let (reference, after) = after.split_once('}').ok_or_else(|| {
            Invalid::new("a reference is never closed")
                .hint("`${env:NAME}`; a plain `${` is written `$${`")
        })?;
        expanded.push_str(&resolved(reference, expects, resolve)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

fn resolved(reference: &str, expects: Expects, resolve: &dyn Resolve) -> Result<String, Invalid> {
    match reference.split_once(':') {
        Some(("env", variable)) => environment(variable, resolve),
        Some(("file" | "credential", _)) if expects == Expects::Plain => Err(Invalid::new(format!(
            "`${{{reference}}}` may only stand where a secret is expected"
        ))
        .hint("`${env:NAME}` may stand anywhere")),
        Some(("file", path)) => resolve.secret_file(path),
        Some(("credential", name)) => resolve.credential(name),
        _ => Err(Invalid::new(format!("`${{{reference}}}` is not a reference"))
            .hint("`${env:NAME}`, `${file:/path}` or `${credential:name}`; a plain `${` is written `$${`")),
    }
}

fn environment(variable: &str, resolve: &dyn Resolve) -> Result<String, Invalid> {
    let (name, default) = match variable.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (variable, None),
    };
    let valid = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !valid {
        return Err(Invalid::new(format!(
            "`{}` is not the name of a variable",
            name.escape_debug()
        ))
        .hint("`${env:NAME}` or `${env:NAME:-default}`"));
    }
    // as in a shell, `:-` stands in for an empty variable too
    match (resolve.variable(name), default) {
        (Some(value), _) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (Some(empty), None) => Ok(empty),
        (None, None) => Err(
            Invalid::new(format!("the environment variable `{name}` is not set"))
                .hint(format!("set it, or give a default: `${{env:{name}:-…}}`")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;

    impl Resolve for Fixed {
        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "PORT" => Some("8080".into()),
                "EMPTY" => Some(String::new()),
                "NESTED" => Some("${env:PORT}".into()),
                _ => None,
            }
        }

        fn secret_file(&self, path: &str) -> Result<String, Invalid> {
            Ok(format!("file {path}"))
        }

        fn credential(&self, name: &str) -> Result<String, Invalid> {
            Ok(format!("credential {name}"))
        }
    }

    fn plain(text: &str) -> Result<String, Invalid> {
        expand(text, Expects::Plain, &Fixed).map(Cow::into_owned)
    }

    proptest! {
        #[test]
        fn text_without_references_stays_as_it_is(text in "[^$]*") {
            prop_assert_eq!(plain(&text), Ok(text));
        }

        #[test]
        fn escaping_every_reference_gives_the_text_back(text in "[a${}:-]{0,20}") {
            // a `$` of the text before an escape would be taken for part of it
            prop_assume!(!text.contains("$${"));
            prop_assert_eq!(plain(&text.replace("${", "$${")), Ok(text));
        }

        #[test]
        fn no_text_panics(text in "[${}:envfile-]{0,40}") {
            let _ = plain(&text);
        }
    }

    #[test]
    fn variables_have_defaults() {
        assert_eq!(plain("0.0.0.0:${env:PORT}").as_deref(), Ok("0.0.0.0:8080"));
        assert_eq!(plain("${env:NONE:-7}${env:EMPTY:-8}").as_deref(), Ok("78"));
        assert_eq!(plain("${env:NONE:-}").as_deref(), Ok(""));
        assert!(plain("${env:NONE}").is_err());
        assert!(plain("${env:A B}").is_err());
    }

    #[test]
    fn what_a_reference_stands_for_is_not_expanded_again() {
        assert_eq!(plain("${env:NESTED}").as_deref(), Ok("${env:PORT}"));
    }

    #[test]
    fn secrets_are_read_only_where_secrets_are_expected() {
        assert!(plain("${file:/key}").is_err());
        assert!(plain("${credential:key}").is_err());
        let secret = |text| expand(text, Expects::Secret, &Fixed).map(Cow::into_owned);
        assert_eq!(
            secret("redis://:${file:/key}@host").as_deref(),
            Ok("redis://:file /key@host")
        );
        assert_eq!(secret("${credential:key}").as_deref(), Ok("credential key"));
    }

    #[test]
    fn what_is_no_reference_is_an_error_unless_escaped() {
        assert!(plain("`${name}`").is_err());
        assert!(plain("${ENV:PORT}").is_err());
        assert!(plain("${env:PORT").is_err());
        assert_eq!(plain("`$${name}`").as_deref(), Ok("`${name}`"));
    }
}
