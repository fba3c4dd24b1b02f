//! `cargo xtask faults`: kills, interrupts, fills, truncates, corrupts and races real runs at random points, and looks at what
//! becomes of them.
//!
//! A trial is good if its run ends in the weights of an undisturbed one, byte for byte, or if the program refuses with a clear
//! error where something was taken from it, and starts anew with `--force`. Trial k is a function of the seed and k, up to
//! where a process happens to be when a signal reaches it.

mod jobs;
mod trial;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use topwork_core::seed::Seed;

use jobs::Job;
use trial::{Fault, Outcome};

/// What to try.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of trials
    #[arg(long, value_name = "N", default_value_t = 240)]
    points: u64,
    /// Decides what is tried
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only this trial, and keep its folder
    #[arg(long, value_name = "K")]
    only: Option<u64>,
    /// Folder of topwork-cv and topwork-nlp [default: where this program is]
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Folder for the report, and for trials that failed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// How often what became of trials.
#[derive(Default)]
struct Count {
    same: usize,
    refused: usize,
    impossible: usize,
    failed: usize,
}

/// Runs all trials and writes the report.
pub fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| crate::root().join("target/faults"));
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let program = std::env::current_exe()?;
    let binaries = args.binaries.clone().or_else(|| Some(program.parent()?.to_path_buf())).unwrap_or_default();
    // Trials have folders of their own to be in.
    let binaries = std::path::absolute(&binaries)?;
    for binary in [jobs::PHOTOS, jobs::TEXTS] {
        if !binaries.join(binary).is_file() {
            let folder = binaries.display();
            bail!(
                "{folder} has no {binary}\n  build it first: cargo build --workspace, or name its folder with --binaries"
            );
        }
    }
    let out = std::path::absolute(&out)?;
    let base = tempfile::tempdir_in(&out)?;
    eprintln!("undisturbed runs …");
    let jobs = jobs::all(&binaries, base.path())?;
    for job in &jobs {
        eprintln!("  {}: {:.1} s", job.name, job.seconds);
    }
    let numbers = match args.only {
        Some(number) => number..number + 1,
        None => 0..args.points,
    };
    let started = Instant::now();
    let mut counts: BTreeMap<(Fault, &str), Count> = BTreeMap::new();
    let mut failures = Vec::new();
    for number in numbers {
        let mut stream = Seed(args.seed).named("faults").child(number).stream();
        let fault = Fault::ALL[(number as usize) % Fault::ALL.len()];
        let suited: Vec<&Job> = jobs.iter().filter(|job| fault.suits(job)).collect();
        let job = suited[stream.below(suited.len())];
        let folder = tempfile::Builder::new().prefix("trial-").tempdir_in(&out)?;
        let (outcome, story) = trial::run(job, fault, folder.path(), &mut stream)?;
        let count = counts.entry((fault, job.name)).or_default();
        match &outcome {
            Outcome::Same => count.same += 1,
            Outcome::Refused => count.refused += 1,
            Outcome::Impossible => count.impossible += 1,
            Outcome::Failed(reason) => {
                count.failed += 1;
                failures.push(format!(
                    "trial {number} ({fault}, {}): {reason}\n    {}",
                    job.name,
                    story.join("\n    ")
                ));
                eprintln!("{}", failures[failures.len() - 1]);
            }
        }
        if matches!(outcome, Outcome::Failed(_)) || args.only.is_some() {
            eprintln!("  its folder is kept: {}", folder.keep().display());
        }
        if args.only.is_some() {
            eprintln!("{}", story.join("\n"));
        }
        if (number + 1).is_multiple_of(20) {
            eprintln!("{} trials, {} failed, {:.0} s", number + 1, failures.len(), started.elapsed().as_secs_f64());
        }
    }
    let page = page(&counts, &failures, args);
    write(&out.join("report.md"), &page)?;
    print!("{page}");
    if !failures.is_empty() {
        bail!("{} trials failed; repeat one with --only", failures.len());
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// The report as Markdown.
fn page(counts: &BTreeMap<(Fault, &str), Count>, failures: &[String], args: &Args) -> String {
    let mut page = format!("`cargo xtask faults --points {} --seed {}`\n\n", args.points, args.seed);
    page += "| what happens to a run | job | trials | same bytes in the end | refused clearly | not possible here | wrong |\n";
    page += "|---|---|--:|--:|--:|--:|--:|\n";
    let mut all = 0;
    for ((fault, job), Count { same, refused, impossible, failed }) in counts {
        let trials = same + refused + impossible + failed;
        all += trials - impossible;
        page += &format!("| {fault} | {job} | {trials} | {same} | {refused} | {impossible} | {failed} |\n");
    }
    page += &format!("\n{all} trials, {} wrong.\n", failures.len());
    for failure in failures {
        page += &format!("\n- {failure}\n");
    }
    page
}
