//! `events`: the course of runs for TensorBoard.

use std::path::PathBuf;

use super::{Common, print_line};
use crate::files::{create_dir_all, folder_of, read_small, write_atomic_bytes};
use crate::{Error, Result, events};

/// TensorBoard takes a file for one of events where this is in its name.
const FILE: &str = "events.out.tfevents.0.topwork";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct EventsArgs {
    /// Runs, finished or under way: their --out folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Folder of events, in which each run has one of its name; earlier events of the same runs are brought up to date
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
    let places: Vec<PathBuf> = names.iter().map(|name| args.out.join(name).join(FILE)).collect();
    for (place, bytes) in places.iter().zip(&files).filter(|(place, _)| place.exists()) {
        let earlier = read_small(place).map_err(Error::io(place))?;
        if !events::begins(&earlier, bytes) {
            let reason = "it exists already, and is not of this run as it is now";
            return Err(Error::input(place.display(), reason, "choose another --out"));
        }
    }
    for (place, bytes) in places.iter().zip(&files) {
        create_dir_all(folder_of(place))?;
        write_atomic_bytes(place, bytes)?;
    }
    if common.json {
        return print_line(&serde_json::json!({ "out": args.out, "runs": names }).to_string());
    }
    print_line(&format!("events of {} runs are in {1}: tensorboard --logdir {1}", names.len(), args.out.display()))
}
