//! What an operator is told about a configuration: file, line, column, cause, hint.
//!
//! ```text
//! error: unknown field `servce`
//!  --> conf.d/orders.yaml:4:5
//!   |
//! 4 |     servce: orders
//!   |     ^^^^^^ not a field here
//!   |
//!   = hint: did you mean `service`?
//! ```
//!
//! A [`Diagnostic`] holds places as byte ranges; [`Sources`] holds the files, and turns both into text or JSON. Whatever
//! is marked with [`Sources::hide`] is shown as `***`.

mod render;

pub use crate::units::{FileId, Span, Spanned};
pub(crate) use render::sounds_secret;
pub use render::{Colour, Counts, json};

use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

/// Whether a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A stable word for machines, such as `unknown_field`.
    pub code: Option<&'static str>,
    /// One line, without a full stop.
    pub message: String,
    pub span: Span,
    /// What is said beside the marked text.
    pub label: Option<Cow<'static, str>>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Other places that matter, and why.
    pub related: Vec<(Span, Cow<'static, str>)>,
    /// The place in the configuration's tree, such as `routes.orders.match`.
    pub path: Option<String>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Error, message.into(), span)
    }

    pub fn warning(message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Warning, message.into(), span)
    }

    /// A message may bring its hint along, as a second line `hint: …`.
    fn new(severity: Severity, message: String, span: Span) -> Self {
        let (message, hint) = match message.split_once("\nhint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (message, None),
        };
        Self {
            severity,
            code: None,
            message,
            span,
            label: None,
            hint,
            related: Vec::new(),
            path: None,
        }
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn related(mut self, span: Span, why: impl Into<Cow<'static, str>>) -> Self {
        self.related.push((span, why.into()));
        self
    }

    /// `did you mean` the nearest of these, where one is near.
    pub fn did_you_mean<C: AsRef<str>>(
        self,
        word: &str,
        candidates: impl IntoIterator<Item = C>,
    ) -> Self {
        match did_you_mean(word, candidates) {
            Some(meant) => self.hint(format!("did you mean `{meant}`?")),
            None => self,
        }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The files of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    /// As it is shown.
    name: String,
    text: String,
    line_starts: OnceLock<Vec<u32>>,
    hidden: Vec<Range<u32>>,
}

/// A line and a column, both from 1. The column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Sources {
    /// Takes in a file under the name by which it is shown.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push(Source {
            name: name.into(),
            text: text.into(),
            line_starts: OnceLock::new(),
            hidden: Vec::new(),
        });
        id
    }

    fn file(&self, id: FileId) -> Option<&Source> {
        self.files.get(id.0 as usize)
    }

    /// The name by which a file is shown.
    pub fn name(&self, id: FileId) -> Option<&str> {
        self.file(id).map(|file| file.name.as_str())
    }

    pub fn text(&self, id: FileId) -> Option<&str> {
        self.file(id).map(|file| file.text.as_str())
    }

    /// Shows `***` in place of this text from now on.
    pub fn hide(&mut self, span: Span) {
        if let Some(file) = self.files.get_mut(span.file.0 as usize) {
            file.hidden.push(span.start..span.end);
        }
    }

    /// Where a place begins.
    pub fn position(&self, span: Span) -> Option<Position> {
        self.file(span.file).map(|file| file.position(span.start))
    }

    /// `file:line:column`, for one-line messages.
    pub fn place(&self, span: Span) -> Option<String> {
        let Position { line, column } = self.position(span)?;
        Some(format!("{}:{line}:{column}", self.name(span.file)?))
    }

    /// How often each of these names stands in the files as a word of its own, comments included.
    pub fn times_written<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> HashMap<&'n str, usize> {
        let mut times: HashMap<&str, usize> = names.into_iter().map(|name| (name, 0)).collect();
        if times.is_empty() {
            return times;
        }
        let in_a_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
        let words = |file| str::split(file, |letter| !in_a_name(letter));
        for word in self.files.iter().flat_map(|file| words(&file.text)) {
            if let Some(times) = times.get_mut(word) {
                *times += 1;
            }
        }
        times
    }

    /// Sorts by file and position, what has no place first.
    pub fn sort(&self, diagnostics: &mut [Diagnostic]) {
        diagnostics.sort_by(|a, b| {
            let place = |diagnostic: &Diagnostic| {
                let span = diagnostic.span;
                (
                    span.is_known().then_some((span.file, span.start)),
                    diagnostic.severity,
                )
            };
            (place(a), &a.message).cmp(&(place(b), &b.message))
        });
    }
}

