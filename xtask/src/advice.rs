//! `cargo xtask advice`: what `advise` advises on data sets, beside what strategies reach with the same labels.
//!
//! The list has a line for each data set: a name, `cv` or `nlp`, and the data flags of `train` (`--per-class` and `--limit`
//! among them). Every figure is appended to the output as soon as it is known, so that an interrupted series continues.
//! A set whose name is `DATA/LABELS` stands beside the best strategy of the long benchmark's records, seed by seed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};
use topwork_core::advise::Advise;
use topwork_core::compare::moments;
use topwork_core::domain::Domain;
use topwork_core::fit::Fit;
use topwork_core::observe::Silent;
use topwork_core::plan::Plan;
use topwork_core::strategy::Options;
use topwork_cv::Photos;
use topwork_nlp::Sentences;

use crate::bench::RECORDS;
use crate::bench::cell::{Finding, Record, read_lines};
use crate::bench::summary::{self, Row};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data sets, one a line: NAME, cv or nlp, and the data flags of `train`
    list: PathBuf,
    /// File that figures are appended to, one JSON object a line
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Seeds are 1 to this
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Strategies beside the advised plan, at their defaults
    #[arg(long, value_delimiter = ',', default_value = "fine-tuning")]
    strategies: Vec<String>,
    /// Records of `cargo xtask bench --strategies all --export` [default: docs/bench/strategies.jsonl]
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Begin nothing after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figure {
    set: String,
    seed: u64,
    /// `advise`, `advised`, or a strategy.
    what: String,
    /// Seconds of advising, or of training without validation.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    /// What was advised.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
    /// The rules that applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
}

/// The flags of a line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Flags<A: clap::Args> {
    #[command(flatten)]
    data: A,
    #[arg(long)]
    limit: Option<usize>,
    #[arg(long)]
    per_class: Option<usize>,
}

/// Runs the chore.
pub fn run(args: &Args) -> Result<()> {
    let text = std::fs::read_to_string(&args.list).with_context(|| args.list.display().to_string())?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let end = args.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes));
    let mut figures = read(&args.out)?;
    for seed in 1..=args.seeds {
        for line in &lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [set, domain, flags @ ..] = &words[..] else {
                bail!("{}: {line:?} is no data set", args.list.display())
            };
            match *domain {
                "cv" => measure::<Photos>(set, seed, flags, args, end, &mut figures)?,
                "nlp" => measure::<Sentences>(set, seed, flags, args, end, &mut figures)?,
                other => bail!("{}: {other:?} is neither cv nor nlp", args.list.display()),
            }
        }
    }
    let records = args.records.clone().unwrap_or_else(|| crate::root().join(RECORDS));
    print!("{}", table(&figures, &read_lines(&records)?));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Figure>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // A last line that was cut off is measured again.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn measure<D: Domain>(
    set: &str,
    seed: u64,
    flags: &[&str],
    args: &Args,
    end: Option<Instant>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let flags = Flags::<D::DataArgs>::try_parse_from(flags.iter().copied()).with_context(|| set.to_string())?;
    let whats = ["advise", "advised"].into_iter().chain(args.strategies.iter().map(String::as_str));
    for what in whats {
        let known = |f: &&Figure| f.set == set && f.seed == seed && f.what == what;
        if figures.iter().any(|f| known(&f)) {
            continue;
        }
        if end.is_some_and(|end| Instant::now() > end) {
            return Ok(());
        }
        let blank = Figure {
            set: set.into(),
            seed,
            what: what.into(),
            seconds: 0.0,
            accuracy: None,
            plan: None,
            rules: Vec::new(),
        };
        let figure = if what == "advise" {
            let advise = Advise::<D> {
                limit: flags.limit,
                per_class: flags.per_class,
                seed,
                ..Advise::new([D::DEFAULT_MODEL], flags.data.clone())
            };
            let advice = advise.run(&Silent)?;
            let rules = advice.rules.iter().map(|applied| applied.rule.name.to_string()).collect();
            let compared = advice
                .compared
                .iter()
                .map(|c| format!("{} {:.3} against {:.3} ± {:.3}", c.course, c.accuracy, c.head, c.error));
            eprintln!("{set} {seed}: {}; {:?}", compared.collect::<Vec<_>>().join("; "), advice.measures.0);
            Figure { seconds: advice.seconds, plan: Some(advice.plan), rules, ..blank }
        } else {
            let plan = || {
                let of_seed = figures.iter().find(|f| f.set == set && f.seed == seed && f.what == "advise");
                of_seed.and_then(|f| f.plan.clone()).context("nothing was advised")
            };
            let folder = tempfile::tempdir()?;
            let fit = Fit::<D> {
                strategy: (what != "advised").then(|| what.to_string()),
                plan: if what == "advised" { Some(plan()?) } else { None },
                out: Some(folder.path().join("run")),
                seed: Some(seed),
                limit: flags.limit,
                per_class: flags.per_class,
                data: flags.data.clone(),
                options: Options::default(),
                ..Fit::default()
            };
            let summary = fit.run(&Silent)?.summary;
            let seconds = summary.seconds["total"] - summary.seconds.get("validate").copied().unwrap_or(0.0);
            Figure { seconds, accuracy: Some(summary.metrics.score()), ..blank }
        };
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&args.out)?;
        writeln!(file, "{}", serde_json::to_string(&figure)?)?;
        eprintln!(
            "{set} {seed} {what}: {:.1} s {}",
            figure.seconds,
            figure.accuracy.map_or(String::new(), |a| format!("{:.1} %", 100.0 * a))
        );
        figures.push(figure);
    }
    Ok(())
}

