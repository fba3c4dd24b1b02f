//! `train`: the main job from the command line.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Common, Console, print_line};
use crate::compare::TRACELESS;
use crate::domain::Domain;
use crate::fit::{Finished, Fit};
use crate::machine::Machine;
use crate::memory::gigabytes;
use crate::observe::Observer;
use crate::plan_file;
use crate::strategy::{FromScratch, Options, Strategy};
use crate::{Error, Result};

const NETWORK: &str =
    "Network: a name from `models list` or of an architecture, or a model folder; its weights are not used";

/// The flags of `train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs<D: Domain> {
    #[command(flatten)]
    fit: Fit<D>,
    /// Take settings from this file (as a run's run.toml has them); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Follow the plan in this file instead of a strategy's: TOML or JSON, as --dry-run --json prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["strategy", "config", "resume"])]
    plan: Option<PathBuf>,
    /// Go on with the interrupted run at --out, with its own settings and data
    #[arg(long, conflicts_with_all = ["force", "config", "dry_run"])]
    resume: bool,
    /// Read data and model, show what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Does what a domain's verb `pretrain` says: `train` from random weights, by `recipe` where the flags say nothing.
///
/// # Errors
/// As those of `train`.
pub fn pretrain<D: Domain>(mut args: TrainArgs<D>, recipe: &Options, common: &Common) -> Result<()> {
    let strategy = FromScratch.name();
    if let Some(other) = args.fit.strategy.as_deref().filter(|name| *name != strategy) {
        let reason = "pre-training starts from random weights";
        return Err(Error::input(format!("--strategy {other}"), reason, "leave it out, or use the verb train"));
    }
    if !args.resume && args.plan.is_none() {
        if args.config.is_none() {
            args.fit.options = args.fit.options.over(recipe);
            if args.fit.model.is_none() {
                let remedy = "add it: a name from `models list` or of an architecture, or a model folder";
                return Err(Error::input("--model", "no network is named", remedy));
            }
        }
        args.fit.strategy = Some(strategy.into());
    }
    run(args, common)
}

/// Hides a flag that says how other strategies train, or which.
pub fn pretraining_flag(flag: clap::Arg) -> clap::Arg {
    let is_strategy = |name: &str| crate::strategy::all().iter().any(|strategy| strategy.name() == name);
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let foreign = help.split_once(": ").is_some_and(|(names, _)| names.split(", ").all(is_strategy));
    match flag.get_id().as_str() {
        "model" => flag.value_name("NETWORK").help(NETWORK),
        "strategy" | "probe" | "l2" | "views" | "stage_decay" => flag.hide(true),
        _ => flag.hide(foreign),
    }
}

pub(super) fn run<D: Domain>(args: TrainArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    console.catch_interrupts();
    if args.resume {
        let out = args.fit.out.ok_or_else(|| {
            Error::input("--resume", "no run is named", "add --out with the interrupted run's directory")
        })?;
        let machine = common.machine(args.fit.machine);
        let run = continued(Fit::<D> { out: None, machine, ..args.fit }, Fit::of_run(&out)?)?;
        // Whether the network may be used is said each time.
        let machine = Machine { offline: common.offline, ..run.machine };
        return report(&Fit { machine, ..run }.go_on(&console)?, &out, common);
    }
    let mut fit = Fit { machine: common.machine(args.fit.machine), ..args.fit };
    if let Some(path) = &args.config {
        fit = merged(&fit, Fit::read(path, "compare with the run.toml of a run")?)?;
    }
    if let Some(path) = &args.plan {
        let unset = Options { augment: fit.options.augmented(), ..fit.options.clone() };
        if unset != Options::default() {
            let remedy = "set it in the plan's file, or leave out --plan";
            return Err(Error::input("--plan", "how to train is set by the plan and by a flag at once", remedy));
        }
        fit.plan = Some(plan_file::read(path)?);
    }
    fit.machine.device.get_or_insert_with(|| "cpu".into());
    if args.dry_run {
        let prepared = fit.prepare(&console)?;
        if common.json {
            return print_line(&super::json(&prepared.plan)?);
        }
        let (train, validation) = (prepared.splits.train.len(), prepared.splits.validation.len());
        console.message(&format!("model {}: {}", prepared.network.name, prepared.report));
        print_line(&format!(
            "{train} training and {validation} validation {}, {} {}",
            D::ITEM.1,
            prepared.splits.task.len(),
            prepared.splits.task.kind
        ))?;
        if let Some(count) = fit.folds {
            print_line(&format!(
                "{count} folds of the training {} are held out in turn, each predicted by a model that learns from the others; then one learns from all",
                D::ITEM.1
            ))?;
        }
        print_line(prepared.plan.to_string().trim_end())?;
        if let Some((phase, bytes)) = prepared.memory(fit.recompute).most(&prepared.plan) {
            let (name, bytes) = (&phase.name, gigabytes(bytes));
            print_line(&format!("memory: a step of phase {name:?} takes about {bytes} beside the model"))?;
        }
        return fit.has_room(&prepared);
    }
    let out = fit.out.clone().unwrap_or_default();
    report(&fit.run(&console)?, &out, common)
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::input("the settings", error, "report this as a defect")
}

