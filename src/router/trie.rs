//! The index: which patterns fit a path, which tables fit a host, from the narrowest on.
//!
//! A look-up walks the path's segments and never the routes. Where a segment fits a literal and a parameter, both ways
//! may have to be tried, so the worst case is bounded by the patterns that share a shape, not by their number.

use super::pattern::{
    HostPattern, HostShape, PathPattern, Reading, Segment, read_segment, segment_key,
};
use ahash::AHashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;

/// Up to so many literals below one node are searched one by one, which beats hashing.
const FEW: usize = 6;

/// Where in a list something stands. Lists here are far below 2^32: each element takes more than one byte of a
/// configuration that is at most 64 MiB.
pub(super) type Index = u32;

pub(super) fn index_of(position: usize) -> Index {
    Index::try_from(position).unwrap_or(Index::MAX)
}

/// The literal segments below a node.
#[derive(Debug)]
enum Literals {
    Few(Vec<(Box<str>, Index)>),
    Many(AHashMap<Box<str>, Index>),
}

impl Default for Literals {
    fn default() -> Self {
        Literals::Few(Vec::new())
    }
}

impl Literals {
    fn find(&self, key: &str) -> Option<Index> {
        match self {
            Literals::Few(few) => few
                .iter()
                .find(|(known, _)| **known == *key)
                .map(|(_, node)| *node),
            Literals::Many(many) => many.get(key).copied(),
        }
    }

    fn insert(&mut self, key: Box<str>, node: Index) {
        match self {
            Literals::Few(few) if few.len() < FEW => few.push((key, node)),
            Literals::Few(few) => {
                let mut many: AHashMap<_, _> = few.drain(..).collect();
                many.insert(key, node);
                *self = Literals::Many(many);
            }
            Literals::Many(many) => drop(many.insert(key, node)),
        }
    }
}

/// One position in the tree of segments.
#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    parameter: Option<Index>,
    /// The pattern that ends here.
    exact: Option<Index>,
    /// The pattern that ends here in `/**`.
    subtree: Option<Index>,
}

/// Path patterns of one host, each with what was stored for it.
#[derive(Debug)]
pub(super) struct PathTrie<T> {
    nodes: Vec<Node>,
    values: Vec<T>,
}

impl<T> Default for PathTrie<T> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            values: Vec::new(),
        }
    }
}

impl<T: Default> PathTrie<T> {
    /// Changes what is stored for a pattern; patterns that differ in the names of parameters only are the same.
    pub(super) fn update(&mut self, pattern: &PathPattern, change: impl FnOnce(&mut T)) {
        let mut at = 0;
        for segment in &pattern.segments {
            at = self.child(at, segment);
        }
        let new = index_of(self.values.len());
        let place = self
            .nodes
            .get_mut(at as usize)
            .map(|node| match pattern.subtree {
                true => &mut node.subtree,
                false => &mut node.exact,
            });
        let value = place.map_or(new, |place| *place.get_or_insert(new));
        if value == new {
            self.values.push(T::default());
        }
        if let Some(value) = self.values.get_mut(value as usize) {
            change(value);
        }
    }

    fn child(&mut self, parent: Index, segment: &Segment) -> Index {
        let new = index_of(self.nodes.len());
        let Some(node) = self.nodes.get_mut(parent as usize) else {
            return parent;
        };
        let known = match segment {
            Segment::Literal(text) => node.literals.find(text),
            Segment::Parameter => node.parameter,
        };
        if let Some(child) = known {
            return child;
        }
        match segment {
            Segment::Literal(text) => node.literals.insert(text.clone(), new),
            Segment::Parameter => node.parameter = Some(new),
        }
        self.nodes.push(Node::default());
        new
    }
}

impl<T> PathTrie<T> {
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }

    /// The patterns that a canonical path fits, narrowest first: by segment literal over parameter over subtree.
    pub(super) fn walk<'t, 'p>(&'t self, path: &'p str, reading: Reading) -> Walk<'t, 'p, T> {
        // `OPTIONS *` is in the root's subtree only
        let step = if path.starts_with('/') {
            Step::Enter
        } else {
            Step::Subtree
        };
        let start = Pending {
            step,
            node: 0,
            at: 0,
            captures: 0,
        };
        Walk {
            trie: self,
            path,
            reading,
            pending: SmallVec::from_slice(&[start]),
            captures: Ranges::new(),
        }
    }
}

/// What a pattern cut out, as in [`crate::exchange::Captures`].
pub(super) type Ranges = SmallVec<[Range<u32>; 4]>;

/// A way through the tree that is still to be tried.
#[derive(Clone, Copy)]
struct Pending {
    step: Step,
    node: Index,
    /// Where the segment begins that comes next, at its slash; the path's length when there is none.
    at: usize,
    /// How many captures were made before.
    captures: usize,
}

#[derive(Clone, Copy)]
enum Step {
    /// Compare the next segment with what the node has.
    Enter,
    /// Take the next segment for a parameter.
    Parameter,
    /// Take all that is left.
    Subtree,
}

