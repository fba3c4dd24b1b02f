//! `report.html`: one self-contained page about a run. Every name that comes from data is escaped.

use std::fmt::Write;

use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::summary::Summary;
use crate::train::{EpochRecord, Outcome};

/// The page of a run: `binary` made it, `title` says model, strategy and seed.
pub fn page(binary: &str, title: &str, plan: &Plan, outcome: &Outcome, summary: &Summary) -> String {
    let mut body = String::new();
    let m = &summary.metrics;
    let _ = write!(
        body,
        "<p class=big>{:.2} % <small>accuracy of {} validation samples; macro-F1 {:.4}, loss {:.4}</small></p>",
        100.0 * m.accuracy,
        m.samples,
        m.macro_f1,
        m.loss
    );
    let _ = write!(body, "<h2>Plan</h2><pre>{}</pre>", escape(&plan.to_string()));
    body.push_str(&curves(&outcome.history));
    body.push_str(&per_class(m));
    body.push_str(&confusion(m));
    body.push_str(&costs(summary));
    if !summary.skipped.is_empty() {
        body.push_str("<h2>Left out</h2><ul>");
        for (name, reason) in &summary.skipped {
            let _ = write!(body, "<li><code>{}</code>: {}</li>", escape(name), escape(reason));
        }
        body.push_str("</ul>");
    }
    let command = std::env::args().map(|a| quote(&a)).collect::<Vec<_>>().join(" ");
    let _ = write!(
        body,
        "<h2>Made by</h2><p>{} {} on {} {}, kernels for {}</p><pre>{}</pre>",
        escape(binary),
        summary.version,
        std::env::consts::OS,
        std::env::consts::ARCH,
        topwork_kernels::instruction_set(),
        escape(&command)
    );
    let title = escape(title);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>{body}</main></html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1d2a22;--paper:#fbfaf6;--line:#8885;--leaf:#3b7d4f}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebe6;--paper:#161b18;--leaf:#7fc796}}\
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;margin:0}\
main{max-width:52rem;margin:auto;padding:1rem}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
.big{font-size:2.4rem;margin:0}.big small{font-size:1rem;opacity:.8}\
pre,.wide{overflow-x:auto}pre{padding:.6rem;border:1px solid var(--line);border-radius:.3rem;font-size:.85rem}\
table{border-collapse:collapse}td,th{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}";

/// Text that is safe between tags and in quoted attributes.
fn escape(text: &str) -> String {
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

/// An argument as a shell takes it.
fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_string()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// Loss and accuracy over the judged epochs, as an inline drawing.
fn curves(history: &[EpochRecord]) -> String {
    let losses: Vec<f64> = history.iter().filter_map(|e| e.train_loss).collect();
    let validation: Vec<f64> = history.iter().filter_map(|e| e.validation.as_ref().map(|m| m.loss)).collect();
    let accuracy: Vec<f64> = history.iter().filter_map(|e| e.validation.as_ref().map(|m| m.accuracy)).collect();
    if accuracy.len() < 2 {
        return String::new();
    }
    let top = losses.iter().chain(&validation).copied().fold(1e-9, f64::max);
    let line = |values: &[f64], top: f64, style: &str| {
        let step = 560.0 / (values.len().max(2) - 1) as f64;
        let point = |(i, v): (usize, &f64)| format!("{:.1},{:.1}", 30.0 + i as f64 * step, 190.0 - 170.0 * v / top);
        let points: Vec<String> = values.iter().enumerate().map(point).collect();
        format!("<polyline fill=none stroke-width=2 {style} points='{}'/>", points.join(" "))
    };
    format!(
        "<h2>Course</h2><svg viewBox='0 0 600 220' role=img aria-label='loss and accuracy by epoch'>\
         <path d='M30 190H590M30 190V20' stroke='currentColor' fill='none' opacity='.4'/>{}{}{}\
         <text x=30 y=212 fill=currentColor font-size=13>accuracy: solid green, to 1; loss in training: grey, in \
         validation: dashed, to {top:.3}; {} epochs</text></svg>",
        line(&losses, top, "stroke='#888'"),
        line(&validation, top, "stroke='#888' stroke-dasharray='5 4'"),
        line(&accuracy, 1.0, "stroke='var(--leaf)'"),
        accuracy.len()
    )
}

fn per_class(m: &Metrics) -> String {
    let mut out = String::from(
        "<h2>By class</h2><div class=wide><table><tr><th>class<th>precision<th>recall<th>F1<th>samples</tr>",
    );
    for c in &m.classes {
        let _ = write!(
            out,
            "<tr><td>{}<td>{:.4}<td>{:.4}<td>{:.4}<td>{}</tr>",
            escape(&c.name),
            c.precision,
            c.recall,
            c.f1,
            c.samples
        );
    }
    out + "</table></div>"
}

/// More classes than this make a table that nobody reads.
const SHOWN: usize = 30;

fn confusion(m: &Metrics) -> String {
    if m.classes.len() > SHOWN {
        return format!("<h2>Confusion</h2><p>{} classes: the matrix is in <code>summary.json</code>.</p>", m.classes.len());
    }
    let mut out = String::from("<h2>Confusion</h2><p>Rows: what it is. Columns: what was said.</p><div class=wide><table><tr><th>");
    for c in &m.classes {
        let _ = write!(out, "<th>{}", escape(&c.name));
    }
    for (row, c) in m.confusion.iter().zip(&m.classes) {
        let all: u64 = row.iter().sum();
        let _ = write!(out, "</tr><tr><th>{}", escape(&c.name));
        for &n in row {
            let share = if all == 0 { 0.0 } else { n as f64 / all as f64 };
            let _ = write!(out, "<td style='background:color-mix(in srgb,var(--leaf) {:.0}%,transparent)'>{n}", 70.0 * share);
        }
    }
    out + "</tr></table></div>"
}

fn costs(summary: &Summary) -> String {
    let mut out = String::from("<h2>Time and memory</h2><div class=wide><table><tr><th>part<th>seconds<th>samples / s</tr>");
    for (part, seconds) in &summary.seconds {
        let rate = summary.items_per_second.get(part).map_or(String::new(), |r| format!("{r:.1}"));
        let _ = write!(out, "<tr><td>{}<td>{seconds:.2}<td>{rate}</tr>", escape(part));
    }
    out.push_str("</table></div>");
    let memory = summary.peak_memory.map_or(String::new(), |b| format!("; peak memory {:.0} MB", b as f64 / 1e6));
    let _ = write!(out, "<p>{} of {} parameters trained{memory}</p>", summary.parameters_trained, summary.parameters);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_data_cannot_become_markup() {
        let classes = ["<script>alert(1)</script>".to_string(), "b'\"&".to_string()];
        let metrics = Metrics::of(&classes, &[0, 1], &[0, 0], 0.5);
        let page = per_class(&metrics) + &confusion(&metrics);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;") && page.contains("b&#39;&quot;&amp;"));
    }

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        assert_eq!(quote("it's here"), r"'it'\''s here'");
        assert_eq!(quote("runs/bees"), "runs/bees");
    }
}