/// A row for each data set: what was advised, means over seeds, and the best that all strategies found.
fn table(figures: &[Figure], records: &[Record]) -> String {
    let distinct = |key: fn(&Figure) -> &str| {
        let mut found: Vec<&str> = Vec::new();
        figures.iter().map(key).for_each(|name| {
            if !found.contains(&name) {
                found.push(name);
            }
        });
        found
    };
    let whats: Vec<&str> = distinct(|f| &f.what).into_iter().filter(|what| *what != "advise").collect();
    let mut text =
        format!("| data | advised | to advise | {} | best of all | difference, standard error |\n", whats.join(" | "));
    text += &format!("|---|---|--:{}|--:|--:|\n", "|--:".repeat(whats.len()));
    for set in distinct(|f| &f.set) {
        let of = |what: &str| figures.iter().filter(|f| f.set == set && f.what == what).collect::<Vec<&Figure>>();
        let advice = of("advise");
        let mut strategies: BTreeMap<&str, usize> = BTreeMap::new();
        for plan in advice.iter().filter_map(|f| f.plan.as_ref()) {
            *strategies.entry(&plan.strategy).or_default() += 1;
        }
        let strategies: Vec<String> = match &strategies.iter().collect::<Vec<_>>()[..] {
            [(only, _)] => vec![only.to_string()],
            several => several.iter().map(|(name, times)| format!("{name} ({times})")).collect(),
        };
        let (seconds, _) = moments(&advice.iter().map(|f| f.seconds).collect::<Vec<_>>());
        let cells: Vec<String> = whats.iter().map(|what| cell(&of(what))).collect();
        let (data, labels) = set.split_once('/').unwrap_or((set, ""));
        let advised = of("advised");
        let same = |r: &&Record| {
            let cell = &r.cell;
            cell.data == data && cell.labels.to_string() == labels && advised.iter().any(|f| f.seed == cell.seed)
        };
        let rows = summary::rows(&records.iter().filter(same).cloned().collect::<Vec<_>>());
        // Only what was measured with all of these seeds: they draw easier and harder labels.
        let [best, gap] = match rows
            .iter()
            .filter(|row| row.seeds == advised.len())
            .max_by(|a, b| a.accuracy.total_cmp(&b.accuracy))
        {
            Some(best) => [format!("{} {:.1} %", best.strategy, 100.0 * best.accuracy), gap(&advised, best, records)],
            None => ["–", "–"].map(String::from),
        };
        text += &format!(
            "| {set} | {} | {seconds:.0} s | {} | {best} | {gap} |\n",
            strategies.join(", "),
            cells.join(" | ")
        );
    }
    text
}