/// The patterns of a trie that a path fits. See [`PathTrie::walk`].
pub(super) struct Walk<'t, 'p, T> {
    trie: &'t PathTrie<T>,
    path: &'p str,
    reading: Reading,
    pending: SmallVec<[Pending; 16]>,
    captures: Ranges,
}

impl<'t, T> Walk<'t, '_, T> {
    /// The next pattern that fits; then its captures are those of [`Walk::captures`].
    pub(super) fn advance(&mut self) -> Option<&'t T> {
        while let Some(pending) = self.pending.pop() {
            self.captures.truncate(pending.captures);
            let node = self.trie.nodes.get(pending.node as usize)?;
            let found = match pending.step {
                Step::Subtree => node.subtree,
                Step::Parameter => self.take_parameter(node, pending),
                Step::Enter => self.enter(node, pending),
            };
            if let Some(value) = found.and_then(|value| self.trie.values.get(value as usize)) {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn captures(&self) -> &Ranges {
        &self.captures
    }

    /// The pattern that ends at this node, if the path does; else leaves the ways on from here, the best on top.
    fn enter(&mut self, node: &Node, pending: Pending) -> Option<Index> {
        if node.subtree.is_some() {
            self.pending.push(Pending {
                step: Step::Subtree,
                ..pending
            });
        }
        if pending.at >= self.path.len() {
            return node.exact;
        }
        let (segment, next) = self.segment(pending.at);
        if node.parameter.is_some() && segment.start < segment.end {
            self.pending.push(Pending {
                step: Step::Parameter,
                ..pending
            });
        }
        let key = segment_key(
            self.path
                .get(segment.start as usize..segment.end as usize)?,
        );
        if let Some(child) = node.literals.find(&key) {
            self.pending.push(Pending {
                step: Step::Enter,
                node: child,
                at: next,
                ..pending
            });
        }
        None
    }

    fn take_parameter(&mut self, node: &Node, pending: Pending) -> Option<Index> {
        let (segment, next) = self.segment(pending.at);
        self.captures.push(segment);
        let child = node.parameter?;
        self.pending.push(Pending {
            step: Step::Enter,
            node: child,
            at: next,
            captures: self.captures.len(),
        });
        None
    }

    /// The segment behind the slash at `at`, as it is read, and where the next one begins.
    fn segment(&self, at: usize) -> (Range<u32>, usize) {
        let rest = self.path.get(at + 1..).unwrap_or_default();
        let length = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
        let text = read_segment(rest.get(..length).unwrap_or_default(), self.reading);
        let start = index_of(at + 1);
        (start..start + index_of(text.len()), at + 1 + length)
    }
}

/// Something for each host pattern.
#[derive(Debug)]
pub(super) struct HostIndex<T> {
    exact: AHashMap<Box<str>, T>,
    /// By the fixed name behind the wildcard or the captures.
    below: AHashMap<Box<str>, Below<T>>,
    any: Option<T>,
}

/// What stands in front of one name.
#[derive(Debug)]
struct Below<T> {
    /// By how many labels are captured.
    labels: BTreeMap<usize, T>,
    wildcard: Option<T>,
}

impl<T> Default for Below<T> {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            wildcard: None,
        }
    }
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self {
            exact: AHashMap::new(),
            below: AHashMap::new(),
            any: None,
        }
    }
}

impl<T: Default> HostIndex<T> {
    /// What is stored for a pattern, or for any host.
    pub(super) fn entry(&mut self, pattern: Option<&HostPattern>) -> &mut T {
        match pattern.map(|pattern| &pattern.shape) {
            None => self.any.get_or_insert_default(),
            Some(HostShape::Exact(name)) => self.exact.entry(name.clone()).or_default(),
            Some(HostShape::Below(name)) => self
                .below
                .entry(name.clone())
                .or_default()
                .wildcard
                .get_or_insert_default(),
            Some(HostShape::Labels(labels, name)) => self
                .below
                .entry(name.clone())
                .or_default()
                .labels
                .entry(*labels)
                .or_default(),
        }
    }
}

