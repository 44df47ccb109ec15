//! A strict reader of the OpenMetrics text format 1.0, as far as vipd uses it: gauges, counters and histograms. What the standard
//! forbids, and what vipd has no need of, is refused.
//!
//! <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>

use std::collections::{BTreeMap, BTreeSet};

/// A metric with its samples.
#[derive(Debug)]
pub(crate) struct Family {
    /// The name of its samples: a counter's ends in `_total`. A histogram's have several; here it is what they begin with.
    pub(crate) name: String,
    /// gauge, counter or histogram.
    pub(crate) kind: String,
    /// Labels and value of each sample; of a histogram, its buckets.
    pub(crate) samples: BTreeMap<Labels, f64>,
}

/// Labels by their names.
pub(crate) type Labels = BTreeMap<String, String>;

/// Reads a whole exposition.
pub(crate) fn read(text: &str) -> Result<Vec<Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with `# EOF` and a line feed")?;
    let mut families: Vec<Family> = Vec::new();
    let mut names = BTreeSet::new();
    let mut lines = body.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let help = words(line, "# HELP ")?;
        let (name, said) = help.split_once(' ').ok_or("a metric without help")?;
        if !is_name(name) || said.is_empty() || said.contains('\\') {
            return Err(format!("not a name with its help: {line}"));
        }
        let kind = words(lines.next().unwrap_or_default(), "# TYPE ")?;
        let kind = kind.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        let (kind, suffix) = match kind {
            Some("gauge") => ("gauge", ""),
            Some("counter") => ("counter", "_total"),
            Some("histogram") => ("histogram", ""),
            other => return Err(format!("{name} is of type {other:?}")),
        };
        if let Some(line) = lines.next_if(|line| line.starts_with("# UNIT ")) {
            let unit = words(line, "# UNIT ")?.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
            if !unit.is_some_and(|unit| name.ends_with(&format!("_{unit}"))) {
                return Err(format!("{name} does not end in its unit: {line}"));
            }
        }
        let sample_name = format!("{name}{suffix}");
        if name.ends_with("_total") || !names.insert(name.to_owned()) {
            return Err(format!("{name} can't be the name of another metric"));
        }
        if !suffix.is_empty() && !names.insert(sample_name.clone()) {
            return Err(format!("two metrics have samples named {sample_name}"));
        }
        if kind == "histogram" {
            let lines = std::iter::from_fn(|| lines.next_if(|line| !line.starts_with('#')));
            let samples = histogram(name, lines)?;
            families.push(Family { name: sample_name, kind: kind.to_owned(), samples });
            continue;
        }
        let mut samples = BTreeMap::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (labels, value) = sample(line.strip_suffix('\n').ok_or("a line without end")?, &sample_name)?;
            if kind == "counter" && !(value.is_finite() && value >= 0.0) {
                return Err(format!("a counter can't be so: {line}"));
            }
            if samples.insert(labels, value).is_some() {
                return Err(format!("a sample stands here twice: {line}"));
            }
        }
        families.push(Family { name: sample_name, kind: kind.to_owned(), samples });
    }
    Ok(families)
}

/// The buckets of a histogram, which must be cumulative, end with all, and have a sum and a count beside them.
fn histogram<'a>(name: &str, lines: impl Iterator<Item = &'a str>) -> Result<BTreeMap<Labels, f64>, String> {
    let mut buckets = BTreeMap::new();
    // For each histogram: the last bound, how many lie within, and the sum and the count.
    let mut ends: BTreeMap<Labels, (f64, f64, Option<f64>, Option<f64>)> = BTreeMap::new();
    for line in lines {
        let bad = |what: &str| format!("{what}: {line}");
        let text = line.strip_suffix('\n').ok_or("a line without end")?;
        let part = ["_bucket", "_sum", "_count"].into_iter().find(|part| {
            let rest = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(part));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let part = part.ok_or_else(|| bad("no part of the histogram above"))?;
        let (labels, value) = sample(text, &format!("{name}{part}"))?;
        let mut whose = labels.clone();
        let bound = whose.remove("le");
        let end = ends.entry(whose).or_insert((f64::NEG_INFINITY, 0.0, None, None));
        match (part, bound) {
            ("_bucket", Some(bound)) => {
                let bound = if bound == "+Inf" { Some(f64::INFINITY) } else { bound.parse().ok() };
                let bound = bound.filter(|bound| *bound > end.0 && value >= end.1);
                (end.0, end.1) = (bound.ok_or_else(|| bad("buckets are not cumulative"))?, value);
                buckets.insert(labels, value);
            }
            ("_sum", None) if end.2.replace(value).is_none() => {}
            ("_count", None) if end.3.replace(value).is_none() => {}
            _ => return Err(bad("not a sample of a histogram")),
        }
    }
    match ends.values().find(|(bound, within, sum, count)| {
        *bound != f64::INFINITY || sum.is_none() || *count != Some(*within)
    }) {
        Some(end) => Err(format!("{name} is no whole histogram: {end:?}")),
        None => Ok(buckets),
    }
}

/// What follows a descriptor's beginning.
fn words<'a>(line: &'a str, begin: &str) -> Result<&'a str, String> {
    let words = line.strip_prefix(begin).and_then(|rest| rest.strip_suffix('\n'));
    words.ok_or_else(|| format!("not a line that begins with `{begin}`: {line}"))
}

