//! Chores of the workspace that are not part of the product: data sets and benchmarks. `cargo xtask --help`.
//!
//! Errors go to standard error with exit code 2; nothing here is used by the libraries.

mod advice;
mod bench;
#[cfg(test)]
mod book;
mod dataset;
mod debian;
mod digits;
mod faults;
mod look;
mod manifest;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the topwork workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Known data sets: what they are, and the two bundled ones
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// What `advise` advises on data sets, beside what strategies reach
    Advice(advice::Args),
    /// Compares strategies at several numbers of labels, in both domains
    Bench(bench::Args),
    /// Kills, fills, truncates, corrupts and races real runs, and looks at what becomes of them
    Faults(faults::Args),
    /// Pictures of pages on a phone and a desk, light and dark, and whether they fit
    Look(look::Args),
    /// Throughput and peak memory of whole networks, alone or against the peers
    Speed(speed::Args),
}

/// The root of the workspace.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

fn main() -> ExitCode {
    let done = match Args::parse().chore {
        Chore::Dataset(command) => dataset::run(command),
        Chore::Advice(args) => advice::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Faults(args) => faults::run(&args),
        Chore::Look(args) => look::run(&args),
        Chore::Speed(args) => speed::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
