//! `cargo xtask bench`: strategies × label budgets × seeds, as tables.
//!
//! Without `--strategies` it is the short benchmark: three strategies with given settings on the two bundled sets
//! ([`quick`]). With it, strategies choose their settings by cross-validation on all sets that are there ([`sets`],
//! [`recipes`]). Every measured cell is kept under `target/bench/cells/`, so that an interrupted benchmark continues; the
//! report is written to `target/bench/report.html`, `report.md` and `report.json`.

pub mod cell;
mod clock;
mod domains;
mod grid;
mod page;
mod quick;
mod recipes;
mod report;
mod sets;
pub mod summary;
mod transfer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use cell::{Cell, Choice, Finding, Record, Store};
use grid::{Budget, Entry, Size};
use report::Report;

/// What earlier sittings measured, from the workspace's root; docs/compared.md is its report.
pub const RECORDS: &str = "docs/bench/strategies.jsonl";
/// What was measured.
const CHOSEN: &str = "settings chosen by cross-validation";

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How much to measure, without --strategies
    #[arg(long, value_enum, default_value = "default", conflicts_with = "strategies")]
    size: Size,
    /// Compare these strategies, or `all`, on every set that is there, with settings chosen by cross-validation
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    strategies: Option<Vec<String>>,
    /// Where public sets are, each in a folder of its name [default: the environment's TOPWORK_BENCH_DATA]
    #[arg(long, value_name = "DIR", requires = "strategies")]
    data_dir: Option<PathBuf>,
    /// Compare on these sets alone
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "strategies")]
    sets: Option<Vec<String>>,
    /// Number of seeds; all cells of one come before those of the next
    #[arg(long, value_name = "N", default_value_t = 5, requires = "strategies")]
    seeds: u64,
    /// Begin no cell after this many minutes, and list what did not fit
    #[arg(long, value_name = "M", requires = "strategies")]
    budget_minutes: Option<f64>,
    /// What earlier sittings measured, one cell a line [default: docs/bench/strategies.jsonl]
    #[arg(long, value_name = "FILE", requires = "strategies")]
    records: Option<PathBuf>,
    /// Write all that is known to --records
    #[arg(long, requires = "strategies")]
    export: bool,
    /// Measure nothing: make the report of --records
    #[arg(long, requires = "strategies", conflicts_with_all = ["export", "fresh"])]
    report_only: bool,
    /// Forget what was measured before
    #[arg(long)]
    fresh: bool,
    /// Folder for cells and report [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One data set with the strategies that are compared on it.
pub trait Contest {
    /// `cv` or `nlp`.
    fn domain(&self) -> &'static str;
    /// Name of the data set.
    fn data(&self) -> &'static str;
    /// The strategies, in the order of the table.
    fn entries(&self) -> &[Entry];
    /// Why pre-trained weights cannot be had, if so; only strategies without them run then.
    fn without_weights(&self) -> Option<String>;
    /// Model, sizes and lengths, for the report.
    fn setting(&self) -> String;
    /// Trains and evaluates, with the settings `chosen` before or, where there are several, chosen now.
    fn measure(&mut self, entry: &Entry, budget: &Budget, seed: u64, chosen: Option<Choice>) -> Result<Finding>;
}

/// Measures what is not known yet and writes the report.
pub fn run(args: &Args) -> Result<()> {
    let folder = args.out.clone().unwrap_or_else(|| crate::root().join("target/bench"));
    if args.fresh && folder.join("cells").exists() {
        std::fs::remove_dir_all(folder.join("cells")).with_context(|| folder.display().to_string())?;
    }
    let work = folder.join("work");
    // What a killed benchmark left.
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
    }
    let report = match &args.strategies {
        None => short(args.size, &folder)?,
        Some(names) => compare(args, names, &folder)?,
    };
    report.write(&folder)?;
    print!("{}", summary::terminal(&report.rows));
    for note in &report.notes {
        println!("note: {note}");
    }
    println!("{}", folder.join("report.html").display());
    Ok(())
}

/// The short benchmark.
fn short(size: Size, folder: &Path) -> Result<Report> {
    let mut contests = quick::contests(size, folder, &|line| eprintln!("{line}"))?;
    let store = Store { folder: folder.join("cells") };
    let found = measure(&mut contests, &program()?, &store, Known::default(), None, &mut |line| eprintln!("{line}"))?;
    Ok(Report::new(format!("size {size:?}").to_lowercase(), found, false))
}

/// All strategies, or those of these `names`.
fn compare(args: &Args, names: &[String], folder: &Path) -> Result<Report> {
    let path = args.records.clone().unwrap_or_else(|| crate::root().join(RECORDS));
    let known = if path.exists() && !args.fresh { cell::read_lines(&path)? } else { Vec::new() };
    if args.report_only {
        return Ok(of_records(known));
    }
    let until = args.budget_minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes.max(0.0)));
    let data = args.data_dir.clone().or_else(|| std::env::var_os("TOPWORK_BENCH_DATA").map(PathBuf::from));
    let scope = sets::Scope {
        data: data.as_deref(),
        strategies: (names != ["all"]).then_some(names),
        sets: args.sets.as_deref(),
        seeds: args.seeds,
    };
    let say = |line: String| eprintln!("{line}");
    let (mut contests, absent) = sets::contests(&scope, folder, &say)?;
    absent.iter().cloned().for_each(say);
    let store = Store { folder: folder.join("cells") };
    let known = Known(known.into_iter().map(|record| (record.cell.key(), record)).collect());
    // Settings and lengths are in the fingerprint: an unrelated change of the program does not undo hours of work.
    let mut found = measure(&mut contests, env!("CARGO_PKG_VERSION"), &store, known, until, &mut { say })?;
    found.notes.extend(absent);
    if args.export {
        cell::write_lines(&path, &found.records)?;
    }
    Ok(Report::new(CHOSEN.into(), found, true))
}

