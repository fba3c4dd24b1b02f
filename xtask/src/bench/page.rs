//! A benchmark as one page that needs nothing beside it: for each set the table, and accuracy against labels and seconds.

use std::collections::{BTreeMap, BTreeSet};

use topwork_core::draw::{Axis, Chart, colour, escape};
use topwork_core::report::{document, table};

use super::summary::{OVERALL, Overall, Row, grouped, overall_lines};

/// What is shown of a benchmark.
pub struct Contents<'a> {
    /// What was measured.
    pub title: &'a str,
    /// What a reader must know.
    pub notes: &'a [String],
    /// Means over seeds.
    pub rows: &'a [Row],
    /// Strategies over all sets, and what that table says.
    pub overall: Option<(&'a str, &'a [Overall])>,
    /// Why a strategy did not run, by set and strategy.
    pub refusals: &'a BTreeMap<(String, String), String>,
    /// What the seconds are, and those of a row.
    pub seconds: (&'a str, fn(&Row) -> f64),
}

/// The rows of a set, by strategy; the pictures call a strategy by its number in the table.
struct Set<'a> {
    name: &'a str,
    strategies: Vec<(&'a str, Vec<&'a Row>)>,
    budgets: BTreeSet<usize>,
}

impl<'a> Set<'a> {
    fn all(rows: &'a [Row]) -> Vec<Self> {
        let mut sets: Vec<Self> = Vec::new();
        for row in rows {
            let at = sets.iter().position(|set| set.name == row.data).unwrap_or_else(|| {
                sets.push(Self { name: &row.data, strategies: Vec::new(), budgets: BTreeSet::new() });
                sets.len() - 1
            });
            let set = &mut sets[at];
            set.budgets.insert(row.labels);
            match set.strategies.iter_mut().find(|(name, _)| *name == row.strategy) {
                Some((_, rows)) => rows.push(row),
                None => set.strategies.push((&row.strategy, vec![row])),
            }
        }
        let order = topwork_core::strategy::all();
        let place = |name: &str| order.iter().position(|strategy| strategy.name() == name);
        sets.iter_mut().for_each(|set| set.strategies.sort_by_key(|(name, _)| place(name)));
        sets
    }
}

