//! What is sent on in place of the path, and how the answer is mapped back.

use crate::exchange::View;
use crate::exchange::canonical::canonical_path;
use crate::exchange::template::Template;
use crate::problem::{Kind, Problem};
use std::borrow::Cow;

/// A compiled `rewrite`.
#[derive(Debug)]
pub struct Rewrite {
    pub change: Change,
    /// Whether `Location` and cookie paths of the answer are changed back.
    pub map_back: bool,
}

/// What a rewrite does.
#[derive(Debug)]
pub enum Change {
    /// Cuts `strip` off the front, then puts `prefix` there. Both begin with a slash, end without one, or are empty.
    Prefix { strip: Box<str>, prefix: Box<str> },
    /// Replaces the path, and the query where it has one of its own.
    Path(Template),
}

impl Rewrite {
    /// The target to send on, canonical.
    ///
    /// # Errors
    /// A value of the request that makes the new path ambiguous.
    pub fn target(&self, view: View<'_>) -> Result<String, Problem> {
        let uri = &view.request.uri;
        let (path, own_query) = match &self.change {
            Change::Prefix { strip, prefix } => (prefixed(uri.path(), strip, prefix), None),
            Change::Path(template) => {
                let missing = || {
                    Problem::new(Kind::RequestPath)
                        .source("the rewrite needs what the request lacks")
                };
                let text = template.url(view).ok_or_else(missing)?;
                match text.split_once('?') {
                    Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
                    None => (text, None),
                }
            }
        };
        let canonical = canonical_path(&path).map_err(|problem| {
            Problem::new(Kind::RequestPath)
                .source(format!("after the rewrite: {:?}", problem.detail))
        })?;
        let mut target = canonical.text.into_owned();
        if let Some(query) = own_query.as_deref().or(uri.query()) {
            target.push('?');
            target.push_str(query);
        }
        Ok(target)
    }

    /// The path that a client has to ask for so that this one is sent on; none when it can't be told.
    pub fn mapped_back<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        let Change::Prefix { strip, prefix } = &self.change else {
            return None;
        };
        let rest = under(path, prefix)?;
        if strip.is_empty() {
            return Some(if rest.is_empty() {
                "/".into()
            } else {
                rest.into()
            });
        }
        Some(format!("{strip}{rest}").into())
    }
}

fn prefixed(path: &str, strip: &str, prefix: &str) -> String {
    let rest = under(path, strip).unwrap_or(path);
    let slash = if rest.is_empty() && prefix.is_empty() {
        "/"
    } else {
        ""
    };
    format!("{prefix}{slash}{rest}")
}

/// What follows a prefix, on a segment boundary.
fn under<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(strip: &str, prefix: &str) -> Rewrite {
        Rewrite {
            change: Change::Prefix {
                strip: strip.into(),
                prefix: prefix.into(),
            },
            map_back: true,
        }
    }

    #[test]
    fn prefixes_are_cut_and_put_on_segment_boundaries() {
        assert_eq!(prefixed("/v1/a", "/v1", ""), "/a");
        assert_eq!(prefixed("/v1", "/v1", ""), "/");
        assert_eq!(prefixed("/v1/", "/v1", ""), "/");
        assert_eq!(prefixed("/v10/a", "/v1", ""), "/v10/a");
        assert_eq!(prefixed("/v1/a", "/v1", "/internal"), "/internal/a");
        assert_eq!(prefixed("/v1", "/v1", "/internal"), "/internal");
        assert_eq!(prefixed("/a", "", "/internal"), "/internal/a");
    }

    #[test]
    fn what_was_cut_is_put_back() {
        let back = |strip, prefix, path| {
            rewrite(strip, prefix)
                .mapped_back(path)
                .map(Cow::into_owned)
        };
        assert_eq!(back("/v1", "", "/a?b=c").as_deref(), Some("/v1/a?b=c"));
        assert_eq!(back("/v1", "", "/").as_deref(), Some("/v1/"));
        assert_eq!(
            back("/v1", "/internal", "/internal/a").as_deref(),
            Some("/v1/a")
        );
        assert_eq!(back("", "/internal", "/internal").as_deref(), Some("/"));
        assert_eq!(back("/v1", "/internal", "/elsewhere"), None);
    }
}
