//! Diagnostics as text for people and as JSON for machines.

use super::{Diagnostic, Position, Severity, Source, Sources, Span};
use annotate_snippets::{
    AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};
use serde_json::Value;
use std::fmt;
use std::ops::Range;

/// Whether text is coloured with ANSI sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    #[default]
    Never,
    Always,
}

/// The longest part of a line that is shown, in bytes: a file may be one line of a megabyte.
const EXCERPT_MAX: usize = 160;

impl Sources {
    /// Every diagnostic with the line that it is about, each followed by an empty line.
    pub fn render(&self, diagnostics: &[Diagnostic], colour: Colour) -> String {
        let renderer = match colour {
            Colour::Never => Renderer::plain(),
            Colour::Always => Renderer::styled(),
        };
        let mut text = String::new();
        for diagnostic in diagnostics {
            text.push_str(renderer.render(&self.report(diagnostic)).trim_end());
            text.push_str("\n\n");
        }
        text
    }

    fn report<'a>(&'a self, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let label = diagnostic.label.as_deref();
        let mut first = level
            .primary_title(diagnostic.message.as_str())
            .elements(self.excerpt(diagnostic.span, label));
        if let Some(hint) = &diagnostic.hint {
            first = first.element(
                Level::HELP
                    .with_name("hint")
                    .message(normalize_untrusted_str(hint)),
            );
        }
        let mut groups = vec![first];
        for (span, why) in &diagnostic.related {
            let title = Level::NOTE.secondary_title(normalize_untrusted_str(why));
            groups.push(title.elements(self.excerpt(*span, None)));
        }
        groups
    }

    /// Where a place is, and its line with the place marked.
    fn excerpt<'a>(&'a self, span: Span, label: Option<&'a str>) -> Vec<Element<'a>> {
        let Some(file) = self.file(span.file) else {
            return Vec::new();
        };
        let Position { line, column } = file.position(span.start);
        let shown = Excerpt::of(file, span);
        let shown_column = shown.column();
        let snippet = Snippet::source(shown.text)
            .line_start(line as usize)
            .annotation(AnnotationKind::Primary.span(shown.marked).label(label));
        if shown_column == column as usize {
            return vec![snippet.path(file.name.as_str()).into()];
        }
        // the snippet would name the column of the excerpt
        let origin = Origin::path(file.name.as_str())
            .line(line as usize)
            .char_column(column as usize);
        vec![origin.into(), snippet.into()]
    }

    /// The same facts for machines.
    pub fn to_json(&self, diagnostics: &[Diagnostic]) -> Value {
        diagnostics
            .iter()
            .map(|diagnostic| {
                let mut object = serde_json::json!({
                    "severity": diagnostic.severity,
                    "code": diagnostic.code,
                    "message": diagnostic.message,
                    "path": diagnostic.path,
                    "label": diagnostic.label,
                    "hint": diagnostic.hint,
                    "place": self.json_place(diagnostic.span),
                    "related": diagnostic.related.iter().map(|(span, why)| {
                        serde_json::json!({"message": why, "place": self.json_place(*span)})
                    }).collect::<Vec<_>>(),
                });
                if let Some(fields) = object.as_object_mut() {
                    fields
                        .retain(|_, value| !value.is_null() && *value != Value::Array(Vec::new()));
                }
                object
            })
            .collect()
    }

    fn json_place(&self, span: Span) -> Option<Value> {
        let file = self.file(span.file)?;
        let (start, end) = (
            file.position(span.start),
            file.position(span.end.max(span.start)),
        );
        Some(serde_json::json!({
            "file": file.name,
            "line": start.line,
            "column": start.column,
            "end_line": end.line,
            "end_column": end.column,
        }))
    }
}

/// Diagnostics for machines: a list of objects.
pub fn json(diagnostics: &[Diagnostic], sources: &Sources) -> Value {
    sources.to_json(diagnostics)
}

/// One line, or the part of a long one that matters, with secrets cut out.
struct Excerpt {
    text: String,
    marked: Range<usize>,
}