fn sample(line: &str, name: &str) -> Result<(Labels, f64), String> {
    let bad = |what: &str| format!("{what}: {line}");
    let mut rest = line.strip_prefix(name).ok_or_else(|| bad("not a sample of the metric above"))?;
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            if !labels.is_empty() {
                rest = rest.strip_prefix(',').ok_or_else(|| bad("no comma between labels"))?;
            }
            let (label, after) = rest.split_once("=\"").ok_or_else(|| bad("a label without value"))?;
            if !is_name(label) || label.contains(':') {
                return Err(bad("not the name of a label"));
            }
            let (value, after) =
                quoted(after).ok_or_else(|| bad("a value that is not quoted as it must be"))?;
            rest = after;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(bad("a label stands here twice"));
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| bad("no blank before the value"))?;
    let is_number = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    let value = value.parse::<f64>().ok().filter(|_| is_number).ok_or_else(|| bad("not a number"))?;
    Ok((labels, value))
}

/// The text up to the closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[test]
fn what_is_right_is_read() {
    let text = "# HELP a_seconds It is.\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds{x=\"a\\\"\\\\\\n,}\",y=\"\"} 1.5\n\
                a_seconds -2e3\n# HELP b Be.\n# TYPE b counter\nb_total 7\n# EOF\n";
    let families = read(text).unwrap();
    let labels: Labels = [("x", "a\"\\\n,}"), ("y", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(families[0].samples[&labels], 1.5);
    assert_eq!(families[0].samples[&Labels::new()], -2000.0);
    assert_eq!((families[1].name.as_str(), families[1].kind.as_str()), ("b_total", "counter"));
}

const HISTOGRAM: &str = "# HELP a It is.\n# TYPE a histogram\n";

#[test]
fn a_histogram_is_read_whole_or_not_at_all() {
    let whole = "a_sum{x=\"1\"} 2.5\na_count{x=\"1\"} 3\na_bucket{le=\"0.5\",x=\"1\"} 1\na_bucket{le=\"+Inf\",x=\"1\"} 3\n";
    let families = read(&format!("{HISTOGRAM}{whole}# EOF\n")).unwrap();
    let labels = |bound: &str| [("le", bound), ("x", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(families[0].samples[&labels("0.5")], 1.0);
    assert_eq!(families[0].samples[&labels("+Inf")], 3.0);
    for (from, to) in [
        ("a_sum{x=\"1\"} 2.5\n", ""),
        ("a_count{x=\"1\"} 3\n", "a_count{x=\"1\"} 2\n"),
        ("{le=\"0.5\",x=\"1\"} 1", "{le=\"0.5\",x=\"1\"} 4"),
        ("a_bucket{le=\"+Inf\",x=\"1\"} 3\n", ""),
        ("a_bucket{le=\"0.5\"", "a_bucket{l=\"0.5\""),
        ("a_sum", "a_mean"),
        ("a_sum{x=\"1\"} 2.5\n", "a_sum{x=\"1\"} 2.5\na_sum{x=\"1\"} 2.5\n"),
    ] {
        assert!(whole.contains(from));
        let wrong = format!("{HISTOGRAM}{}# EOF\n", whole.replacen(from, to, 1));
        assert!(read(&wrong).is_err(), "taken:\n{wrong}");
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let head = "# HELP a It is.\n# TYPE a gauge\n";
    let counter = "# HELP a It is.\n# TYPE a counter\n";
    for wrong in [
        String::new(),
        format!("{head}a 1\n"),
        format!("{head}a 1\n# EOF"),
        format!("{head}a 1\n# EOF\n\n"),
        format!("{head}\na 1\n# EOF\n"),
        "a 1\n# EOF\n".to_owned(),
        "# TYPE a gauge\na 1\n# EOF\n".to_owned(),
        "# HELP a It is.\na 1\n# EOF\n".to_owned(),
        "# HELP a It is.\n# TYPE a info\na_info 1\n# EOF\n".to_owned(),
        "# HELP a It is.\n# TYPE a gauge\n# UNIT a seconds\na 1\n# EOF\n".to_owned(),
        "# HELP 1a It is.\n# TYPE 1a gauge\n1a 1\n# EOF\n".to_owned(),
        "# HELP a_total It is.\n# TYPE a_total counter\na_total_total 1\n# EOF\n".to_owned(),
        format!("{head}a 1\n{head}a 2\n# EOF\n"),
        format!("{head}a 1\na 1\n# EOF\n"),
        format!("{head}a{{x=\"1\"}} 1\na{{x=\"1\"}} 2\n# EOF\n"),
        format!("{head}b 1\n# EOF\n"),
        format!("{head}a_total 1\n# EOF\n"),
        format!("{head}a{{x=\"1\",x=\"2\"}} 1\n# EOF\n"),
        format!("{head}a{{x=\"1\"y=\"2\"}} 1\n# EOF\n"),
        format!("{head}a{{x=\"a\"b\"}} 1\n# EOF\n"),
        format!("{head}a{{x=\"\\t\"}} 1\n# EOF\n"),
        format!("{head}a{{x=1}} 1\n# EOF\n"),
        format!("{head}a{{x-y=\"1\"}} 1\n# EOF\n"),
        format!("{head}a one\n# EOF\n"),
        format!("{head}a 1 1700000000\n# EOF\n"),
        format!("{head}a  1\n# EOF\n"),
        format!("{counter}a 1\n# EOF\n"),
        format!("{counter}a_total -1\n# EOF\n"),
    ] {
        assert!(read(&wrong).is_err(), "taken:\n{wrong}");
    }
}