impl<T> HostIndex<T> {
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let below = self
            .below
            .values_mut()
            .flat_map(|below| below.labels.values_mut().chain(&mut below.wildcard));
        self.exact.values_mut().chain(below).chain(&mut self.any)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let below = self
            .below
            .values()
            .flat_map(|below| below.labels.values().chain(&below.wildcard));
        self.exact.values().chain(below).chain(&self.any)
    }

    /// What fits a canonical host, narrowest first: by name, behind the longest name, for any host. With it the labels
    /// that are captured.
    pub(super) fn walk<'t, 'h>(
        &'t self,
        host: &'h str,
    ) -> impl Iterator<Item = (&'t T, Ranges)> + use<'t, 'h, T> {
        let exact = self.exact.get(host).map(|value| (value, Ranges::new()));
        let any = self.any.iter().map(|value| (value, Ranges::new()));
        exact.into_iter().chain(self.walk_below(host)).chain(any)
    }

    fn walk_below<'t, 'h>(
        &'t self,
        host: &'h str,
    ) -> impl Iterator<Item = (&'t T, Ranges)> + use<'t, 'h, T> {
        // nothing is hashed where there are no such patterns
        let host = if self.below.is_empty() { "" } else { host };
        let dots = memchr::memchr_iter(b'.', host.as_bytes());
        dots.enumerate().flat_map(move |(before, dot)| {
            let below = host.get(dot + 1..).and_then(|name| self.below.get(name));
            let labels = below.and_then(|below| below.labels.get(&(before + 1)));
            let labels =
                labels.map(move |value| (value, label_ranges(host.get(..dot).unwrap_or_default())));
            let wildcard = below
                .and_then(|below| below.wildcard.as_ref())
                .map(|value| (value, Ranges::new()));
            labels.into_iter().chain(wildcard)
        })
    }
}

/// Where each label of the front of a host stands.
fn label_ranges(front: &str) -> Ranges {
    let mut start = 0;
    front
        .split('.')
        .map(|label| {
            let range = start..start + index_of(label.len());
            start = range.end + 1;
            range
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(patterns: &[&str]) -> PathTrie<String> {
        let mut trie = PathTrie::default();
        for pattern in patterns {
            trie.update(&pattern.parse().unwrap(), |value: &mut String| {
                value.push_str(pattern)
            });
        }
        trie
    }

    /// The patterns that fit, each with its captures.
    fn walk(trie: &PathTrie<String>, path: &str, reading: Reading) -> Vec<String> {
        let mut walk = trie.walk(path, reading);
        let mut found = Vec::new();
        while let Some(pattern) = walk.advance() {
            let captures: Vec<&str> = walk
                .captures()
                .iter()
                .map(|range| &path[range.start as usize..range.end as usize])
                .collect();
            found.push(format!("{pattern} {}", captures.join(",")));
        }
        found
    }

    #[test]
    fn paths_are_walked_from_the_narrowest_pattern_on() {
        let trie = trie(&[
            "/**", "/a/**", "/a/{x}", "/a/b", "/a/{x}/c", "/{y}/b", "/a", "/a/", "/",
        ]);
        let found = |path| walk(&trie, path, Reading::Whole);
        assert_eq!(
            found("/a/b"),
            ["/a/b ", "/a/{x} b", "/a/** ", "/{y}/b a", "/** "]
        );
        assert_eq!(found("/a/b/c"), ["/a/{x}/c b", "/a/** ", "/** "]);
        assert_eq!(found("/a"), ["/a ", "/a/** ", "/** "]);
        assert_eq!(found("/a/"), ["/a/ ", "/a/** ", "/** "]);
        assert_eq!(found("/"), ["/ ", "/** "]);
        assert_eq!(found("/z/%62"), ["/{y}/b z", "/** "]);
        assert_eq!(found("*"), ["/** "]);
        assert_eq!(found("/a/b;v=1"), ["/a/{x} b;v=1", "/a/** ", "/** "]);
        assert_eq!(
            walk(&trie, "/a;w/b;v=1", Reading::WithoutParameters),
            found("/a/b")
        );
    }

    #[test]
    fn many_literals_are_found_like_few() {
        let patterns: Vec<String> = (0..100).map(|at| format!("/p{at}")).collect();
        let trie = trie(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
        for pattern in &patterns {
            assert_eq!(
                walk(&trie, pattern, Reading::Whole),
                [format!("{pattern} ")]
            );
        }
        assert!(walk(&trie, "/p100", Reading::Whole).is_empty());
    }

    #[test]
    fn hosts_are_walked_from_the_narrowest_pattern_on() {
        let mut index: HostIndex<String> = HostIndex::default();
        let patterns = [
            "*.a.com",
            "{t}.a.com",
            "x.a.com",
            "*.x.a.com",
            "{s}.{t}.a.com",
            "*.com",
        ];
        for pattern in patterns {
            *index.entry(Some(&pattern.parse().unwrap())) = pattern.to_owned();
        }
        *index.entry(None) = "any".to_owned();
        let found = |host: &str| -> Vec<String> {
            let line = |(pattern, ranges): (&String, Ranges)| {
                let captures: Vec<&str> = ranges
                    .iter()
                    .map(|range| &host[range.start as usize..range.end as usize])
                    .collect();
                format!("{pattern} {}", captures.join(","))
            };
            index.walk(host).map(line).collect()
        };
        assert_eq!(
            found("x.a.com"),
            ["x.a.com ", "{t}.a.com x", "*.a.com ", "*.com ", "any "]
        );
        assert_eq!(
            found("y.x.a.com"),
            [
                "*.x.a.com ",
                "{s}.{t}.a.com y,x",
                "*.a.com ",
                "*.com ",
                "any "
            ]
        );
        assert_eq!(found("a.com"), ["*.com ", "any "]);
        assert_eq!(found(""), ["any "]);
    }
}
