//! `train`: the main job from the command line.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Common, Console, print_line};
use crate::domain::Domain;
use crate::fit::{Finished, Fit};
use crate::observe::Observer;
use crate::{Error, Result};

#[derive(clap::Args)]
pub(super) struct TrainArgs<D: Domain> {
    #[command(flatten)]
    fit: Fit<D>,
    /// Take settings from this file (as a run's run.toml has them); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on with the interrupted run at --out
    #[arg(long)]
    resume: bool,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run<D: Domain>(args: TrainArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    if args.resume {
        let out = args.fit.out.ok_or_else(|| {
            Error::input("--resume", "no run is named", "add --out with the interrupted run's directory")
        })?;
        return report(&Fit::<D>::resume(&out, &console)?, &out, common);
    }
    let mut fit = match &args.config {
        Some(path) => merged(path, &args.fit)?,
        None => args.fit,
    };
    fit.device = Some(common.device.clone());
    fit.offline |= common.offline;
    if args.dry_run {
        let prepared = fit.prepare(&console)?;
        if common.json {
            return print_line(&super::json(&prepared.plan)?);
        }
        let (train, validation) = (prepared.splits.train.len(), prepared.splits.validation.len());
        console.message(&format!("model {}: {}", prepared.network.name, prepared.report));
        print_line(&format!(
            "{train} training and {validation} validation {}, {} classes",
            D::ITEM.1,
            prepared.splits.classes.len()
        ))?;
        return print_line(prepared.plan.to_string().trim_end());
    }
    let out = fit.out.clone().unwrap_or_default();
    report(&fit.run(&console)?, &out, common)
}

/// The settings of a file, with the flags given on top.
fn merged<D: Domain>(path: &PathBuf, flags: &Fit<D>) -> Result<Fit<D>> {
    let unusable = |e: &dyn std::fmt::Display| Error::input(path.display(), e, "compare with a run's run.toml");
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let file: Fit<D> = toml::from_str(&text).map_err(|e| unusable(&e))?;
    let mut flags = flags.clone();
    flags.options = flags.options.over(&file.options);
    let mut all = serde_json::to_value(&file).map_err(|e| unusable(&e))?;
    overlay(&mut all, serde_json::to_value(&flags).map_err(|e| unusable(&e))?);
    serde_json::from_value(all).map_err(|e| unusable(&e))
}

/// Puts what is set in `top` over `base`; null, false and empty lists are not set.
fn overlay(base: &mut Value, top: Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (key, value) in top {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null | Value::Bool(false)) => {}
        (_, Value::Array(items)) if items.is_empty() => {}
        (base, top) => *base = top,
    }
}

fn report(finished: &Finished, out: &std::path::Path, common: &Common) -> Result<()> {
    if common.json {
        return print_line(&super::json(&json!({ "run": out, "summary": finished.summary }))?);
    }
    print_line(&finished.summary.to_string())?;
    print_line(&format!("model and report are in {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_leave_the_rest() {
        let mut base = json!({ "seed": 1, "options": { "epochs": 3 }, "strict": true });
        overlay(&mut base, json!({ "seed": 2, "options": { "epochs": null, "clip-norm": 1.0 }, "strict": false }));
        assert_eq!(base, json!({ "seed": 2, "options": { "epochs": 3, "clip-norm": 1.0 }, "strict": true }));
    }
}