/// Mean accuracy, its deviation over seeds, and seconds.
fn cell(figures: &[&Figure]) -> String {
    if figures.is_empty() {
        return "–".into();
    }
    let accuracies: Vec<f64> = figures.iter().map(|f| 100.0 * f.accuracy.unwrap_or(f64::NAN)).collect();
    let (accuracy, variance) = moments(&accuracies);
    let spread = if accuracies.len() > 1 { format!(" ± {:.1}", variance.sqrt()) } else { String::new() };
    let (seconds, _) = moments(&figures.iter().map(|f| f.seconds).collect::<Vec<_>>());
    format!("{accuracy:.1}{spread} %, {seconds:.0} s")
}

/// Points of the advised plan above `best` on the same labels, with the standard error over seeds.
fn gap(advised: &[&Figure], best: &Row, records: &[Record]) -> String {
    let of = |record: &&Record, seed: u64| {
        let cell = &record.cell;
        (&cell.data, cell.labels, &cell.strategy, cell.seed) == (&best.data, best.labels, &best.strategy, seed)
    };
    let gaps = advised.iter().filter_map(|figure| {
        let record = records.iter().find(|record| of(record, figure.seed))?;
        match &record.outcome {
            Finding::Measured(outcome) => Some(100.0 * (figure.accuracy? - outcome.accuracy)),
            Finding::Refused { .. } => None,
        }
    });
    match &gaps.collect::<Vec<f64>>()[..] {
        [] => "–".into(),
        [one] => format!("{one:+.1}"),
        gaps => {
            let (gap, variance) = moments(gaps);
            format!("{gap:+.1} ± {:.1}", (variance / gaps.len() as f64).sqrt())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_data_flags_of_train_and_a_budget() {
        let words = ["--train", "a.tsv", "--max-tokens", "32", "--per-class", "8"];
        let flags = Flags::<topwork_nlp::DataArgs>::try_parse_from(words).unwrap();
        assert_eq!((flags.data.max_tokens, flags.per_class, flags.limit), (Some(32), Some(8), None));
        assert!(Flags::<topwork_nlp::DataArgs>::try_parse_from(["--epochs", "3"]).is_err());
    }

    #[test]
    fn a_plan_is_compared_with_the_best_strategy_seed_by_seed() {
        let figure = |what: &str, seed: u64, accuracy: Option<f64>| Figure {
            set: "digits/80".into(),
            seed,
            what: what.into(),
            seconds: 4.0,
            accuracy,
            plan: None,
            rules: Vec::new(),
        };
        let figures = [
            figure("advise", 1, None),
            figure("advised", 1, Some(0.8)),
            figure("advised", 2, Some(0.9)),
            figure("fine-tuning", 1, Some(0.7)),
        ];
        let measured = |strategy: &str, seed: u64, accuracy: f64| Record {
            cell: crate::bench::cell::tests::cell(strategy, 80, seed),
            outcome: Finding::Measured(crate::bench::cell::tests::outcome(accuracy, 1.0)),
        };
        let records = [
            measured("partial", 1, 0.85),
            measured("partial", 2, 0.91),
            measured("lora", 1, 0.9),
            measured("lora", 2, 0.8),
        ];
        let text = table(&figures, &records);
        let row = text.lines().last().unwrap();
        assert!(row.contains("| 85.0 ± 7.1 %, 4 s | 70.0 %, 4 s | partial 88.0 % | -3.0 ± 2.0 |"), "{row}");
        assert!(table(&figures, &[]).contains("| – | – |"));
    }
}
