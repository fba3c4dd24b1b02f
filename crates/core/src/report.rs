//! `report.html`: one page about a run that needs nothing beside it. Every name is escaped.

use std::fmt::Write;

use crate::folds::{Folds, Spread};
use crate::metrics::Metrics;
use crate::metrics::{Scores, spoken};
use crate::plan::Plan;
use crate::summary::Summary;
use crate::train::{EpochRecord, Outcome};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
    color:#222}table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right;border:1px solid #ddd}\
    th:first-child{text-align:left}pre{background:#f6f6f6;padding:1rem;overflow-x:auto}svg{background:#fafafa}\
    h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}";
/// Larger confusion matrices are left to `summary.json`.
const MOST_CLASSES: usize = 40;

/// `text` with what HTML reads as markup spelled out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The page of a run of `program` called `title`.
pub fn page(program: &str, title: &str, plan: &Plan, outcome: &Outcome, summary: &Summary) -> String {
    let title = escape(&format!("{program}: {title}"));
    let metrics = &summary.metrics;
    let sections = [
        ("Folds", summary.folds.as_ref().map_or(String::new(), folds)),
        ("Plan", format!("<pre>{}</pre>", escape(&plan.to_string()))),
        ("Course", curves(&outcome.history)),
        (if matches!(metrics.scores, Scores::Tokens(_)) { "Types" } else { "Classes" }, classes(metrics)),
        ("Confusion", confusion(metrics)),
        ("Time", time(summary)),
        ("Left out", skipped(&outcome.skipped)),
        ("Environment", environment()),
    ];
    let mut body = format!(
        "<h1>{title}</h1><p><b>{metrics}</b> on {} {} samples; {} of {} parameters trained</p>",
        metrics.samples, summary.judged_on, outcome.trained, outcome.parameters
    );
    for (heading, content) in sections.iter().filter(|(_, content)| !content.is_empty()) {
        body += &format!("<h2>{heading}</h2>{content}");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )
}

/// Training and validation loss, and accuracy, over the epochs.
fn curves(history: &[EpochRecord]) -> String {
    let points = |value: &dyn Fn(&EpochRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        let numbered = history.iter().enumerate().filter_map(|(i, record)| Some((i as f64, value(record)?)));
        numbered.filter(|(_, y)| y.is_finite()).collect()
    };
    let train = points(&|record| record.train_loss);
    if train.len() < 2 {
        return String::new();
    }
    let validation = points(&|record| record.validation.as_ref().map(|m| m.loss));
    let score = points(&|record| record.validation.as_ref().map(Metrics::score));
    let judged = history.iter().find_map(|record| record.validation.as_ref());
    let name = judged.map_or_else(String::new, |metrics| spoken(metrics.headline()[0].0));
    let last = (history.len() - 1) as f64;
    let top = train.iter().chain(&validation).map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
    let losses = chart("loss", last, top, &[("training", "#1f77b4", &train), ("validation", "#d62728", &validation)]);
    losses + &chart(&name, last, 1.0, &[("validation", "#2ca02c", &score)])
}

/// Label, colour and points.
type Line<'a> = (&'a str, &'a str, &'a [(f64, f64)]);

fn chart(name: &str, last: f64, top: f64, lines: &[Line<'_>]) -> String {
    const WIDTH: f64 = 440.0;
    const HEIGHT: f64 = 220.0;
    let mut svg = format!(
        "<svg width=\"460\" height=\"260\" role=\"img\"><title>{name}</title><text x=\"10\" y=\"16\">{name}, up to \
         {top:.3}</text>"
    );
    for (i, (label, colour, points)) in lines.iter().enumerate() {
        let place = |(x, y): &(f64, f64)| {
            format!("{:.1},{:.1}", 10.0 + WIDTH * x / last.max(1.0), 25.0 + HEIGHT * (1.0 - y / top))
        };
        let path: Vec<String> = points.iter().map(place).collect();
        let at = 250 + 100 * i;
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/><text x=\"{at}\" y=\"16\" \
             fill=\"{colour}\">{label}</text>",
            path.join(" ")
        );
    }
    svg + "</svg>"
}

fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String], tag: &str| {
        let cell = |(i, cell): (usize, &String)| {
            let tag = if i == 0 { "th" } else { tag };
            format!("<{tag}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let rows: String = rows.iter().map(|row| line(row, "td")).collect();
    format!("<table>{}{rows}</table>", line(header, "th"))
}

/// The scores of each fold, and what they come to.
fn folds(folds: &Folds) -> String {
    let names: Vec<&str> = folds.together.headline().into_iter().map(|(name, _)| name).collect();
    let spoken = names.iter().map(|name| spoken(name));
    let header: Vec<String> = ["fold".into()].into_iter().chain(spoken).chain(["samples".into()]).collect();
    let row = |name: String, m: &Metrics| {
        let scores = m.headline().into_iter().map(|(_, score)| format!("{score:.4}"));
        [name].into_iter().chain(scores).chain([m.samples.to_string()]).collect::<Vec<String>>()
    };
    let mut rows: Vec<Vec<String>> = (1..).zip(&folds.each).map(|(i, m)| row(i.to_string(), m)).collect();
    let spread = |s: Spread| format!("{:.4} ± {:.4}", s.mean, s.deviation);
    let spreads = names.iter().map(|name| spread(folds.scores[name]));
    rows.push(["mean ± deviation".into()].into_iter().chain(spreads).chain([String::new()]).collect());
    rows.push(row("all predictions together".into(), &folds.together));
    table(&header, &rows)
}

fn classes(metrics: &Metrics) -> String {
    if metrics.by_class().is_empty() {
        return String::new();
    }
    let header = ["class", "precision", "recall", "F1", "samples"].map(String::from);
    let row = |c: &crate::metrics::ClassScores| {
        let share = |x: f64| format!("{x:.4}");
        vec![c.name.clone(), share(c.precision), share(c.recall), share(c.f1), c.samples.to_string()]
    };
    table(&header, &metrics.by_class().iter().map(row).collect::<Vec<_>>())
}

fn confusion(metrics: &Metrics) -> String {
    let Scores::Classes(scores) = &metrics.scores else { return String::new() };
    if scores.classes.len() > MOST_CLASSES {
        return format!("<p>{} classes: see summary.json</p>", scores.classes.len());
    }
    let names = scores.classes.iter().map(|c| c.name.clone());
    let header: Vec<String> = ["true \\ predicted".to_string()].into_iter().chain(names.clone()).collect();
    let row =
        |(name, counts): (String, &Vec<u64>)| [name].into_iter().chain(counts.iter().map(u64::to_string)).collect();
    table(&header, &names.zip(&scores.confusion).map(row).collect::<Vec<Vec<String>>>())
}

fn time(summary: &Summary) -> String {
    let row = |(part, seconds): (&String, &f64)| {
        let rate = summary.items_per_second.get(part).map_or(String::new(), |rate| format!("{rate:.1}"));
        vec![part.clone(), format!("{seconds:.2}"), rate]
    };
    let header = ["part", "seconds", "samples a second"].map(String::from);
    let peak = summary.peak_memory.map_or(String::new(), |b| format!("<p>peak memory {:.0} MB</p>", b as f64 / 1e6));
    table(&header, &summary.seconds.iter().map(row).collect::<Vec<_>>()) + &peak
}

fn skipped(skipped: &[(String, String)]) -> String {
    if skipped.is_empty() {
        return String::new();
    }
    let items = skipped.iter().map(|(name, reason)| format!("<li>{}: {}</li>", escape(name), escape(reason)));
    format!("<ul>{}</ul>", items.collect::<String>())
}

fn environment() -> String {
    let command: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let rows = [
        ("topwork", env!("CARGO_PKG_VERSION").to_string()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("instructions", topwork_kernels::instruction_set().to_string()),
        ("threads", rayon::current_num_threads().to_string()),
        ("command", command.join(" ")),
    ];
    let rows = rows.map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>", escape(&value)));
    format!("<table>{}</table>", rows.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Targets;
    use crate::net::Params;
    use crate::observe::Timings;
    use crate::plan::Start;
    use crate::task::Task;

    fn outcome() -> Outcome {
        let metrics = Metrics::of(
            &Task::classes(vec!["<b>".into(), "a & b".into()]),
            &Targets { classes: vec![0, 1], numbers: vec![] },
            &[1.0, 0.0, 1.0, 0.0],
        );
        let record = |epoch| EpochRecord {
            kind: "epoch".into(),
            phase: 1,
            epoch,
            train_loss: Some(1.0 / epoch as f64),
            validation: Some(metrics.clone()),
        };
        Outcome {
            params: Params::default(),
            history: vec![record(1), record(2)],
            metrics: metrics.clone(),
            skipped: vec![("<script>".into(), "\"broken\"".into())],
            timings: Timings::default(),
            parameters: 10,
            trained: 4,
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let outcome = outcome();
        let plan = Plan { strategy: "<i>".into(), start: Start::Random, adapters: vec![], phases: vec![] };
        let page = page("test", "<title>", &plan, &outcome, &Summary::new(&outcome, 0.0, 1.0));
        for (raw, escaped) in [("<script>", "&lt;script&gt;"), ("<b></th>", "&lt;b&gt;"), ("<i>", "&lt;i&gt;")] {
            assert!(!page.contains(raw) && page.contains(escaped), "{raw}");
        }
        assert!(page.contains("<polyline"));
    }
}