impl Contents<'_> {
    /// The page.
    pub fn page(&self) -> String {
        let sets = Set::all(self.rows);
        let notes: String = self.notes.iter().map(|note| format!("<p>{}</p>", escape(note))).collect();
        let mut sections: Vec<(String, String)> =
            sets.iter().map(|set| (escape(set.name), self.table_of(set) + &self.pictures(set))).collect();
        if let Some((what, rows)) = self.overall {
            let lines: Vec<Vec<String>> = overall_lines(rows).into_iter().map(Vec::from).collect();
            let table = table(&OVERALL.map(String::from), &lines);
            sections.insert(0, ("Over all sets".into(), format!("<p>{}</p>{table}", escape(what))));
        }
        sections.push(("Notes".into(), notes));
        let sections: Vec<(&str, String)> =
            sections.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
        let introduction = format!(
            "<p>{}. Accuracy on the test part in per cent, mean ± standard deviation over seeds; s: {}.</p>",
            escape(self.title),
            escape(self.seconds.0)
        );
        document("topwork: strategies compared", &introduction, &sections)
    }

    fn table_of(&self, set: &Set<'_>) -> String {
        let mut header = vec!["strategy".to_string()];
        header.extend(set.budgets.iter().flat_map(|labels| [format!("{labels} labels"), "s".into()]));
        header.extend(["seeds", "trained"].map(String::from));
        let line = |(number, (name, rows)): (usize, &(&str, Vec<&Row>))| {
            let mut cells = vec![format!("{number}. {name}")];
            for labels in &set.budgets {
                let row = rows.iter().find(|row| row.labels == *labels);
                let accuracy = |row: &&&Row| {
                    let deviation = row.deviation.map_or(String::new(), |d| format!(" ± {:.1}", 100.0 * d));
                    format!("{:.1}{deviation}", 100.0 * row.accuracy)
                };
                cells.push(row.as_ref().map(accuracy).unwrap_or_default());
                cells.push(row.map(|row| format!("{:.1}", (self.seconds.1)(row))).unwrap_or_default());
            }
            let seeds: BTreeSet<usize> = rows.iter().map(|row| row.seeds).collect();
            cells.push(seeds.iter().map(usize::to_string).collect::<Vec<_>>().join(" – "));
            cells.push(rows.first().map(|row| grouped(row.trained)).unwrap_or_default());
            cells
        };
        let lines: Vec<Vec<String>> = (1..).zip(&set.strategies).map(line).collect();
        let refused = self.refusals.iter().filter(|((data, _), _)| data == set.name);
        let refused = refused
            .map(|((_, strategy), reason)| format!("<p>{} does not run: {}</p>", escape(strategy), escape(reason)));
        table(&header, &lines) + &refused.collect::<String>()
    }

    fn pictures(&self, set: &Set<'_>) -> String {
        let mut charts = Vec::new();
        let rows = || set.strategies.iter().flat_map(|(_, rows)| rows.iter());
        let percent = |row: &&Row| 100.0 * row.accuracy;
        if set.budgets.len() > 1 {
            let labels = Axis::logarithmic("labels", set.budgets.iter().map(|labels| *labels as f64));
            let mut chart = Chart::new("accuracy, %", labels, Axis::around("accuracy", rows().map(percent)));
            let mut ends = Vec::new();
            for (i, (_, rows)) in set.strategies.iter().enumerate() {
                let points: Vec<(f64, f64)> =
                    rows.iter().map(|row| ((row.labels as f64).log10(), percent(row))).collect();
                ends.extend(points.last().map(|last| ((i + 1).to_string(), colour(i), *last)));
                chart = chart.line("", colour(i), points);
            }
            let chart = chart.spots(&ends);
            charts.push(
                chart.finish("against the number of labels; a line for each strategy, by its number in the table"),
            );
        }
        for labels in &set.budgets {
            let of_budget = || rows().filter(|row| row.labels == *labels);
            let seconds = |row: &Row| (self.seconds.1)(row).max(0.01);
            let axis = Axis::logarithmic("seconds", of_budget().map(|row| seconds(row)));
            let title = format!("accuracy with {labels} labels, %");
            let spots = (1..).zip(&set.strategies).filter_map(|(number, (_, rows))| {
                let row = rows.iter().find(|row| row.labels == *labels)?;
                Some((number.to_string(), colour(number - 1), (seconds(row).log10(), percent(row))))
            });
            let chart = Chart::new(&title, axis, Axis::around("accuracy", of_budget().map(percent)));
            let chart = chart.spots(&spots.collect::<Vec<_>>());
            charts.push(chart.finish("against seconds; a dot for each strategy, by its number in the table"));
        }
        charts.iter().map(|chart| format!("<div class=\"chart\">{}</div>", chart.inline())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &str, strategy: &str, labels: usize, accuracy: f64) -> Row {
        Row {
            domain: "cv".into(),
            data: data.into(),
            strategy: strategy.into(),
            labels,
            seeds: 5,
            accuracy,
            deviation: Some(0.02),
            seconds: 2.0,
            processor: 3.0,
            trained: 12_810,
        }
    }

    #[test]
    fn each_set_has_its_table_and_pictures_and_names_are_escaped() {
        let rows = [
            row("<set>", "fine-tuning", 8, 0.5),
            row("<set>", "prototypes", 8, 0.4),
            row("<set>", "prototypes", 80, 0.6),
            row("other", "soup", 8, 0.7),
        ];
        let refusals = BTreeMap::from([(("other".to_string(), "prefix".to_string()), "no attention".to_string())]);
        let notes = ["a note".to_string()];
        let contents = Contents {
            title: "five seeds",
            notes: &notes,
            rows: &rows,
            overall: None,
            refusals: &refusals,
            seconds: ("of processors", |row| row.processor),
        };
        let page = contents.page();
        assert!(page.contains("&lt;set&gt;") && !page.contains("<set>"));
        // In the order in which strategies are listed.
        assert!(page.contains("1. prototypes") && page.contains("2. fine-tuning") && page.contains("1. soup"));
        assert!(page.contains("<td>60.0 ± 2.0</td><td>3.0</td>"), "{page}");
        assert!(page.contains("prefix does not run: no attention") && page.contains("a note"));
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(!page.contains("http://") || !page.contains("src=\"http"), "nothing is fetched");
    }
}
