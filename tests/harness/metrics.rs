//! The Prometheus text format, as far as tests read it.

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sum of all series of that name that carry all of these labels; none when there is no such series.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let values: Vec<f64> = self
            .text
            .lines()
            .filter_map(|line| value_of(line, name, labels))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The same, zero when there is no such series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_default()
    }
}

fn value_of(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (set, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let set = format!(",{set},");
    let carried = labels
        .iter()
        .all(|(label, wanted)| set.contains(&format!(",{label}=\"{wanted}\",")));
    carried.then(|| value.trim().parse().ok()).flatten()
}

#[test]
fn a_series_is_found_by_its_labels() {
    let metrics = Metrics::new(
        "# HELP a what\n# TYPE a counter\na{b=\"1\",c=\"x\"} 2\na{b=\"2\",c=\"x\"} 3\na_sum 7\nplain 1.5e3\n",
    );
    assert_eq!(metrics.value("a", &[("b", "1")]), 2.0);
    assert_eq!(metrics.value("a", &[("c", "x")]), 5.0);
    assert_eq!(metrics.find("a", &[("b", "3")]), None);
    assert_eq!(metrics.value("plain", &[]), 1500.0);
}
