//! How a metric is written, with what it means.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Unit;

use super::{meaning, seconds};

/// A sample's labels, names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Writes one metric with its samples after another. A metric without samples is described all the same, so that what
/// may be there can be seen anywhere.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    pub(super) fn gauge(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.write(name, unit, samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value))))
    }

    /// A counter; its samples' names end in `_total`, which the format adds.
    pub(super) fn counter<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        let samples = samples.into_iter();
        self.write(name, unit, samples.map(|(labels, value)| (labels, ConstCounter::new(value))))
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, Spread)>,
    ) -> fmt::Result {
        self.write(name, unit, samples.into_iter())
    }

    fn write<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        samples: impl Iterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let suffixes = [
            unit.as_ref().map(|unit| format!("_{}", unit.as_str())),
            is_counter(M::TYPE).then(|| "_total".to_owned()),
        ];
        let meaning =
            meaning::of(&suffixes.into_iter().flatten().fold(name.to_owned(), |name, suffix| name + &suffix));
        let mut metric = self.0.encode_descriptor(name, meaning, unit.as_ref(), M::TYPE)?;
        for (labels, sample) in samples {
            sample.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A histogram that was counted elsewhere, in seconds.
#[derive(Debug)]
pub(super) struct Spread {
    sum: f64,
    count: u64,
    /// Upper bounds, and how many lie within each and beyond the one before.
    buckets: Vec<(f64, u64)>,
}

impl Spread {
    /// One that was counted within bounds of milliseconds, each beyond the one before, and beyond the last.
    pub(super) fn of(sum: Duration, within: impl IntoIterator<Item = (u64, u64)>, beyond: u64) -> Self {
        let within = within.into_iter().map(|(bound, count)| (seconds(bound), count));
        let buckets: Vec<_> = within.chain([(f64::INFINITY, beyond)]).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Self { sum: sum.as_secs_f64(), count, buckets }
    }
}

impl EncodeMetric for Spread {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Spread {
    const TYPE: MetricType = MetricType::Histogram;
}

fn is_counter(kind: MetricType) -> bool {
    matches!(kind, MetricType::Counter)
}
