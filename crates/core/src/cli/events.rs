//! `events`: the course of runs for TensorBoard.

use std::path::PathBuf;

use super::{Common, print_line};
use crate::files::{create_dir_all, write_atomic_bytes};
use crate::{Error, Result, events};

/// TensorBoard takes a file for one of events where this is in its name.
const FILE: &str = "events.out.tfevents.0.topwork";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct EventsArgs {
    /// Runs, finished or under way: their --out folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Folder of events, in which each run has one of its name; what is there of these runs is written anew
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: EventsArgs, common: &Common) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for run in &args.runs {
        let whole = run.canonicalize().unwrap_or_else(|_| run.clone());
        let name = whole.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
        if names.contains(&name) {
            let reason = format!("two of the runs are called {name:?}");
            return Err(Error::input(run.display(), reason, "write them to two folders"));
        }
        names.push(name);
    }
    let files: Vec<Vec<u8>> = args.runs.iter().map(|run| events::of_run(run)).collect::<Result<_>>()?;
    for (name, bytes) in names.iter().zip(&files) {
        let folder = args.out.join(name);
        create_dir_all(&folder)?;
        write_atomic_bytes(&folder.join(FILE), bytes)?;
    }
    if common.json {
        return print_line(&serde_json::json!({ "out": args.out, "runs": names }).to_string());
    }
    print_line(&format!("events of {} runs are in {1}: tensorboard --logdir {1}", names.len(), args.out.display()))
}