/// The settings of a file, with the flags given on top.
fn merged<D: Domain>(flags: &Fit<D>, mut file: Fit<D>) -> Result<Fit<D>> {
    // One of the two budgets, the flags' if they have any.
    if flags.limit.or(flags.per_class).is_some() {
        (file.limit, file.per_class) = (None, None);
    }
    let base = serde_json::to_value(&file).map_err(unusable)?;
    let mut all = base.clone();
    let options = flags.options.clone().over(&file.options);
    overlay(&mut all, serde_json::to_value(Fit { options, ..flags.clone() }).map_err(unusable)?);
    // The plan of the file holds for what it was made from.
    let decides = |key: &str| base.get(key) != all.get(key);
    if ["model", "strategy", "limit", "per-class", "folds", "options", "data"].into_iter().any(decides) {
        all["plan"] = Value::Null;
    }
    serde_json::from_value(all).map_err(unusable)
}

/// The settings of an interrupted run. Flags may repeat them; another value would make it another run, except for what
/// leaves no trace in the result.
fn continued<D: Domain>(flags: Fit<D>, run: Fit<D>) -> Result<Fit<D>> {
    let options = Options { augment: flags.options.augmented(), ..flags.options.clone() };
    let mut of_run = serde_json::to_value(&run).map_err(unusable)?;
    let mut given = serde_json::to_value(Fit { options, ..flags }).map_err(unusable)?;
    for name in TRACELESS {
        let place = format!("/{}", name.replace('.', "/"));
        if let (Some(value), Some(flag)) = (of_run.pointer_mut(&place), given.pointer_mut(&place)) {
            overlay(value, flag.take());
        }
    }
    if let Some((flag, value)) = difference(&of_run, &given) {
        return Err(Error::input(
            format!("--{flag}"),
            format!("the run to resume was started with {value}"),
            "leave it out, or start another run with another --out",
        ));
    }
    serde_json::from_value(of_run).map_err(unusable)
}

/// The first setting in `top` that is not as in `base`, with its value there.
fn difference(base: &Value, top: &Value) -> Option<(String, String)> {
    top.as_object()?.iter().find_map(|(key, value)| {
        let found = base.get(key).unwrap_or(&Value::Null);
        match value {
            Value::Object(_) => difference(found, value),
            Value::Null | Value::Bool(false) => None,
            Value::Array(items) if items.is_empty() => None,
            _ if value == found => None,
            _ if found.is_null() => Some((key.clone(), "no such setting".into())),
            _ => Some((key.clone(), found.to_string())),
        }
    })
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
    fn what_is_given_again_and_differs_is_found_at_any_depth() {
        let run = json!({ "seed": 1, "strict": false, "options": { "epochs": 3, "l2": null } });
        let given = |options: Value| difference(&run, &json!({ "seed": 1, "strict": false, "options": options }));
        assert_eq!(given(json!({ "epochs": 3, "l2": null })), None);
        assert_eq!(given(json!({ "epochs": 4 })), Some(("epochs".into(), "3".into())));
        assert_eq!(given(json!({ "l2": 1.0 })), Some(("l2".into(), "no such setting".into())));
    }

    #[test]
    fn flags_win_over_the_file_and_leave_the_rest() {
        let mut base = json!({ "seed": 1, "options": { "epochs": 3 }, "strict": true });
        overlay(&mut base, json!({ "seed": 2, "options": { "epochs": null, "clip-norm": 1.0 }, "strict": false }));
        assert_eq!(base, json!({ "seed": 2, "options": { "epochs": 3, "clip-norm": 1.0 }, "strict": true }));
    }
}
