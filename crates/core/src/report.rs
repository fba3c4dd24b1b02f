//! `report.html`: one page about a run that needs nothing beside it. Every name is escaped.

mod environment;
mod gallery;

use crate::draw::{self, Axis, Chart, colour, escape};
use crate::folds::{Folds, Spread};
use crate::metrics::Metrics;
use crate::metrics::{Scores, spoken};
use crate::outputs::Mistake;
use crate::plan::Plan;
use crate::summary::Summary;
use crate::train::{EpochRecord, Outcome};

pub use environment::{device, environment, quoted, repeated};
pub use gallery::gallery;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
    color:#222;background:#fff;overflow-wrap:anywhere}table{border-collapse:collapse}td,th{padding:.2rem .6rem;\
    text-align:right;border:1px solid #ddd;overflow-wrap:normal}th:first-child{text-align:left}\
    pre{background:#f6f6f6;padding:1rem;white-space:pre-wrap}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\
    .wide,.chart{overflow-x:auto}.chart svg{max-width:100%;height:auto}.chart svg.dense{min-width:32rem}\
    .gallery{display:flex;flex-wrap:wrap;gap:.8rem}.gallery figure{margin:0;padding:.5rem;background:#f6f6f6;\
    border-radius:.3rem;min-width:7rem;box-sizing:border-box;max-width:100%;font-size:.8rem}.gallery figcaption{width:0;min-width:100%}\
    .gallery figure.text{width:100%;font-size:.9rem}\
    .gallery img{display:block;max-width:100%;height:auto;margin:0 auto .3rem}\
    .gallery blockquote{margin:0 0 .4rem;white-space:pre-line}td.words{text-align:left}\
    mark{color:inherit;border-radius:.15rem;padding:0 .1rem}mark.right{background:#cfe8d5;border-bottom:2px solid #228833}\
    mark.wrong{background:#fadadd;border-bottom:2px dashed #c03a50}\
    mark.right.wrong{background:#f1e6b8;border-bottom:2px double #8a7a1f}\
    mark.telling{background:#d3e3f5;border-bottom:2px dotted #2f6fb5}\
    .gallery small{color:#666;font-size:.7rem}\
    @media(max-width:40rem){td,th{padding:.2rem .3rem;font-size:.82rem}.gallery{gap:.4rem}\
    .chart svg:not(.dense){font-size:18px}}\
    @media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#15171a}td,th{border-color:#3c4147}\
    pre,.gallery figure{background:#1f2226}.gallery small{color:#a3a8ae}mark.right{background:#1e4029}\
    mark.wrong{background:#57232d}mark.right.wrong{background:#4d431a}\
    mark.telling{background:#1d3a5c}}";
/// Below memory by part.
const PEAK: &str = "<p>Peak: the largest resident set of the process by the end of the part; raised: how much of it is new \
    since the part before.</p>";
/// Larger confusion matrices are left to `summary.json`.
const MOST_CLASSES: usize = 200;
/// Mistakes that are shown.
pub const MOST_MISTAKES: usize = 24;

/// A page of its own: these sections, those without content left out. `title`, headings and contents are markup.
pub fn document(title: &str, introduction: &str, sections: &[(&str, String)]) -> String {
    let mut body = format!("<h1>{title}</h1>{introduction}");
    for (heading, content) in sections.iter().filter(|(_, content)| !content.is_empty()) {
        body += &format!("<h2>{heading}</h2>{content}");
    }
    let pictures = draw::STYLE;
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><style>{STYLE}{pictures}</style></head>\n\
         <body>{body}</body></html>\n"
    )
}

/// The page of a run of `program` called `title`.
pub fn page(
    program: &str,
    title: &str,
    plan: &Plan,
    outcome: &Outcome,
    summary: &Summary,
    mistakes: &[Mistake],
) -> String {
    let metrics = &summary.metrics;
    let names: Vec<&str> = metrics.by_class().iter().map(|class| class.name.as_str()).collect();
    let sections = [
        ("Folds", summary.folds.as_ref().map_or(String::new(), folds)),
        ("Plan", format!("<pre>{}</pre>", escape(&plan.to_string()))),
        ("Course", curves(&outcome.history)),
        (one_of(metrics)[1], classes(metrics)),
        ("Confusion", confusion(metrics)),
        (gallery::heading(mistakes), gallery(mistakes, &names)),
        ("Time and memory", time(summary)),
        ("Left out", skipped(&outcome.skipped)),
        ("To repeat it", repeated(program, environment::FROM_SETTINGS)),
        ("Environment", environment(&outcome.params)),
    ];
    let calibration = summary.calibration.as_ref().map_or(String::new(), |found| {
        let (before, after) = (found.error_before, found.error_after);
        format!("; calibration error {before:.4}, {after:.4} at temperature {:.3}", found.temperature)
    });
    let introduction = format!(
        "<p><b>{metrics}</b> on {} {} samples{calibration}; {} of {} parameters trained</p>",
        metrics.samples, summary.judged_on, outcome.trained, outcome.parameters
    );
    document(&escape(&format!("{program}: {title}")), &introduction, &sections)
}

/// Training and validation loss, and the score that decides, over the epochs.
fn curves(history: &[EpochRecord]) -> String {
    type Value = fn(&EpochRecord) -> Option<f64>;
    let points = |value: Value| -> Vec<(f64, f64)> {
        let numbered = history.iter().enumerate().filter_map(|(i, record)| Some(((i + 1) as f64, value(record)?)));
        numbered.filter(|(_, y)| y.is_finite()).collect()
    };
    let train = points(|record| record.train_loss);
    if train.len() < 2 {
        return String::new();
    }
    let validation = points(|record| record.validation.as_ref().map(|m| m.loss));
    let score = points(|record| record.validation.as_ref().map(Metrics::score));
    let values = |lines: &[&[(f64, f64)]]| lines.concat().into_iter().map(|(_, y)| y);
    let epochs = || Axis::counted("epoch", history.len());
    let chart = Chart::new("loss", epochs(), Axis::around("loss", values(&[&train, &validation])));
    let mut losses = chart.line("training", colour(0), train);
    let note = "of the samples learned from, and of those held back";
    if !validation.is_empty() {
        losses = losses.line("validation", colour(1), validation);
    }
    let mut pictures = vec![losses.finish(note)];
    if let Some(judged) = history.iter().find_map(|record| record.validation.as_ref()) {
        let name = spoken(judged.headline()[0].0);
        let chart = Chart::new(&name, epochs(), Axis::around(&name, values(&[&score])));
        pictures.push(chart.line("validation", colour(2), score).finish("of the samples held back"));
    }
    pictures.iter().map(|picture| format!("<div class=\"chart\">{}</div>", picture.inline())).collect()
}

/// A table: its header, and rows whose first cell is a name. What they hold is text.
pub fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String], tag: &str| {
        let cell = |(i, cell): (usize, &String)| {
            let tag = if i == 0 { "th" } else { tag };
            format!("<{tag}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let rows: String = rows.iter().map(|row| line(row, "td")).collect();
    format!("<div class=\"wide\"><table>{}{rows}</table></div>", line(header, "th"))
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

/// What the things are called that samples or words are told apart by, one and several.
fn one_of(metrics: &Metrics) -> [&'static str; 2] {
    match metrics.scores {
        Scores::Labels(_) => ["label", "Labels"],
        Scores::Tokens(_) => ["type", "Types"],
        _ => ["class", "Classes"],
    }
}

fn classes(metrics: &Metrics) -> String {
    if metrics.by_class().is_empty() {
        return String::new();
    }
    let header = [one_of(metrics)[0], "precision", "recall", "F1", "samples"].map(String::from);
    let row = |c: &crate::metrics::ClassScores| {
        let share = |x: f64| format!("{x:.4}");
        vec![c.name.clone(), share(c.precision), share(c.recall), share(c.f1), c.samples.to_string()]
    };
    table(&header, &metrics.by_class().iter().map(row).collect::<Vec<_>>())
}

fn confusion(metrics: &Metrics) -> String {
    let Scores::Classes(scores) = &metrics.scores else { return String::new() };
    if metrics.samples == 0 {
        return String::new();
    }
    if scores.classes.len() > MOST_CLASSES {
        return format!("<p>{} classes: see summary.json</p>", scores.classes.len());
    }
    let names: Vec<String> = scores.classes.iter().map(|c| c.name.clone()).collect();
    format!("<div class=\"wide\">{}</div>", draw::confusion(&names, &scores.confusion).inline())
}

/// Seconds, samples and memory by part, about in the order in which they were reached.
fn time(summary: &Summary) -> String {
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let place = |part: &str| match part {
        "prepare" => 0,
        "folds" => 1,
        "total" => u64::MAX,
        _ => summary.memory.get(part).map_or(2, |memory| memory.peak.max(2)),
    };
    let mut parts: Vec<(&String, &f64)> = summary.seconds.iter().collect();
    parts.sort_by_key(|(part, _)| place(part));
    let row = |(part, seconds): (&String, &f64)| {
        let rate = summary.items_per_second.get(part).map_or(String::new(), |rate| format!("{rate:.1}"));
        let mut cells = vec![part.clone(), format!("{seconds:.2}"), rate];
        if let Some(peak) = summary.peak_memory {
            cells.extend(match summary.memory.get(part) {
                Some(memory) => [megabytes(memory.peak), megabytes(memory.raised)],
                None if part == "total" => [megabytes(peak), String::new()],
                None => [String::new(), String::new()],
            });
        }
        cells
    };
    let mut header = ["part", "seconds", "samples a second"].map(String::from).to_vec();
    let mut note = "";
    if summary.peak_memory.is_some() {
        header.extend(["peak MB", "raised MB"].map(String::from));
        note = PEAK;
    }
    table(&header, &parts.into_iter().map(row).collect::<Vec<_>>()) + note
}

fn skipped(skipped: &[(String, String)]) -> String {
    if skipped.is_empty() {
        return String::new();
    }
    let items = skipped.iter().map(|(name, reason)| format!("<li>{}: {}</li>", escape(name), escape(reason)));
    format!("<ul>{}</ul>", items.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Excerpt;
    use crate::data::Targets;
    use crate::net::Params;
    use crate::observe::Timings;
    use crate::outputs::Outputs;
    use crate::outputs::Slip;
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
            outputs: Outputs::default(),
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
        let mistake = Mistake {
            sample: 0,
            name: "</small><script>".into(),
            slip: Slip::Class { truth: 0, said: 1, probability: 0.75 },
            excerpt: Excerpt::Text("<i>words</i>".into()),
        };
        let page = page("test", "<title>", &plan, &outcome, &Summary::new(&outcome, 0.0, 1.0), &[mistake]);
        assert!(page.contains("<b>&lt;b&gt;</b> taken for <b>a &amp; b</b>, 75.0 %"), "{page}");
        for (raw, escaped) in [
            ("<script>", "&lt;script&gt;"),
            ("<b></th>", "&lt;b&gt;"),
            ("<i>w", "&lt;i&gt;words"),
            ("<i>", "&lt;i&gt;"),
        ] {
            assert!(!page.contains(raw) && page.contains(escaped), "{raw}");
        }
        assert!(page.contains("<polyline"));
    }
}
