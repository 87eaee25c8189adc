//! YAML as a tree that remembers where everything stands.
//!
//! The parser is `granit-parser`; the tree is our own, because every later error needs the place of a key or a value,
//! scalars must keep their raw text (`1.10` stays so), and what YAML allows beyond a configuration is refused here:
//! duplicate keys, several documents, tags, merge keys, aliases without bound.

use crate::diagnostic::{Diagnostic, FileId, Span};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};
use std::collections::HashMap;

/// How many aliases a file may have, and how many nodes they may stand for together: no small file becomes a large one.
const ALIASES_MAX: usize = 100;
const ALIASED_NODES_MAX: usize = 100_000;

/// How deeply maps and lists may be nested.
const DEPTH_MAX: usize = 64;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub span: Span,
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing was written, or `~`, or `null`.
    Empty,
    /// Something that can't be used. It was reported, and whatever comes of it is not reported again.
    Faulty,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text as it was written, without quotes and escapes.
#[derive(Clone, Debug)]
pub struct Scalar {
    pub text: Box<str>,
    /// Quoted, or a block: never a word such as `off`.
    pub quoted: bool,
}

/// A key and its value. Keys of one map differ.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Box<str>,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    fn faulty(span: Span) -> Self {
        Self {
            span,
            value: Value::Faulty,
        }
    }

    pub fn is_faulty(&self) -> bool {
        matches!(self.value, Value::Faulty)
    }

    /// The entries, where it is a map.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The entry of that key, where it is a map.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| *entry.key == *key)
    }

    /// What it is, in words of YAML.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Empty | Value::Faulty => "nothing",
            Value::Scalar(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Empty | Value::Faulty | Value::Scalar(_) => 0,
            Value::List(list) => list.iter().map(Node::count).sum(),
            Value::Map(map) => map.iter().map(|entry| entry.value.count()).sum(),
        }
    }
}

/// Reads one file. The tree is there unless the syntax is broken; what is wrong besides is reported, and the tree goes
/// on without it, so that later errors are found too.
pub fn parse(file: FileId, text: &str, errors: &mut Vec<Diagnostic>) -> Option<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder {
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        aliases: 0,
        aliased_nodes: 0,
        documents: 0,
        errors,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if let (Some(tag), Some(span)) = (event.tag(), span.tag_span()) {
                    builder.refuse_tag(&tag.to_string(), place(file, &span));
                }
                builder.take(event, place(file, &span));
            }
            Err(error) => {
                let error = syntax_error(file, text, &error);
                builder.errors.push(error);
                return None;
            }
        }
    }
    builder.root
}

fn place(file: FileId, span: &granit_parser::Span) -> Span {
    let range = span.byte_range().unwrap_or_default();
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Span::new(file, offset(range.start), offset(range.end))
}

/// A map or list that is not closed yet.
enum Open {
    List {
        span: Span,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        span: Span,
        anchor: usize,
        entries: Vec<Entry>,
        /// Where each key was first written.
        keys: HashMap<Box<str>, Span>,
        /// The key whose value comes next.
        key: Option<Key>,
    },
}

/// What a key turned out to be.
enum Key {
    Usable(Box<str>, Span),
    /// Reported; its map goes on with a faulty value, so that what it lacks is not reported too.
    Unusable(Span),
    /// Reported; its map has the first one.
    Duplicate,
}