impl Excerpt {
    fn of(file: &Source, span: Span) -> Self {
        let (_, line) = file.line_at(span.start);
        let start = (span.start as usize).clamp(line.start, line.end);
        let end = (span.end as usize).clamp(start, line.end);
        let window = window(&file.text, &line, start);
        let mut hidden = looks_secret(file.text.get(line.clone()).unwrap_or_default(), line.start);
        hidden.extend(
            file.hidden
                .iter()
                .map(|range| range.start as usize..range.end as usize),
        );
        let mut excerpt = Self {
            text: String::with_capacity(window.len()),
            marked: 0..0,
        };
        let mut masking = false;
        for (at, character) in file
            .text
            .get(window.clone())
            .unwrap_or_default()
            .char_indices()
            .map(|(at, character)| (at + window.start, character))
        {
            excerpt.mark(at, start, end);
            let masked = hidden.iter().any(|range| range.contains(&at));
            match (masked, masking) {
                (true, false) => excerpt.text.push_str("***"),
                (true, true) => {}
                (false, _) => excerpt.text.push(character),
            }
            masking = masked;
        }
        excerpt.mark(window.end, start, end);
        excerpt.marked.end = excerpt.marked.end.max(excerpt.marked.start);
        excerpt
    }

    /// The column of the mark in the excerpt.
    fn column(&self) -> usize {
        let before = self.text.get(..self.marked.start).unwrap_or_default();
        before.chars().count() + 1
    }

    /// Notes where the marked range begins and ends in the text made so far.
    fn mark(&mut self, at: usize, start: usize, end: usize) {
        if at <= start {
            self.marked.start = self.text.len();
        }
        if at <= end {
            self.marked.end = self.text.len();
        }
    }
}

/// The part of a line that is shown: all of a short one.
fn window(text: &str, line: &Range<usize>, around: usize) -> Range<usize> {
    if line.len() <= EXCERPT_MAX {
        return line.clone();
    }
    let start = around.saturating_sub(EXCERPT_MAX / 2).max(line.start);
    let end = (start + EXCERPT_MAX).min(line.end);
    text.ceil_char_boundary(start)..text.floor_char_boundary(end)
}

/// The value on a line whose key sounds like a secret. What a file says is not known where it could not be read, so
/// the words decide.
fn looks_secret(line: &str, offset: usize) -> Vec<Range<usize>> {
    if line.contains("-----BEGIN") {
        return std::iter::once(offset..offset + line.len()).collect();
    }
    let mut hidden = Vec::new();
    let mut from = 0;
    while let Some(colon) = line.get(from..).and_then(|rest| rest.find(':')) {
        let colon = from + colon;
        from = colon + 1;
        let before = line.get(..colon).unwrap_or_default();
        let key = before
            .trim_end_matches(['"', '\''])
            .rsplit(|character: char| {
                !(character.is_alphanumeric() || matches!(character, '_' | '-'))
            })
            .next()
            .unwrap_or_default();
        let after = line.get(from..).unwrap_or_default();
        let value = after.trim_start();
        let start = from + after.len() - value.len();
        if sounds_secret(key) && may_be_secret(value) {
            let length = match line.trim_start().starts_with(['{', '[']) || before.contains('{') {
                true => value.find([',', '}']).unwrap_or(value.len()),
                false => value.len(),
            };
            hidden.push(offset + start..offset + start + length);
        }
    }
    hidden
}

/// Whether a value can be a secret itself: not a reference, a map, a list, a path or a switch.
fn may_be_secret(value: &str) -> bool {
    let word = value.split([',', '}', ' ', '#']).next().unwrap_or_default();
    !word.is_empty()
        && !value.starts_with(['$', '{', '[', '/'])
        && !matches!(word, "on" | "off" | "true" | "false")
}

/// Whether the value of such a key is likely to be a secret.
pub(crate) fn sounds_secret(key: &str) -> bool {
    const WORDS: [&str; 8] = [
        "secret",
        "password",
        "passwd",
        "passphrase",
        "token",
        "credential",
        "authorization",
        "cookie",
    ];
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word))
        || (key != "key" && (key.ends_with("key") || key.ends_with("keys")))
        || super::did_you_mean(&key, WORDS).is_some()
}

/// How many errors and warnings there are, for the line after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub errors: usize,
    pub warnings: usize,
}

