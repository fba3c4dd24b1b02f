//! Means and deviations over seeds, and the table as text for a terminal and as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::cell::{Cell, Finding, Outcome, Record};
use super::recipes;

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
    /// Mean seconds of processors.
    pub processor: f64,
    /// Parameters that learned.
    pub trained: usize,
}

/// Rows by domain, data set, number of labels and strategy, strategies in the order of their first cell. What did not run
/// has none.
pub fn rows(records: &[Record]) -> Vec<Row> {
    let mut order: Vec<&str> = Vec::new();
    for Record { cell, .. } in records {
        if !order.contains(&cell.strategy.as_str()) {
            order.push(&cell.strategy);
        }
    }
    let rank = |strategy: &str| order.iter().position(|s| *s == strategy);
    let mut groups: BTreeMap<_, Vec<(&Cell, &Outcome)>> = BTreeMap::new();
    for Record { cell, outcome } in records {
        if let Finding::Measured(outcome) = outcome {
            let key = (&cell.domain, &cell.data, cell.labels, rank(&cell.strategy));
            groups.entry(key).or_default().push((cell, outcome));
        }
    }
    groups.into_values().map(|group| row(&group)).collect()
}

fn row(group: &[(&Cell, &Outcome)]) -> Row {
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
        processor: mean(|o| o.processor),
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
pub fn grouped(n: usize) -> String {
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

/// Set, number of labels and seed.
type Key = (String, usize, u64);

/// What strategies are measured against over all sets: the cheapest that learns anything, and the usual one.
const HEAD: &str = "feature-extraction";
const WHOLE: &str = "fine-tuning";

/// A strategy over all sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overall {
    /// Its name.
    pub strategy: String,
    /// Accuracy less that of `feature-extraction` with the same labels, with the fewest labels of each set.
    pub few: Option<Spread>,
    /// The same with more.
    pub many: Option<Spread>,
    /// Seconds of processors over those of `fine-tuning`, the geometric mean.
    pub cost: f64,
}

/// Differences over sets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Number of sets.
    pub sets: usize,
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let (least, most) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(*v), m.max(*v)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some(Self { sets: values.len(), mean, least, most })
    }
}

/// Strategies over all sets, each difference between runs on the same labels. The fewest labels of a set that has one number alone
/// are not few.
pub fn overall(records: &[Record]) -> Vec<Overall> {
    let measured = |record: &Record| match &record.outcome {
        Finding::Measured(outcome) => Some((
            ((record.cell.data.clone(), record.cell.labels, record.cell.seed), record.cell.strategy.clone()),
            outcome.clone(),
        )),
        Finding::Refused { .. } => None,
    };
    let all: BTreeMap<_, Outcome> = records.iter().filter_map(measured).collect();
    let mut budgets: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (key, _) in all.keys() {
        budgets.entry(&key.0).or_default().insert(key.1);
    }
    let one = |strategy: &str| {
        let (mut differences, mut costs) = ([Vec::new(), Vec::new()], Vec::new());
        for (data, labels) in budgets.iter().flat_map(|(data, all)| all.iter().map(move |labels| (*data, *labels))) {
            let few = budgets[data].len() > 1 && budgets[data].first() == Some(&labels);
            let pairs = |other: &str| -> Vec<(Outcome, Outcome)> {
                let own = all.iter().filter(|((key, name), _)| key.0 == data && key.1 == labels && name == strategy);
                let pair = |((key, _), own): (&(Key, String), &Outcome)| {
                    Some((own.clone(), all.get(&(key.clone(), other.to_string()))?.clone()))
                };
                own.filter_map(pair).collect()
            };
            let heads = pairs(HEAD);
            if !heads.is_empty() {
                let sum: f64 = heads.iter().map(|(own, head)| own.accuracy - head.accuracy).sum();
                differences[usize::from(!few)].push(sum / heads.len() as f64);
            }
            costs.extend(
                pairs(WHOLE).iter().map(|(own, whole)| (own.processor / whole.processor.max(1e-9)).max(1e-9).ln()),
            );
        }
        let [few, many] = differences.map(|values| Spread::of(&values));
        let cost = (costs.iter().sum::<f64>() / costs.len().max(1) as f64).exp();
        Overall { strategy: strategy.into(), few, many, cost }
    };
    let names = topwork_core::strategy::all().iter().map(|strategy| strategy.name());
    names.filter(|name| all.keys().any(|(_, strategy)| strategy == name)).map(one).collect()
}

/// The header of [`overall`]'s table.
pub const OVERALL: [&str; 6] =
    ["strategy", "few labels", "least … most", "more labels", "least … most", "seconds / fine-tuning"];

/// Its lines, in points of accuracy.
pub fn overall_lines(rows: &[Overall]) -> Vec<[String; 6]> {
    let mean =
        |spread: &Option<Spread>| spread.map_or(String::new(), |s| format!("{:+.1} ({})", 100.0 * s.mean, s.sets));
    let ends = |spread: &Option<Spread>| {
        spread.map_or(String::new(), |s| format!("{:+.1} … {:+.1}", 100.0 * s.least, 100.0 * s.most))
    };
    let line = |row: &Overall| {
        let Overall { strategy, few, many, cost } = row;
        [strategy.clone(), mean(few), ends(few), mean(many), ends(many), format!("{cost:.2}")]
    };
    rows.iter().map(line).collect()
}

