//! `report.html` of a pre-training: its course, its scores, what it took, and how to repeat it.

use std::path::Path;

use serde_json::Value;
use topwork_core::domain::Domain;
use topwork_core::draw::{Axis, Chart, colour, escape};
use topwork_core::files::read_at_most;
use topwork_core::net::Params;
use topwork_core::observe::Timings;
use topwork_core::report::{device, document, environment, quoted, repeated, table};
use topwork_core::{Error, Result};

use super::objective::Scores;
use super::settings::Settings;
use crate::Sentences;

/// Points of a curve, at most: more are closer than a pixel.
const POINTS: usize = 500;
/// More of `metrics.jsonl` is not read.
const MOST: u64 = 1 << 30;

/// The page; `told` says in a line what there was to do, and `metrics` is the file of the run's course.
pub(super) fn page(
    settings: &Settings,
    told: &str,
    metrics: &Path,
    scores: Option<&Scores>,
    timings: &Timings,
    params: &Params,
) -> Result<String> {
    let text = read_at_most(metrics, MOST).map_err(Error::io(metrics))?;
    let records: Vec<Value> =
        String::from_utf8_lossy(&text).lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let title = format!("{} pretrain, seed {}", Sentences::BINARY, settings.seed());
    let introduction = match scores {
        Some(scores) => format!("<p><b>{}</b></p>", escape(&scores.to_string())),
        None => "<p>No text was held out to judge by.</p>".into(),
    };
    let sections = [
        ("What was done", format!("<p>{}</p><pre>{}</pre>", escape(told), escape(settings.text()?.trim_end()))),
        ("Course", curves(&records)),
        ("Time and memory, since the run was begun or last gone on with", time(timings)),
        ("To repeat it", repeated(Sentences::BINARY, &arguments(settings, params)?)),
        ("Environment", environment(params)),
    ];
    Ok(document(&escape(&title), &introduction, &sections))
}

/// Loss of the steps, and both accuracies on the text that was held out.
fn curves(records: &[Value]) -> String {
    let points = |kind: &str, key: &str| -> Vec<(f64, f64)> {
        let of_kind = records.iter().filter(|record| record["kind"] == kind);
        of_kind.filter_map(|record| Some((record["step"].as_f64()?, record[key].as_f64()?))).collect()
    };
    let losses = averaged(&points("step", "loss"));
    let Some(&(last, _)) = losses.last().filter(|_| losses.len() > 1) else { return String::new() };
    let steps = || Axis::even("step", [0.0, last]);
    let of = |points: &[(f64, f64)]| points.iter().map(|point| point.1).collect::<Vec<f64>>();
    let chart = Chart::new("loss", steps(), Axis::around("loss", of(&losses)));
    let mut pictures =
        vec![chart.line("training", colour(0), losses).finish("of hidden tokens and next sentences together")];
    let (hidden, next) = (points("scores", "masked-accuracy"), points("scores", "next-accuracy"));
    if hidden.len() > 1 {
        let both = [of(&hidden), of(&next)].concat();
        let chart = Chart::new("accuracy", steps(), Axis::around("accuracy", both));
        let lines = chart.line("hidden tokens", colour(1), hidden).line("next sentences", colour(2), next);
        pictures.push(lines.finish("on the text that was held out"));
    }
    pictures.iter().map(|picture| format!("<div class=\"chart\">{}</div>", picture.inline())).collect()
}

/// Neighbours together, so that no more than [`POINTS`] are left.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(POINTS).max(1);
    let mean =
        |some: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| some.iter().map(part).sum::<f64>() / some.len() as f64;
    points.chunks(each).map(|some| (mean(some, |point| point.0), mean(some, |point| point.1))).collect()
}

fn time(timings: &Timings) -> String {
    let header = ["part", "seconds", "pairs a second", "peak memory by its end, MB"].map(String::from);
    let row = |(name, part): (&String, &topwork_core::observe::Part)| {
        let rate =
            if part.items > 0 { format!("{:.1}", part.items as f64 / part.seconds.max(1e-9)) } else { String::new() };
        let peak = part.memory.map_or(String::new(), |memory| format!("{:.0}", memory.peak as f64 / 1e6));
        vec![name.clone(), format!("{:.2}", part.seconds), rate, peak]
    };
    table(&header, &timings.parts.iter().map(row).collect::<Vec<_>>())
}

/// The words of the command line that mean the same.
fn arguments(settings: &Settings, params: &Params) -> Result<String> {
    let unusable = |e: serde_json::Error| Error::input("the settings", e, "report this as a defect");
    let all = serde_json::to_value(settings).map_err(unusable)?;
    let mut words = "pretrain".to_string();
    for (flag, value) in all.as_object().into_iter().flatten() {
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => words += &format!(" --{flag}"),
            Value::Array(items) => {
                let items = items.iter().filter_map(Value::as_str).map(quoted);
                words += &format!(" --{flag} {}", items.collect::<Vec<_>>().join(" "));
            }
            Value::String(text) => words += &format!(" --{flag} {}", quoted(text)),
            other => words += &format!(" --{flag} {other}"),
        }
    }
    if let Some(device) = device(params) {
        words += &format!(" --device {device}");
    }
    Ok(words + " --out NEW")
}
