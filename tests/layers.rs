//! The folders' arrows: a module names only what stands below it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From top to bottom; the tree in `lib.rs` says what each is for.
const LAYERS: &[&str] = &[
    "main",
    "allocator",
    "lib",
    "cli",
    "boot",
    "admin",
    "tasks",
    "edge",
    "proxy",
    "snapshot",
    "config",
    "policy",
    "router",
    "issuers",
    "outbound",
    "discovery",
    "upstream",
    "store",
    "tls",
    "protocol",
    "observe",
    "exchange",
    "identity",
    "state",
    "limit",
    "supervisor",
    "problem",
    "diagnostic",
    "units",
];

#[test]
fn no_module_names_one_that_stands_above_it() {
    let mut wrong = BTreeSet::new();
    for file in super::conf::files(&root().join("src"), "rs") {
        let layer = layer_of(&file);
        let Some(height) = LAYERS.iter().position(|known| *known == layer) else {
            wrong.insert(format!("{layer} has no place in the order of layers"));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a source file");
        for named in named_modules(&text) {
            let other = LAYERS.iter().position(|known| *known == named);
            if other.is_some_and(|other| other < height) {
                wrong.insert(format!(
                    "{} names crate::{named}, which stands above it",
                    shown(&file)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_found_in_paths_and_in_lists() {
    let text = r#"
        use crate::alpha::{One, Two};
        use crate::{
            beta::{self, nested::{Deep, crate_like}},
            gamma,
        };
        pub(crate) mod other; // crate::comment
        fn f() -> crate::delta::Thing { "crate::string" }
    "#;
    let found: Vec<String> = named_modules(text).into_iter().collect();
    assert_eq!(found, ["alpha", "beta", "delta", "gamma"]);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string()
}

/// The first part of the path below `src`, without its extension.
fn layer_of(file: &Path) -> String {
    let inside = file
        .strip_prefix(root().join("src"))
        .expect("a file in src");
    let first = inside.components().next().expect("a name");
    let name = first.as_os_str().to_string_lossy();
    name.strip_suffix(".rs").unwrap_or(&name).to_owned()
}

/// The modules of this crate that a text names by a path from its root.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code = without_comments_and_strings(text);
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let within_a_word =
            code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let rest = code[at + "crate::".len()..].trim_start();
        if within_a_word {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(list) => found.extend(first_names(list)),
            None => found.extend(first_word(rest)),
        }
    }
    found
}

/// The first word of each item of a brace list, nested lists left out.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut item) = (0, Vec::new(), String::new());
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(first_word(std::mem::take(&mut item).trim())),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    names.extend(first_word(item.trim()));
    names
}

fn first_word(text: &str) -> Option<String> {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let word = &text[..end.unwrap_or(text.len())];
    (!word.is_empty()).then(|| word.to_owned())
}

fn without_comments_and_strings(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let code = line.split("//").next().unwrap_or_default();
        // good enough for one line: what stands between quotes is dropped
        code.split('"').step_by(2).collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}