/// For each data set a heading and a table in Markdown: a line a strategy, accuracy and cost side by side for each number
/// of labels. `refusals` say, by data set and strategy, why one did not run.
pub fn by_set(rows: &[Row], refusals: &BTreeMap<(String, String), String>) -> String {
    let mut sets: Vec<&str> = Vec::new();
    let mut strategies: Vec<&str> = topwork_core::strategy::all().iter().map(|strategy| strategy.name()).collect();
    for row in rows {
        if !sets.contains(&row.data.as_str()) {
            sets.push(&row.data);
        }
        if !strategies.contains(&row.strategy.as_str()) {
            strategies.push(&row.strategy);
        }
    }
    sets.iter().map(|set| table_of(set, &strategies, rows, refusals)).collect()
}

fn table_of(set: &str, strategies: &[&str], rows: &[Row], refusals: &BTreeMap<(String, String), String>) -> String {
    let of_set = || rows.iter().filter(|row| row.data == set);
    let budgets: BTreeSet<usize> = of_set().map(|row| row.labels).collect();
    let most = of_set().map(|row| row.seeds).max().unwrap_or(0);
    let header: String = budgets.iter().map(|labels| format!(" {labels} labels | s |")).collect();
    let seeds = if most == 1 { "One seed.".into() } else { format!("{most} seeds; fewer where a bracket says so.") };
    let mut text = format!("\n## {set}\n\n{seeds}\n\n| strategy |{header} trained | needs |\n|---|");
    text += &"--:|--:|".repeat(budgets.len());
    text += "--:|---|\n";
    for strategy in strategies {
        let found: Vec<&Row> = of_set().filter(|row| row.strategy == *strategy).collect();
        let refusal = refusals.get(&(set.to_string(), strategy.to_string()));
        let Some(any) = found.first() else {
            if let Some(reason) = refusal {
                let empty = " |".repeat(2 * budgets.len() + 2);
                let _ = writeln!(text, "| {strategy} | does not run: {}{empty}", reason.replace('|', "\\|"));
            }
            continue;
        };
        let _ = write!(text, "| {strategy} |");
        for labels in &budgets {
            match found.iter().find(|row| row.labels == *labels) {
                Some(row) => {
                    let fewer = if row.seeds < most { format!(" ({})", row.seeds) } else { String::new() };
                    let deviation = row.deviation.map_or(String::new(), |d| format!(" ± {:.1}", 100.0 * d));
                    let _ = write!(text, " {:.1}{deviation}{fewer} | {:.1} |", 100.0 * row.accuracy, row.processor);
                }
                None => text += " | |",
            }
        }
        let _ = writeln!(text, " {} | {} |", grouped(any.trained), recipes::needs(strategy));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::cell::tests::{cell, outcome};
    use super::*;

    fn measured(strategy: &str, labels: usize, seed: u64, accuracy: f64) -> Record {
        let outcome = Finding::Measured(outcome(accuracy, seed as f64));
        Record { cell: cell(strategy, labels, seed), outcome }
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
    fn over_all_sets_runs_on_the_same_labels_are_compared() {
        let records = [
            measured("feature-extraction", 4, 1, 0.5),
            measured("feature-extraction", 4, 2, 0.7),
            measured("feature-extraction", 40, 1, 0.8),
            measured("fine-tuning", 4, 1, 0.6),
            measured("fine-tuning", 40, 1, 0.7),
            // Its seed has nothing to be compared with.
            measured("fine-tuning", 4, 3, 0.1),
        ];
        let rows = overall(&records);
        assert_eq!(
            rows.iter().map(|row| row.strategy.as_str()).collect::<Vec<_>>(),
            ["feature-extraction", "fine-tuning"]
        );
        let (few, many) = (rows[1].few.unwrap(), rows[1].many.unwrap());
        assert!((few.mean - 0.1).abs() < 1e-12 && (many.mean + 0.1).abs() < 1e-12 && few.sets == 1);
        assert_eq!(rows[0].few.unwrap().mean, 0.0);
        assert!((rows[1].cost - 1.0).abs() < 1e-12);
        assert_eq!(overall_lines(&rows)[1][1], "+10.0 (1)");
    }

    #[test]
    fn a_table_of_a_set_has_a_column_for_each_budget_and_as_many_in_every_line() {
        let records = [measured("lora", 4, 1, 0.5), measured("lora", 40, 1, 1.0), measured("soup", 4, 1, 0.25)];
        let refusals = BTreeMap::from([(("digits".to_string(), "prefix".to_string()), "no attention".to_string())]);
        let text = by_set(&rows(&records), &refusals);
        assert!(text.contains("| lora | 50.0 | 2.0 | 100.0 | 2.0 | 1,234,567 |"), "{text}");
        assert!(text.contains("| soup | 25.0 | 2.0 | | | 1,234,567 |"), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(lines.len() == 5 && lines.iter().all(|line| line.matches('|').count() == 8), "{text}");
    }

    #[test]
    fn markdown_has_as_many_columns_in_every_line() {
        let text = markdown(&rows(&[measured("a", 4, 1, 0.5)]));
        assert!(text.lines().all(|line| line.matches('|').count() == 8), "{text}");
    }
}