struct Builder<'e> {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    aliases: usize,
    aliased_nodes: usize,
    documents: usize,
    errors: &'e mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) {
        match event {
            Event::DocumentStart(..) => self.document(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::UnresolvedAlias(name) => self.unresolved(&name, span),
            Event::Scalar(text, style, anchor, _) => {
                let node = Node {
                    span,
                    value: scalar(&text, style),
                };
                self.close(node, anchor);
            }
            Event::SequenceStart(_, anchor, _) => self.open.push(Open::List {
                span,
                anchor,
                items: Vec::new(),
            }),
            Event::MappingStart(_, anchor, _) => self.open.push(Open::Map {
                span,
                anchor,
                entries: Vec::new(),
                keys: HashMap::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            _ => {}
        }
    }

    fn refuse_tag(&mut self, tag: &str, span: Span) {
        self.errors.push(
            Diagnostic::error(format!("tags have no meaning here: `{tag}`"), span)
                .code("syntax")
                .hint("remove it; quote the value if it begins with `!`"),
        );
    }

    fn document(&mut self, span: Span) {
        self.documents += 1;
        if self.documents == 2 {
            self.errors.push(
                Diagnostic::error("a second document begins here", span)
                    .code("syntax")
                    .hint("one file holds one document; `include` takes further files"),
            );
        }
    }

    fn end(&mut self, end: Span) {
        let whole = |start: Span| Span::new(start.file, start.start, end.end.max(start.end));
        match self.open.pop() {
            Some(Open::List {
                span,
                anchor,
                items,
            }) => {
                let node = Node {
                    span: whole(span),
                    value: Value::List(items),
                };
                self.close(node, anchor);
            }
            Some(Open::Map {
                span,
                anchor,
                entries,
                ..
            }) => {
                let node = Node {
                    span: whole(span),
                    value: Value::Map(entries),
                };
                self.close(node, anchor);
            }
            None => {}
        }
    }

    /// A node is complete: it becomes a key, a value, an item or the root.
    fn close(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map {
                entries, keys, key, ..
            }) => match key.take() {
                None => *key = Some(read_key(node, keys, self.errors)),
                Some(Key::Usable(key, key_span)) => entries.push(Entry {
                    key,
                    key_span,
                    value: node,
                }),
                Some(Key::Unusable(key_span)) => entries.push(Entry {
                    key: Box::default(),
                    key_span,
                    value: Node::faulty(node.span),
                }),
                Some(Key::Duplicate) => {}
            },
            None if self.documents < 2 => self.root = Some(node),
            None => {}
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) {
        self.aliases += 1;
        let node = self.anchors.get(&anchor);
        let size = node.map_or(0, Node::count);
        self.aliased_nodes = self.aliased_nodes.saturating_add(size);
        let bounded = self.aliases <= ALIASES_MAX && self.aliased_nodes <= ALIASED_NODES_MAX;
        let node = match node {
            Some(node) if bounded => node.clone(),
            _ => {
                let message = match bounded {
                    true => "this alias stands for the value that it stands in".to_owned(),
                    false => format!(
                        "more than {ALIASES_MAX} aliases, or {ALIASED_NODES_MAX} values behind them"
                    ),
                };
                // the first one is enough
                if bounded
                    || self.aliases == ALIASES_MAX + 1
                    || self.aliased_nodes - size <= ALIASED_NODES_MAX
                {
                    self.errors.push(
                        Diagnostic::error(message, span)
                            .code("syntax")
                            .hint("profiles and groups hold what routes share"),
                    );
                }
                Node::faulty(span)
            }
        };
        self.close(node, 0);
    }

    fn unresolved(&mut self, name: &str, span: Span) {
        self.errors.push(
            Diagnostic::error(
                format!("`*{name}` is read as an alias, and nothing has that name"),
                span,
            )
            .code("syntax")
            .hint(format!(
                "text that begins with `*` needs quotes: `\"*{name}\"`"
            )),
        );
        self.close(Node::faulty(span), 0);
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let quoted = style != ScalarStyle::Plain;
    if !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Empty;
    }
    Value::Scalar(Scalar {
        text: text.into(),
        quoted,
    })
}

/// Takes a node as a key of a map with these keys so far.
fn read_key(node: Node, keys: &mut HashMap<Box<str>, Span>, errors: &mut Vec<Diagnostic>) -> Key {
    let (kind, span) = (node.kind(), node.span);
    let Value::Scalar(Scalar { text, quoted }) = node.value else {
        errors.push(
            Diagnostic::error(format!("a key is text, not {kind}"), span)
                .code("syntax")
                .hint("text that begins with `{` or `[` needs quotes"),
        );
        return Key::Unusable(span);
    };
    if &*text == "<<" && !quoted {
        errors.push(
            Diagnostic::error("merge keys are not supported", span)
                .code("syntax")
                .hint("profiles and groups hold what routes share"),
        );
        return Key::Unusable(span);
    }
    if let Some(first) = keys.get(&text) {
        errors.push(
            Diagnostic::error(format!("duplicate key `{}`", text.escape_debug()), span)
                .code("duplicate_key")
                .related(*first, "first written here"),
        );
        return Key::Duplicate;
    }
    keys.insert(text.clone(), span);
    Key::Usable(text, span)
}

