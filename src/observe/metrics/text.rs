//! Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::fmt::Write;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples are.
#[derive(Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The text as it grows. Labels are passed as [`labels`] renders them, once, when a handle is made.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Opens a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = kind.as_str();
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    /// One sample of a counter or a gauge.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        match labels {
            "" => self.line(format_args!("{name} {value}")),
            _ => self.line(format_args!("{name}{{{labels}}} {value}")),
        }
    }

    pub fn bucket(&mut self, name: &str, labels: &str, bound: &str, count: u64) {
        self.line(format_args!(
            "{name}_bucket{{{labels},le=\"{bound}\"}} {count}"
        ));
    }

    pub fn sum(&mut self, name: &str, labels: &str, seconds: f64) {
        self.line(format_args!("{name}_sum{{{labels}}} {seconds}"));
    }

    pub fn count(&mut self, name: &str, labels: &str, count: u64) {
        self.line(format_args!("{name}_count{{{labels}}} {count}"));
    }

    /// Where an encoder of other families may write.
    pub fn string(&mut self) -> &mut String {
        &mut self.0
    }

    pub fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // writing to a string can't fail
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

/// `name="value",…`, with backslash, quote and line feed escaped.
pub fn labels(pairs: &[(&str, &str)]) -> Box<str> {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for char in value.chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_cannot_end_their_line_or_their_quotes() {
        assert_eq!(
            &*labels(&[("a", "x\"y\\z\nw"), ("b", "é")]),
            r#"a="x\"y\\z\nw",b="é""#
        );
    }
}
