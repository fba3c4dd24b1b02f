//! Means and deviations over seeds, and the table as text for a terminal and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::cell::{Cell, Outcome};

/// One line of the table: all seeds of a strategy at one budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `cv` or `nlp`.
    pub domain: String,
    /// Name of the data set.
    pub data: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Number of labelled training samples.
    pub labels: usize,
    /// Number of seeds.
    pub seeds: usize,
    /// Mean accuracy.
    pub accuracy: f64,
    /// Standard deviation of the accuracy (of the sample, n - 1); none with a single seed.
    pub deviation: Option<f64>,
    /// Mean seconds of training.
    pub seconds: f64,
    /// Parameters that learned.
    pub trained: usize,
}

/// Rows by domain, data set, number of labels and strategy, strategies in the order of their first cell.
pub fn rows(cells: &[(Cell, Outcome)]) -> Vec<Row> {
    let mut order: Vec<&str> = Vec::new();
    for (cell, _) in cells {
        if !order.contains(&cell.strategy.as_str()) {
            order.push(&cell.strategy);
        }
    }
    let rank = |strategy: &str| order.iter().position(|s| *s == strategy);
    let mut groups: BTreeMap<_, Vec<&(Cell, Outcome)>> = BTreeMap::new();
    for entry in cells {
        let cell = &entry.0;
        groups.entry((&cell.domain, &cell.data, cell.labels, rank(&cell.strategy))).or_default().push(entry);
    }
    groups.into_values().map(|group| row(&group)).collect()
}

fn row(group: &[&(Cell, Outcome)]) -> Row {
    let n = group.len() as f64;
    let mean = |of: fn(&Outcome) -> f64| group.iter().map(|(_, outcome)| of(outcome)).sum::<f64>() / n;
    let accuracy = mean(|o| o.accuracy);
    let squares: f64 = group.iter().map(|(_, o)| (o.accuracy - accuracy).powi(2)).sum();
    let (cell, outcome) = group[0];
    Row {
        domain: cell.domain.clone(),
        data: cell.data.clone(),
        strategy: cell.strategy.clone(),
        labels: cell.labels,
        seeds: group.len(),
        accuracy,
        deviation: (group.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        seconds: mean(|o| o.seconds),
        trained: outcome.trained,
    }
}

const HEADER: [&str; 7] = ["data", "labels", "strategy", "accuracy", "seeds", "seconds", "trained"];

fn fields(row: &Row) -> [String; 7] {
    let deviation = row.deviation.map_or(String::new(), |d| format!(" ± {:.1}", 100.0 * d));
    [
        row.data.clone(),
        row.labels.to_string(),
        row.strategy.clone(),
        format!("{:.1} %{deviation}", 100.0 * row.accuracy),
        row.seeds.to_string(),
        format!("{:.1}", row.seconds),
        grouped(row.trained),
    ]
}

/// Which columns are numbers, and stand to the right.
const NUMBERS: [bool; 7] = [false, true, false, false, true, true, true];

/// 1234567 as 1,234,567.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The table for a terminal: aligned columns, an empty line between data sets.
pub fn terminal(rows: &[Row]) -> String {
    let lines: Vec<[String; 7]> = rows.iter().map(fields).collect();
    let header = HEADER.map(str::to_string);
    let widths: Vec<usize> =
        (0..7).map(|c| lines.iter().chain([&header]).map(|line| line[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    let mut push = |line: &[String; 7]| {
        let padded = (0..7).map(|c| {
            let width = widths[c];
            if NUMBERS[c] { format!("{:>width$}", line[c]) } else { format!("{:<width$}", line[c]) }
        });
        let padded: Vec<String> = padded.collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    };
    push(&header);
    for (i, line) in lines.iter().enumerate() {
        if i > 0 && rows[i - 1].data != rows[i].data {
            push(&Default::default());
        }
        push(line);
    }
    text
}

/// The table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|", HEADER.join(" | "));
    for number in NUMBERS {
        text += if number { "--:|" } else { "---|" };
    }
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", fields(row).join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::cell::tests::cell;
    use super::*;

    fn measured(strategy: &str, labels: usize, seed: u64, accuracy: f64) -> (Cell, Outcome) {
        (cell(strategy, labels, seed), Outcome { accuracy, seconds: seed as f64, trained: 1_234_567 })
    }

    #[test]
    fn seeds_are_averaged_with_the_deviation_of_the_sample() {
        let rows = rows(&[measured("a", 4, 1, 0.5), measured("a", 4, 2, 0.7), measured("a", 4, 3, 0.6)]);
        assert_eq!((rows.len(), rows[0].seeds, rows[0].seconds), (1, 3, 2.0));
        assert!((rows[0].accuracy - 0.6).abs() < 1e-12 && (rows[0].deviation.unwrap() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn one_seed_has_no_deviation() {
        let rows = rows(&[measured("a", 4, 1, 0.5)]);
        assert_eq!(rows[0].deviation, None);
        assert!(markdown(&rows).contains("| 50.0 % |"));
    }

    #[test]
    fn rows_are_ordered_by_labels_as_numbers_then_by_first_appearance() {
        let cells = [measured("z", 40, 1, 0.5), measured("z", 4, 1, 0.5), measured("a", 4, 1, 0.5)];
        let order: Vec<(usize, String)> = rows(&cells).into_iter().map(|r| (r.labels, r.strategy)).collect();
        assert_eq!(order, [(4, "z".into()), (4, "a".into()), (40, "z".into())]);
    }

    #[test]
    fn columns_of_the_terminal_table_are_aligned() {
        let text = terminal(&rows(&[measured("from-scratch", 4, 1, 0.5), measured("x", 400, 1, 1.0)]));
        let ends: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(ends, [ends[0]; 3]);
        assert!(text.ends_with("1,234,567\n"), "{text}");
    }

    #[test]
    fn markdown_has_as_many_columns_in_every_line() {
        let text = markdown(&rows(&[measured("a", 4, 1, 0.5)]));
        assert!(text.lines().all(|line| line.matches('|').count() == 8), "{text}");
    }
}