fn syntax_error(file: FileId, text: &str, error: &ScanError) -> Diagnostic {
    let mark = error.marker();
    let at = mark.byte_offset().unwrap_or(text.len()).min(text.len());
    let (at, message, hint) = explain(text, at, error.kind());
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let width = text
        .get(at..)
        .and_then(|rest| rest.chars().next())
        .filter(|character| !matches!(character, '\n' | '\r'))
        .map_or(0, char::len_utf8);
    let span = Span::new(file, offset(at), offset(at + width));
    let diagnostic = Diagnostic::error(message, span).code("syntax");
    match hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// The place, a message in plain words, and a hint. The parser speaks of its own states; people ask what to change.
fn explain(text: &str, at: usize, kind: &ErrorKind) -> (usize, String, Option<String>) {
    use ErrorKind::*;
    let line_start = text
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let before = text.get(line_start..at).unwrap_or_default();
    let tab = before.find('\t').filter(|tab| {
        before
            .get(..*tab)
            .is_some_and(|start| start.trim().is_empty())
    });
    if let Some(tab) = tab {
        let hint = "indent with spaces".to_owned();
        return (
            line_start + tab,
            "a tab can't indent YAML".into(),
            Some(hint),
        );
    }
    let spaces = || Some("indent with spaces, the same number for all keys of one map".to_owned());
    let quote = || {
        Some(
            "text that begins with `{`, `[`, `*`, `&`, `!`, `%`, `@` or a backtick needs quotes"
                .to_owned(),
        )
    };
    let (message, hint): (&str, Option<String>) = match kind {
        TabNotAllowed
        | TabInBlockIndentation
        | TabInIndentation
        | TabAtBlockScalarStart
        | TabInPlainScalar => ("a tab can't indent YAML", Some("indent with spaces".into())),
        MappingValueNotAllowed | InvalidColonPlacement | InvalidMappingValueWhitespace => (
            "a second `:` on this line",
            Some("text that holds `: ` needs quotes".into()),
        ),
        UnclosedFlowCollection { open } => {
            return (
                at,
                format!("`{open}` is never closed"),
                Some(
                    "text that begins with `{` or `[` needs quotes, such as a path `\"/a/{id}\"`"
                        .into(),
                ),
            );
        }
        MismatchedFlowCollectionEnd { open, close } => {
            return (at, format!("`{open}` is closed by `{close}`"), None);
        }
        MisplacedFlowCollectionEnd => (
            "nothing is open that this bracket could close",
            Some("in `{…}` and `[…]`, text that holds brackets needs quotes".into()),
        ),
        ExpectedFlowMappingSeparator
        | ExpectedFlowSequenceSeparator
        | FlowMappingValueAdjacentCollection => (
            "expected `,` or the closing bracket",
            Some(
                "in `{…}` and `[…]`, text that holds brackets or begins with `*` needs quotes"
                    .into(),
            ),
        ),
        UnexpectedEofFlowSequence | UnexpectedEofFlowMapping | UnexpectedEofImplicitFlowMapping => {
            ("the file ends inside `{…}` or `[…]`", None)
        }
        UnclosedQuotedScalar => ("a quote is never closed", None),
        InvalidTrailingSingleQuotedScalar | InvalidTrailingDoubleQuotedScalar => (
            "text after the closing quote",
            Some("quote the whole text; in '…' a quote is written ''".into()),
        ),
        UnknownQuotedScalarEscape => (
            "an unknown escape in \"…\"",
            Some("in '…' a backslash is just a backslash".into()),
        ),
        ExpectedNodeContent
        | UnexpectedCharacter { .. }
        | MissingAnchorOrAliasName
        | InvalidTagTerminator
        | MissingTagUri
        | UndeclaredTagHandle
        | DirectiveDisallowed
        | PlainScalarStartsWithDashFlowIndicator => ("this can't begin a value", quote()),
        SimpleKeyExpected | InvalidSimpleKey => {
            ("expected `key: value`", Some("a `:` may be missing".into()))
        }
        ExpectedBlockMappingKey
        | InvalidIndentation
        | BlockSequenceEntryNotAllowed
        | MappingKeyNotAllowed
        | ExpectedBlockSequenceEntry => (
            "this line does not belong to the map or list above it",
            spaces(),
        ),
        RecursionLimitExceeded => {
            return (
                at,
                format!("maps and lists are nested deeper than {DEPTH_MAX}"),
                None,
            );
        }
        ExpectedDocumentStart | InvalidDocumentEnd | MissingDocumentEndBeforeDirective => {
            ("text after the end of the document", spaces())
        }
        other => return (at, format!("not YAML: {other}"), None),
    };
    (at, message.to_owned(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: FileId = FileId(0);

    fn read(text: &str) -> (Option<Node>, Vec<Diagnostic>) {
        let mut errors = Vec::new();
        let node = parse(FILE, text, &mut errors);
        (node, errors)
    }

    fn only_error(text: &str) -> Diagnostic {
        let (_, mut errors) = read(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            read(&text);
        }

        #[test]
        fn no_yaml_like_text_panics(text in "[a:{}\\[\\]*&!'\" \n\t,?|>%-]{0,60}") {
            read(&text);
        }

        #[test]
        fn scalars_keep_their_text_and_their_place(text in "[a-z0-9./]{1,20}") {
            let (node, errors) = read(&format!("key: {text}"));
            prop_assume!(text != "null");
            prop_assert!(errors.is_empty());
            let node = node.expect("a map");
            let value = &node.entry("key").expect("the key").value;
            let Value::Scalar(scalar) = &value.value else { panic!("a scalar") };
            prop_assert_eq!(&*scalar.text, text.as_str());
            prop_assert_eq!((value.span.start, value.span.end), (5, 5 + text.len() as u32));
        }
    }

    #[test]
    fn a_duplicate_key_names_the_first_one() {
        let error = only_error("a: 1\nb: 2\na: 3\n");
        assert_eq!(error.message, "duplicate key `a`");
        assert_eq!(error.span.start, 10);
        assert_eq!(error.related.first().map(|(span, _)| span.start), Some(0));
    }

    #[test]
    fn what_needs_quotes_is_told_so() {
        assert!(
            only_error("host: *.example.com")
                .hint
                .is_some_and(|hint| hint.contains("quotes"))
        );
        assert!(
            only_error("{path: /a/{id}}")
                .hint
                .is_some_and(|hint| hint.contains("quotes"))
        );
        assert!(
            only_error("a: b: c")
                .hint
                .is_some_and(|hint| hint.contains("quotes"))
        );
        assert!(only_error("a:\n\tb: c").message.contains("tab"));
        assert!(
            only_error("a: @b")
                .hint
                .is_some_and(|hint| hint.contains("quotes"))
        );
    }

    #[test]
    fn tags_directives_merges_and_second_documents_are_refused() {
        for text in [
            "a: !!str b",
            "%YAML 1.2\n---\na: b",
            "a: &x {b: c}\nd: {<<: *x}",
            "a: b\n---\nc: d",
        ] {
            assert!(!read(text).1.is_empty(), "{text}");
        }
    }

    #[test]
    fn aliases_are_bounded() {
        let mut bomb = String::from("a0: &a0 [x, x]\n");
        for level in 1..60 {
            let before = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [*a{before}, *a{before}]\n"));
        }
        let (_, errors) = read(&bomb);
        assert!(
            errors.iter().any(|error| error.message.contains("aliases")),
            "{errors:?}"
        );
        assert!(errors.len() < 5, "{errors:?}");
        let (node, errors) = read("a: &x [1, 2]\nb: *x\n");
        assert!(errors.is_empty());
        let node = node.expect("a map");
        assert!(
            matches!(&node.entry("b").expect("b").value.value, Value::List(list) if list.len() == 2)
        );
    }

    #[test]
    fn an_alias_of_itself_is_an_error() {
        let (_, errors) = read("a: &x [*x]");
        assert!(!errors.is_empty());
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(!read(&"[".repeat(10_000)).1.is_empty());
        assert!(!read(&"- ".repeat(10_000)).1.is_empty());
    }
}