impl Source {
    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let breaks = memchr::memchr_iter(b'\n', self.text.as_bytes());
            std::iter::once(0)
                .chain(breaks.filter_map(|at| u32::try_from(at + 1).ok()))
                .collect()
        })
    }

    /// The line that holds a byte, counted from 0, and its range without the line break.
    fn line_at(&self, at: u32) -> (usize, Range<usize>) {
        let starts = self.line_starts();
        let line = starts
            .partition_point(|start| *start <= at)
            .saturating_sub(1);
        let start = starts.get(line).map_or(0, |start| *start as usize);
        let end = starts
            .get(line + 1)
            .map_or(self.text.len(), |next| *next as usize - 1);
        let end = match self.text.get(start..end) {
            Some(text) => start + text.trim_end_matches('\r').len(),
            None => start,
        };
        (line, start..end)
    }

    fn position(&self, at: u32) -> Position {
        let (line, range) = self.line_at(at);
        let before = self.text.get(range.start..at as usize).unwrap_or_default();
        let count = |number: usize| u32::try_from(number + 1).unwrap_or(u32::MAX);
        Position {
            line: count(line),
            column: count(before.chars().count()),
        }
    }
}

/// The candidate that a misspelt word is nearest to, where one is near enough to be meant.
pub fn did_you_mean<C: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = C>,
) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let mut nearest: Option<(usize, C)> = None;
    for candidate in candidates {
        let text = candidate.as_ref();
        let allowed = (word.len().max(text.len()) / 3).clamp(1, 4);
        let most = nearest.as_ref().map_or(allowed, |(distance, _)| {
            allowed.min(distance.saturating_sub(1))
        });
        if word.len().abs_diff(text.len()) > most {
            continue;
        }
        let distance = edit_distance(word.as_bytes(), text.to_ascii_lowercase().as_bytes());
        if distance <= most {
            nearest = Some((distance, candidate));
        }
    }
    nearest.map(|(_, candidate)| candidate.as_ref().to_owned())
}

/// How many insertions, deletions, replacements and swaps of neighbours lead from one word to the other (optimal string
/// alignment).
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (row, &from) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut last_b = None;
        for (column, &to) in b.iter().enumerate() {
            let cell = |cells: &[usize], at: usize| cells.get(at).copied().unwrap_or(usize::MAX);
            let replaced = cell(&last, column) + usize::from(from != to);
            let mut least = replaced
                .min(cell(&last, column + 1) + 1)
                .min(cell(&current, column) + 1);
            if last_a == Some(to) && last_b == Some(from) {
                least = least.min(cell(&before_last, column - 1) + 1);
            }
            current.push(least);
            last_b = Some(to);
        }
        before_last = std::mem::replace(&mut last, current);
        last_a = Some(from);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_distance_is_that_of_a_metric(a in "[ab]{0,6}", b in "[ab]{0,6}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            prop_assert_eq!(edit_distance(a, b), edit_distance(b, a));
            prop_assert_eq!(edit_distance(a, b) == 0, a == b);
            prop_assert!(edit_distance(a, b) <= a.len().max(b.len()));
        }

        #[test]
        fn every_place_has_a_line_and_a_column(text in "[a\u{e4}\r\n]{0,30}", at in 0u32..40) {
            let mut sources = Sources::default();
            let file = sources.add("a", text.clone());
            let position = sources.position(Span::new(file, at, at)).expect("a position");
            prop_assert!(position.line as usize <= text.matches('\n').count() + 1);
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        let fields = ["service", "redirect", "respond", "priority"];
        assert_eq!(did_you_mean("servce", fields).as_deref(), Some("service"));
        assert_eq!(did_you_mean("serivce", fields).as_deref(), Some("service"));
        assert_eq!(
            did_you_mean("Redirect", fields).as_deref(),
            Some("redirect")
        );
        assert_eq!(did_you_mean("banana", fields), None);
        assert_eq!(did_you_mean("", fields), None);
    }

    #[test]
    fn positions_count_characters_from_one() {
        let mut sources = Sources::default();
        let file = sources.add("a.yaml", "ab\r\n\u{e4}c\n");
        let place = |start| sources.place(Span::new(file, start, start));
        assert_eq!(place(0).as_deref(), Some("a.yaml:1:1"));
        assert_eq!(place(6).as_deref(), Some("a.yaml:2:2"));
        assert_eq!(place(8).as_deref(), Some("a.yaml:3:1"));
        assert_eq!(sources.place(Span::UNKNOWN), None);
    }

    #[test]
    fn what_has_no_place_comes_first() {
        let mut sources = Sources::default();
        let file = sources.add("a.yaml", "abc");
        let mut all = vec![
            Diagnostic::error("late", Span::new(file, 2, 3)),
            Diagnostic::warning("nowhere", Span::UNKNOWN),
            Diagnostic::error("early", Span::new(file, 0, 1)),
        ];
        sources.sort(&mut all);
        let order: Vec<_> = all
            .iter()
            .map(|diagnostic| diagnostic.message.as_str())
            .collect();
        assert_eq!(order, ["nowhere", "early", "late"]);
    }
}
