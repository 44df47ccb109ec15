//! The benchmark's results as text: medians, and what vipd is to the better of its peers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contender::Contender;
use super::{Measure, Row};

/// Heads of the columns, and how many digits a value has behind the point.
const COLUMNS: [(Measure, &str, usize); 11] = [
    (Measure::Requests, "req/s", 0),
    (Measure::CpuPerRequest, "µs/req", 1),
    (Measure::Connections, "conn/s", 0),
    (Measure::CpuPerConnection, "µs/conn", 0),
    (Measure::Bulk, "MB/s", 0),
    (Measure::CpuPerMegabyte, "µs/MB", 0),
    (Measure::Median, "p50 µs", 0),
    (Measure::P99, "p99 µs", 0),
    (Measure::Base, "base kB", 0),
    (Measure::PerIdle, "kB/idle", 2),
    (Measure::RequestsBesideIdle, "req/s+idle", 0),
];

/// Of these more is better; of all others less.
fn is_rate(measure: Measure) -> bool {
    matches!(measure, Measure::Requests | Measure::Connections | Measure::Bulk | Measure::RequestsBesideIdle)
}

/// A row as one line, for whoever waits.
pub(super) fn line(row: &Row) -> String {
    let cell = |(measure, head, digits): &(Measure, &str, usize)| {
        row.get(measure).map(|value| format!("{head} {value:.digits$}", digits = *digits))
    };
    COLUMNS.iter().filter_map(cell).collect::<Vec<_>>().join("  ")
}

/// Medians of all rounds; below, the median of each round's ratios: of vipd's proxy to the better of haproxy and nginx, of its kernel's
/// path to rules written by hand.
pub(super) fn of(contenders: &[Contender], rounds: &[BTreeMap<Contender, Row>]) -> String {
    let mut text = format!("{:<14}", "");
    for (_, head, _) in COLUMNS {
        text += &format!("{head:>11}");
    }
    text += "\n";
    for contender in contenders {
        text += &format!("{contender:<14}");
        for (measure, _, digits) in COLUMNS {
            let values = rounds.iter().filter_map(|rows| rows.get(contender)?.get(&measure).copied());
            text += &median(values)
                .map_or_else(|| format!("{:>11}", "-"), |value| format!("{value:>11.digits$}"));
        }
        text += "\n";
    }
    for (name, contender) in [("vipd : better", Contender::Vipd), ("kernel : nft", Contender::VipdKernel)] {
        if !contenders.contains(&contender) {
            continue;
        }
        text += &format!("{name:<14}");
        for (measure, ..) in COLUMNS {
            let ratios = rounds.iter().filter_map(|rows| ratio(rows, contender, measure));
            text += &median(ratios).map_or_else(|| format!("{:>11}", "-"), |value| format!("{value:>10.2}x"));
        }
        text += "\n";
    }
    text
}

/// What one of vipd's ways is to the better of its peers in one round.
fn ratio(rows: &BTreeMap<Contender, Row>, contender: Contender, measure: Measure) -> Option<f64> {
    let peers = rows.iter().filter(|(peer, _)| peer.is_peer_of(contender));
    let values = peers.filter_map(|(_, row)| row.get(&measure).copied());
    let better = if is_rate(measure) { values.reduce(f64::max) } else { values.reduce(f64::min) };
    Some(rows.get(&contender)?.get(&measure)? / better?)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Every single result.
pub(super) fn json(rounds: &[BTreeMap<Contender, Row>]) -> Value {
    let row = |(contender, row): (&Contender, &Row)| (contender.name().to_owned(), json!(row));
    rounds
        .iter()
        .map(|rows| rows.iter().map(row).collect::<serde_json::Map<_, _>>())
        .map(Value::Object)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_peer_is_the_faster_or_the_cheaper_one() {
        let row = |requests, cpu| Row::from([(Measure::Requests, requests), (Measure::CpuPerRequest, cpu)]);
        let rows = BTreeMap::from([
            (Contender::Nothing, row(1000.0, 1.0)),
            (Contender::Haproxy, row(100.0, 40.0)),
            (Contender::Nginx, row(120.0, 50.0)),
            (Contender::Vipd, row(150.0, 30.0)),
        ]);
        assert_eq!(ratio(&rows, Contender::Vipd, Measure::Requests), Some(1.25));
        assert_eq!(ratio(&rows, Contender::Vipd, Measure::CpuPerRequest), Some(0.75));
        assert_eq!(ratio(&rows, Contender::Vipd, Measure::PerIdle), None);
        assert_eq!(ratio(&rows, Contender::VipdKernel, Measure::Requests), None);
        let text = of(&Contender::ALL, &[rows]);
        assert!(text.contains("1.25x") && text.contains("0.75x"), "{text}");
    }

    #[test]
    fn of_an_even_number_the_median_lies_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
