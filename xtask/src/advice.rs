//! `cargo xtask advice`: what `advise` advises on data sets, beside what strategies reach with the same labels.
//!
//! The list has a line for each data set: a name, `cv` or `nlp`, and the data flags of `train` (`--per-class` and `--limit`
//! among them). Every figure is appended to the output as soon as it is known, so that an interrupted series continues.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};
use topwork_core::advise::Advise;
use topwork_core::domain::Domain;
use topwork_core::fit::Fit;
use topwork_core::observe::Silent;
use topwork_core::plan::Plan;
use topwork_core::strategy::Options;
use topwork_cv::Photos;
use topwork_nlp::Sentences;

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
    #[arg(long, value_delimiter = ',', default_value = "feature-extraction,fine-tuning,lp-ft")]
    strategies: Vec<String>,
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
    print(&figures);
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

/// A row for each data set: what was advised, and mean accuracies and seconds.
fn print(figures: &[Figure]) {
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
    println!("| data | advised | seconds to advise | {} |", whats.join(" | "));
    println!("|---|---|---{}|", "|---".repeat(whats.len()));
    for set in distinct(|f| &f.set) {
        let of = |what: &str| figures.iter().filter(|f| f.set == set && f.what == what).collect::<Vec<&Figure>>();
        let advice = of("advise");
        let mut strategies: Vec<&str> =
            advice.iter().filter_map(|f| Some(f.plan.as_ref()?.strategy.as_str())).collect();
        strategies.dedup();
        let seconds = advice.iter().map(|f| f.seconds).sum::<f64>() / advice.len().max(1) as f64;
        let cells: Vec<String> = whats.iter().map(|what| cell(&of(what))).collect();
        println!("| {set} | {} | {seconds:.1} | {} |", strategies.join(", "), cells.join(" | "));
    }
}

/// Mean accuracy and seconds.
fn cell(figures: &[&Figure]) -> String {
    let mean = |value: fn(&Figure) -> f64| figures.iter().map(|f| value(f)).sum::<f64>() / figures.len() as f64;
    if figures.is_empty() {
        return "–".into();
    }
    format!("{:.1} %, {:.0} s", 100.0 * mean(|f| f.accuracy.unwrap_or(f64::NAN)), mean(|f| f.seconds))
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
}
