//! The tables' language: one case to a line, explained at the top of `heads.txt`.

use std::collections::BTreeSet;

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Case {
    /// `1.4 a plus`, and where it stands.
    pub name: String,
    /// What `$n` stands for: found nowhere but in what this case sends.
    pub mark: String,
    columns: Vec<String>,
}

impl Case {
    /// A column as it is written, from zero behind the name.
    pub fn column(&self, at: usize) -> &str {
        self.columns
            .get(at)
            .unwrap_or_else(|| panic!("{}: no column {at}", self.name))
    }

    /// A column as bytes.
    pub fn bytes(&self, at: usize) -> Vec<u8> {
        unescaped(self.column(at))
    }

    /// A column as text, whatever its bytes are.
    pub fn text(&self, at: usize) -> String {
        String::from_utf8_lossy(&self.bytes(at)).into_owned()
    }
}

/// The cases of a table, with `$NAME` replaced by the given values.
pub fn cases(file: &str, text: &str, values: &[(&str, &str)]) -> Vec<Case> {
    let mut names: Vec<(String, String)> = Vec::new();
    let mut cases = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = replaced(line, &names);
        if let Some((name, value)) = line.strip_prefix('@').and_then(|l| l.split_once(" = ")) {
            names.push((format!("@{name}"), value.to_owned()));
            // so that `@GET` does not eat the start of `@GETS`
            names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
            continue;
        }
        let mark = format!("m{}x{at}m", file.trim_end_matches(".txt").replace('_', "-"));
        let mut values: Vec<(&str, &str)> = values.to_vec();
        values.push(("n", &mark));
        let values: Vec<(String, String)> = values
            .iter()
            .map(|(name, value)| (format!("${name}"), (*value).to_owned()))
            .collect();
        let line = format!("{} ", replaced(&line, &values));
        let mut columns = line.split(" | ").map(str::to_owned);
        let what = columns.next().unwrap_or_default();
        let mut columns: Vec<String> = columns.map(|column| repeated(&column)).collect();
        if let Some(last) = columns.last_mut() {
            last.truncate(last.trim_end_matches(' ').len());
        }
        cases.push(Case {
            name: format!("{what} ({file}:{})", at + 1),
            mark,
            columns,
        });
    }
    cases
}

fn replaced(line: &str, names: &[(String, String)]) -> String {
    // not what a name is explained with
    let (head, line) = match line.starts_with('@') {
        true => line.split_at(1),
        false => ("", line),
    };
    let replace = |line: String, (name, value): &(String, String)| line.replace(name, value);
    format!("{head}{}", names.iter().fold(line.to_owned(), replace))
}

/// `{x*3}` is `xxx`, and may stand in another one; other braces are what they are.
fn repeated(text: &str) -> String {
    let mut open = Vec::new();
    let mut out = String::new();
    for letter in text.chars() {
        out.push(letter);
        match (letter, open.last()) {
            ('{', _) => open.push(out.len()),
            ('}', Some(&from)) => {
                open.pop();
                let inner = &out[from..out.len() - 1];
                let counted = inner.rsplit_once('*');
                let counted = counted.and_then(|(text, n)| Some((text, n.parse().ok()?)));
                if let Some((text, count)) = counted {
                    let text = text.repeat(count);
                    out.truncate(from - 1);
                    out.push_str(&text);
                }
            }
            _ => {}
        }
    }
    out
}

/// The bytes that a text stands for.
pub fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '¶' => bytes.extend(b"\r\n"),
            '\\' => match letters.next() {
                Some('r') => bytes.push(b'\r'),
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some('0') => bytes.push(0),
                Some('\\') => bytes.push(b'\\'),
                Some('e') => {}
                Some('x') => {
                    let digits: String = letters.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
                }
                other => panic!("no escape: {other:?} in {text:?}"),
            },
            letter => bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

/// `name: value` fields between `¶`, as they stand on an HTTP/2 connection. A name may begin with a colon.
pub fn fields(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = text.split('¶').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let at = line.char_indices().skip(1);
            let at = at.filter(|(_, letter)| *letter == ':').map(|(at, _)| at);
            let at = at.min().unwrap_or_else(|| panic!("no field: {line:?}"));
            let value = &line[at + 1..];
            let value = value.strip_prefix(' ').unwrap_or(value);
            (unescaped(&line[..at]), unescaped(value))
        })
        .collect()
}

/// The requirements that the cases name.
pub fn rows(cases: &[Case]) -> BTreeSet<String> {
    let rows = cases.iter().filter_map(|case| case.name.split(' ').next());
    rows.map(str::to_owned).collect()
}

#[test]
fn a_line_is_read_as_it_is_meant() {
    let text =
        "# a comment\n\n@A = a¶\n@AB = @Ab\n1.1 what | @AB{x*3}{ {y*2}*2}{z}\\x00\\e | $n-$p |\n";
    let cases = cases("t", text, &[("p", "80")]);
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].name, "1.1 what (t:5)");
    assert_eq!(cases[0].bytes(0), b"a\r\nbxxx yy yy{z}\0");
    assert_eq!(cases[0].text(1), "mtx4m-80");
    assert_eq!(cases[0].column(2), "");
    let field = fields(":path: /a¶x:\\x20y¶\\e: z");
    let expected = [(":path", "/a"), ("x", " y"), ("", "z")];
    let expected = expected.map(|(name, value)| (name.into(), value.into()));
    assert_eq!(field, expected);
}
