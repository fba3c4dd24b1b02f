//! `compare`: finished runs side by side.

use std::path::PathBuf;

use super::{Common, json, print_line};
use crate::Result;
use crate::compare::{Comparison, Run, cells, notes, page};
use crate::files::{ELSEWHERE, vacant, write_atomic_bytes};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompareArgs {
    /// Finished runs: their --out folders. Those that differ in nothing but --seed are one row
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Write a page with the table and the courses, too: .html
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: CompareArgs, program: &str, common: &Common) -> Result<()> {
    args.out.as_deref().map_or(Ok(()), |out| vacant(out, ELSEWHERE))?;
    let runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
    let comparison = Comparison::of(runs)?;
    if let Some(out) = &args.out {
        write_atomic_bytes(out, page(program, &comparison).as_bytes())?;
    }
    if common.json {
        return print_line(&json(&comparison)?);
    }
    let rows = cells(&comparison);
    let wide = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(wide).collect();
    for row in &rows {
        let cell = |(i, cell): (usize, &String)| {
            let width = widths[i];
            if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        print_line(row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end())?;
    }
    for note in notes(&comparison) {
        print_line(&note)?;
    }
    Ok(())
}
