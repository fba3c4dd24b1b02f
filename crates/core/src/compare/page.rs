//! The comparison as one page that needs nothing beside it.

use super::{Comparison, Row, cells, notes};
use crate::draw::{Axis, Chart, colour, escape};
use crate::metrics::{Metrics, spoken};
use crate::report::{document, table};

/// A page of it, made by `program`.
pub fn page(program: &str, comparison: &Comparison) -> String {
    let mut rows = cells(comparison);
    let header = rows.remove(0);
    // The pictures call them by number.
    (1..).zip(&mut rows).for_each(|(number, row)| row[0] = format!("{number}. {}", row[0]));
    let notes: String = notes(comparison).iter().map(|note| format!("<p>{}</p>", escape(note))).collect();
    let sections = [
        ("Scores", table(&header, &rows) + &notes),
        ("Score against seconds", against_seconds(comparison)),
        ("Course", courses(comparison)),
        ("Runs", folders(&comparison.rows)),
    ];
    let introduction =
        format!("<p><b>{}</b> is best by {}</p>", escape(&comparison.rows[0].settings), spoken(comparison.score));
    document(&escape(&format!("{program}: runs compared")), &introduction, &sections)
}

fn against_seconds(comparison: &Comparison) -> String {
    let (rows, name) = (&comparison.rows, spoken(comparison.score));
    let scores = rows.iter().flat_map(|row| row.scores.iter().map(|(_, score)| *score));
    let slowest = rows.iter().map(|row| row.seconds).fold(0.0, f64::max);
    let mut chart =
        Chart::new(&name, Axis::even("seconds of a run", [0.0, 1.05 * slowest]), Axis::around(&name, scores));
    for (i, row) in rows.iter().enumerate() {
        let (low, high) = row.scores.iter().fold((row.mean, row.mean), |(l, h), (_, s)| (l.min(*s), h.max(*s)));
        chart = chart.line(&(i + 1).to_string(), colour(i), [(row.seconds, low), (row.seconds, high)]);
        chart = chart.dots(colour(i), row.scores.iter().map(|(_, score)| (row.seconds, *score)));
    }
    format!(
        "<div class=\"chart\">{}</div>",
        chart.finish("a dot for each run, at the mean seconds of its row").inline()
    )
}

/// The score over the epochs, where there were several.
fn courses(comparison: &Comparison) -> String {
    let name = spoken(comparison.score);
    let points = |course: &Vec<crate::train::EpochRecord>| -> Vec<(f64, f64)> {
        let judged = course.iter().enumerate();
        let point = |(i, record): (usize, &crate::train::EpochRecord)| {
            Some(((i + 1) as f64, record.validation.as_ref().map(Metrics::score)?))
        };
        judged.filter_map(point).collect()
    };
    type Course = Vec<(f64, f64)>;
    let several = |row: &Row| row.courses.iter().map(points).filter(|points| points.len() > 1).collect::<Vec<Course>>();
    let lines: Vec<(usize, Course)> = (1..)
        .zip(&comparison.rows)
        .flat_map(|(number, row)| several(row).into_iter().map(move |points| (number, points)))
        .collect();
    let last = lines.iter().flat_map(|(.., points)| points.last()).map(|(epoch, _)| *epoch as usize).max();
    let Some(last) = last else { return String::new() };
    let values = lines.iter().flat_map(|(.., points)| points.iter().map(|(_, score)| *score));
    let mut chart = Chart::new(&name, Axis::counted("epoch", last), Axis::around(&name, values));
    let mut named = 0;
    for (number, points) in lines {
        let label = if named == number { String::new() } else { number.to_string() };
        named = number;
        chart = chart.line(&label, colour(number - 1), points);
    }
    format!("<div class=\"chart\">{}</div>", chart.finish("on the validation samples, a line for each run").inline())
}

fn folders(rows: &[Row]) -> String {
    let header = ["settings", "seed", "score", "folder"].map(String::from);
    let row = |row: &Row| {
        let each = row.runs.iter().zip(&row.scores);
        let line = |(path, (seed, score)): (&std::path::PathBuf, &(u64, f64))| {
            vec![row.settings.clone(), seed.to_string(), format!("{score:.4}"), path.display().to_string()]
        };
        each.map(line).collect::<Vec<_>>()
    };
    table(&header, &rows.iter().flat_map(row).collect::<Vec<_>>())
}
