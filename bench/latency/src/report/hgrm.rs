//! HdrHistogram's percentile distribution text, as its Java `outputPercentileDistribution` writes it
//! and its plotters read it. Values in milliseconds.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Quantile steps per halving of the distance to 100 %; the usual number.
const TICKS_PER_HALF: u32 = 5;

/// `histogram` is in nanoseconds.
pub fn text(histogram: &Histogram<u64>) -> String {
    let milliseconds = |ns: f64| ns / 1e6;
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)"));
    let mut count = 0;
    for at in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += at.count_since_last_iteration();
        let quantile = at.quantile_iterated_to();
        let value = milliseconds(at.value_iterated_to() as f64);
        if quantile < 1.0 {
            line(format!("{value:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile)));
        } else {
            line(format!("{value:12.3} {quantile:2.12} {count:10}"));
        }
    }
    let (mean, deviation) = (milliseconds(histogram.mean()), milliseconds(histogram.stdev()));
    line(format!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]"));
    let (max, total) = (milliseconds(histogram.max() as f64), histogram.len());
    line(format!("#[Max     = {max:12.3}, Total count    = {total:12}]"));
    let mut tail = String::new();
    write!(tail, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), 2048)
        .expect("writing to a string does not fail");
    line(tail);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_plotters() {
        let mut histogram = odradek_loadgen::stats::latencies();
        (1..=100).for_each(|ms| histogram.saturating_record(ms * 1_000_000));
        let text = text(&histogram);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert!(
            lines[2].starts_with("       1.000 0.000000000000          1           1.00"),
            "{}",
            lines[2]
        );
        let last = lines.iter().rfind(|line| !line.starts_with('#')).unwrap();
        assert!(last.ends_with("1.000000000000        100"), "{last}");
        assert!(text.contains("Total count    =          100]"));
    }
}
