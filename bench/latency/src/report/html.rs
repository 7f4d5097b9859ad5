//! The page of a report: one section per workload with a table and charts. Self-contained.

use odradek_loadgen::summary::micros;

use crate::outcome::{Curve, Outcome, Point, RoundOutcome, TargetOutcome, WorkloadOutcome};
use crate::report::svg::{Axis, COLOURS, Line, chart, escape, memory_chart};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1500px;margin:2em auto;padding:0 1em;color:#1b1b1b}\
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2.2em;border-top:1px solid #ccc;padding-top:1em}\
table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}th,td{padding:.3em .55em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #888}\
figure{margin:1.2em 0}figcaption{font-weight:600;margin-bottom:.3em}svg{width:100%;max-width:860px;height:auto;background:#fff}\
svg text{font:11px system-ui,sans-serif;fill:#444}.grid{stroke:#e4e4e4}.legend span{margin-right:1.2em;white-space:nowrap}\
.legend i{display:inline-block;width:22px;margin-right:6px;vertical-align:middle}.note{color:#555}code{background:#f3f3f3;padding:.1em .3em}";

/// A whole page.
pub fn page(outcome: &Outcome) -> String {
    let mut body = format!("<h1>Latency report</h1>{}", facts(outcome));
    for workload in &outcome.workloads {
        body.push_str(&section(workload));
    }
    for (name, reason) in &outcome.skipped {
        body.push_str(&format!("<h2>{}</h2><p>Left out: {}</p>", escape(name), escape(reason)));
    }
    document("Latency report", &body)
}

pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head>\
         <body>{body}</body></html>\n",
        escape(title)
    )
}

pub fn facts(outcome: &Outcome) -> String {
    let machine = &outcome.machine;
    let label = match outcome.label.as_str() {
        "" => String::new(),
        label => format!("<br>{}", escape(label)),
    };
    format!(
        "<p>{} rounds of {} s per target, taking turns, unless a workload says otherwise. {} × {}, Linux {}.{label}<br><code>{}</code></p>",
        outcome.rounds,
        outcome.seconds_per_round,
        machine.cores,
        escape(&machine.cpu),
        escape(&machine.kernel),
        escape(&outcome.command)
    )
}

fn section(workload: &WorkloadOutcome) -> String {
    let kind = if workload.open_loop {
        "Constant rate; latency from the intended send time of each record."
    } else {
        "Full speed, closed loop: a throughput figure. Its round trips are not latencies."
    };
    let mut out = format!(
        "<h2>{}</h2><p>{}</p><p class=\"note\">{kind}</p>{}",
        escape(&workload.name),
        escape(workload.about.as_str()),
        table(workload)
    );
    for note in &workload.notes {
        out.push_str(&format!("<p><b>{}</b></p>", escape(note)));
    }
    let what = if workload.open_loop { "Send to acknowledgement" } else { "Round trip, closed loop" };
    out.push_str(&curves(what, workload, |target| target.acknowledged.as_ref()));
    out.push_str(&curves("Send to arrival at a consumer (end to end)", workload, |target| {
        target.end_to_end.as_ref()
    }));
    out.push_str(&over_time(&format!("{what}, over time"), workload, |round| &round.acknowledged_over_time));
    out.push_str(&over_time("End to end, over time", workload, |round| &round.end_to_end_over_time));
    out.push_str(&resident(workload));
    out
}

fn table(workload: &WorkloadOutcome) -> String {
    let mut rows = String::new();
    for target in &workload.targets {
        let curves = [("acknowledged", &target.acknowledged), ("end to end", &target.end_to_end)];
        let shown: Vec<_> = curves.into_iter().filter(|(_, curve)| curve.is_some()).collect();
        for (at, (what, curve)) in shown.iter().enumerate() {
            rows.push_str("<tr>");
            rows.push_str(&cell(if at == 0 { &target.name } else { "" }));
            rows.push_str(&cell(what));
            if let Some(curve) = curve {
                curve.latency.named().iter().for_each(|(_, us)| rows.push_str(&cell(&micros(*us))));
            }
            rows.push_str(&if at == 0 { rates(workload, target) } else { "<td></td>".repeat(7) });
            rows.push_str("</tr>");
        }
        if shown.is_empty() {
            let none = "<td>-</td>".repeat(7);
            rows.push_str(&format!("<tr>{}{none}{}</tr>", cell(&target.name), rates(workload, target)));
        }
    }
    format!(
        "<table><thead><tr><th>target</th><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th>\
         <th>max</th><th>records/s wanted</th><th>reached</th><th>MB/s</th><th>read MB/s</th>\
         <th>broker CPU-s/GB</th><th>errors</th><th>durability</th></tr></thead><tbody>{rows}</tbody></table>"
    )
}

fn rates(workload: &WorkloadOutcome, target: &TargetOutcome) -> String {
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_string(), |value| format!("{value:.digits$}"))
    };
    [
        or_dash(workload.rate_wanted, 0),
        format!("{:.0}", target.records_per_second),
        format!("{:.1}", target.megabytes_per_second),
        or_dash(target.read_megabytes_per_second, 1),
        or_dash(target.broker_cpu_seconds_per_gigabyte, 2),
        target.errors.to_string(),
        target.durability.clone(),
    ]
    .iter()
    .map(|text| cell(text))
    .collect()
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escape(text))
}

fn curves(title: &str, workload: &WorkloadOutcome, of: impl Fn(&TargetOutcome) -> Option<&Curve>) -> String {
    let lines: Vec<Line> = workload
        .targets
        .iter()
        .enumerate()
        .map(|(at, target)| Line {
            name: target.name.clone(),
            colour: COLOURS[at % COLOURS.len()],
            dashed: false,
            points: of(target).map_or_else(Vec::new, |curve| curve.points.clone()),
        })
        .collect();
    chart(&format!("{title}: percentiles"), Axis::Quantile, &lines)
}

/// Memory of the brokers' processes; rounds follow each other on the time axis.
fn resident(workload: &WorkloadOutcome) -> String {
    let line = |(at, target): (usize, &TargetOutcome)| {
        let mut offset = 0.0;
        let mut points = Vec::new();
        for round in &target.rounds {
            points.extend(round.resident_over_time.iter().map(|(seconds, bytes)| (seconds + offset, *bytes)));
            offset += round.seconds;
        }
        Line { name: target.name.clone(), colour: COLOURS[at % COLOURS.len()], dashed: false, points }
    };
    let lines: Vec<Line> = workload.targets.iter().enumerate().map(line).collect();
    memory_chart("Resident memory of the broker, over time", &lines)
}

/// Rounds of a target follow each other on the time axis.
fn over_time(title: &str, workload: &WorkloadOutcome, of: impl Fn(&RoundOutcome) -> &Vec<Point>) -> String {
    let mut lines = Vec::new();
    for (at, target) in workload.targets.iter().enumerate() {
        let mut offset = 0.0;
        let mut points = Vec::new();
        for round in &target.rounds {
            points.extend(of(round).iter().map(|p| Point { seconds: p.seconds + offset, ..*p }));
            offset += round.seconds;
        }
        let colour = COLOURS[at % COLOURS.len()];
        for (percentile, dashed) in [("p50", true), ("p99", false)] {
            let pick = |p: &Point| (p.seconds, if dashed { p.p50 } else { p.p99 });
            let name = format!("{} {percentile}", target.name);
            lines.push(Line { name, colour, dashed, points: points.iter().map(pick).collect() });
        }
    }
    chart(title, Axis::Time, &lines)
}