impl Counts {
    pub fn of(diagnostics: &[Diagnostic]) -> Self {
        let errors = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.is_error())
            .count();
        Self {
            errors,
            warnings: diagnostics.len() - errors,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let Self { errors, warnings } = *self;
        match (errors, warnings) {
            (_, 0) => write!(f, "{errors} error{}", plural(errors)),
            (0, _) => write!(f, "{warnings} warning{}", plural(warnings)),
            _ => write!(
                f,
                "{errors} error{}, {warnings} warning{}",
                plural(errors),
                plural(warnings)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::FileId;
    use proptest::prelude::*;

    fn one_file(text: &str) -> (Sources, FileId) {
        let mut sources = Sources::default();
        let file = sources.add("a.yaml", text);
        (sources, file)
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_can_be_shown(text in "[ab:\u{e4}\u{1F600}\r\n\t]{0,400}", start in 0u32..500, length in 0u32..50) {
            let (mut sources, file) = one_file(&text);
            sources.hide(Span::new(file, start / 2, start));
            let diagnostic = Diagnostic::error("no", Span::new(file, start, start + length)).label("here");
            sources.render(&[diagnostic], Colour::Never);
        }

        #[test]
        fn what_is_hidden_is_never_shown(before in "[a-f ]{0,8}", secret in "[x-z]{1,20}", after in "[a-f ]{0,8}") {
            let (mut sources, file) = one_file(&format!("{before}{secret}{after}"));
            let start = before.len() as u32;
            let span = Span::new(file, start, start + secret.len() as u32);
            sources.hide(span);
            let shown = sources.render(&[Diagnostic::error("no", span)], Colour::Never);
            let line = shown.lines().find(|line| line.starts_with("1 |")).unwrap_or_default();
            prop_assert!(!line.contains(['x', 'y', 'z']), "{}", shown);
        }
    }

    #[test]
    fn a_diagnostic_shows_its_line_a_hint_and_other_places() {
        let (sources, file) = one_file("routes:\n  a: {servce: b}\n");
        let diagnostic = Diagnostic::error(
            "unknown field `servce`\nhint: did you mean `service`?",
            Span::new(file, 14, 20),
        )
        .label("not a field here")
        .related(Span::new(file, 0, 6), "in this map");
        let shown = sources.render(&[diagnostic], Colour::Never);
        assert_eq!(
            shown,
            "\
error: unknown field `servce`
 --> a.yaml:2:7
  |
2 |   a: {servce: b}
  |       ^^^^^^ not a field here
  |
  = hint: did you mean `service`?
note: in this map
 --> a.yaml:1:1
  |
1 | routes:
  | ^^^^^^

"
        );
    }

    #[test]
    fn keys_that_sound_secret_keep_their_values() {
        for line in [
            "  password: hunter2",
            "{client_secret: hunter2, b: c}",
            "api-key: hunter2",
            "pasword: hunter2",
        ] {
            let (sources, file) = one_file(line);
            let shown = sources.render(
                &[Diagnostic::error("no", Span::new(file, 0, 1))],
                Colour::Never,
            );
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        for line in [
            "key: /etc/key.pem",
            "{credentials: on}",
            "token: ${file:/etc/token}",
        ] {
            let (sources, file) = one_file(line);
            let shown = sources.render(
                &[Diagnostic::error("no", Span::new(file, 0, 1))],
                Colour::Never,
            );
            assert!(shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn errors_and_warnings_are_counted() {
        let count = |errors, warnings| Counts { errors, warnings }.to_string();
        assert_eq!(count(1, 0), "1 error");
        assert_eq!(count(0, 2), "2 warnings");
        assert_eq!(count(2, 1), "2 errors, 1 warning");
    }

    #[test]
    fn machines_get_the_same_facts() {
        let (sources, file) = one_file("a: b\n");
        let diagnostic = Diagnostic::warning("odd", Span::new(file, 3, 4)).code("odd");
        assert_eq!(
            json(&[diagnostic], &sources),
            serde_json::json!([{
                "severity": "warning",
                "code": "odd",
                "message": "odd",
                "place": {"file": "a.yaml", "line": 1, "column": 4, "end_line": 1, "end_column": 5},
            }])
        );
    }
}