/// The report of what earlier sittings measured.
fn of_records(records: Vec<Record>) -> Report {
    let notes = sets::SETS.iter().map(sets::Set::setting).collect();
    Report::new(CHOSEN.into(), Found { records, notes }, true)
}

/// A key of this program: what another version measured is measured anew.
fn program() -> Result<String> {
    let path = std::env::current_exe()?;
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(crate::digits::sha256(&bytes)[..12].to_string())
}

/// What is known already, by [`Cell::key`].
#[derive(Default)]
struct Known(BTreeMap<String, Record>);

/// What was found, known before or now, in the order of domains, sets, numbers of labels, strategies and seeds.
pub struct Found {
    records: Vec<Record>,
    notes: Vec<String>,
}

/// A cell to come: the number of its contest, of the entry and of the budget.
type Job = (usize, usize, usize, Cell);

/// The cells of `contests`: seed by seed, and within a seed every set at its fewest labels before one at more, so that
/// whatever time there is goes to few seeds of everything.
fn jobs(contests: &[Box<dyn Contest>], program: &str) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (c, contest) in contests.iter().enumerate() {
        for (e, entry) in contest.entries().iter().enumerate() {
            if entry.pretrained && contest.without_weights().is_some() {
                continue;
            }
            for (b, budget) in entry.budgets.iter().enumerate() {
                let (setting, aid, grid) = (contest.setting(), entry.aid, &budget.grid);
                let settings = format!("{program}; {setting}; {aid:?}; {grid:?}");
                for seed in 1..=budget.seeds {
                    let cell = Cell {
                        domain: contest.domain().to_string(),
                        data: contest.data().to_string(),
                        strategy: entry.strategy.to_string(),
                        labels: budget.labels,
                        seed,
                        fingerprint: crate::digits::sha256(settings.as_bytes())[..12].to_string(),
                    };
                    jobs.push((c, e, b, cell));
                }
            }
        }
    }
    jobs.sort_by_key(|(c, e, b, cell)| (cell.seed, *b, *c, *e));
    jobs
}

fn measure(
    contests: &mut [Box<dyn Contest>],
    program: &str,
    store: &Store,
    mut known: Known,
    until: Option<Instant>,
    say: &mut dyn FnMut(String),
) -> Result<Found> {
    let mut notes = Vec::new();
    for contest in contests.iter() {
        if let Some(reason) = contest.without_weights() {
            let note = format!("{}: no pre-trained weights, so only from scratch: {reason}", contest.data());
            say(note.clone());
            notes.push(note);
        }
        notes.push(contest.setting());
    }
    let jobs = jobs(contests, program);
    let current: BTreeMap<String, &Cell> = jobs.iter().map(|(.., cell)| (cell.key(), cell)).collect();
    // Of the cells that are asked for, what was measured under other settings does not count.
    known.0.retain(|key, record| current.get(key).is_none_or(|cell| **cell == record.cell));
    for (number, (c, e, b, cell)) in jobs.iter().enumerate() {
        if known.0.contains_key(&cell.key()) {
            continue;
        }
        let contest = &mut contests[*c];
        let entry = contest.entries()[*e].clone();
        let outcome = match store.get(cell) {
            Some(outcome) => outcome,
            None if until.is_some_and(|until| Instant::now() >= until) => continue,
            None => {
                let first = Cell { seed: 1, strategy: entry.follows.unwrap_or(entry.strategy).into(), ..cell.clone() };
                let chosen = known.0.get(&first.key()).and_then(|record| match &record.outcome {
                    Finding::Measured(outcome) => outcome.choice.clone(),
                    Finding::Refused { .. } => None,
                });
                let outcome =
                    contest.measure(&entry, &entry.budgets[*b], cell.seed, chosen).with_context(|| cell.key())?;
                store.put(cell, &outcome)?;
                say(format!("{} of {}: {}: {}", number + 1, jobs.len(), cell.key(), report::brief(&outcome)));
                outcome
            }
        };
        known.0.insert(cell.key(), Record { cell: cell.clone(), outcome });
    }
    let all: Vec<(&Cell, bool)> = jobs.iter().map(|(.., cell)| (cell, known.0.contains_key(&cell.key()))).collect();
    notes.extend(report::left(&all));
    let order: Vec<&str> = topwork_core::strategy::all().iter().map(|strategy| strategy.name()).collect();
    let mut records: Vec<Record> = known.0.into_values().collect();
    records.sort_by_cached_key(|Record { cell, .. }| {
        let strategy = order.iter().position(|name| *name == cell.strategy);
        (cell.domain.clone(), cell.data.clone(), cell.labels, strategy, cell.seed)
    });
    Ok(Found { records, notes })
}

/// Writes a file so that it is never seen in part.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).with_context(|| partial.display().to_string())?;
    std::fs::rename(&partial, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
