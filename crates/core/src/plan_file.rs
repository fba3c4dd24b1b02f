//! Plans in files: written by `advise` and `train --dry-run --json`, changed by hand, followed by `train --plan`.

use std::path::Path;

use crate::files::{read_small_text, write_atomic_bytes};
use crate::net::Network;
use crate::plan::{Combine, Method, Mixture, Penalty, Phase, Plan};
use crate::{Error, Result};

/// Reads a plan: JSON if the file's name ends so, else TOML, as under `[plan]` in a `run.toml`.
///
/// # Errors
/// When the file cannot be read or is no plan.
pub fn read(path: &Path) -> Result<Plan> {
    let text = read_small_text(path).map_err(Error::io(path))?;
    let plan = if is_json(path) {
        serde_json::from_str(&text).map_err(|e| e.to_string())
    } else {
        toml::from_str(&text).map_err(|e: toml::de::Error| e.to_string().trim_end().to_string())
    };
    plan.map_err(|reason| {
        Error::input(path.display(), reason, "compare with what `train --dry-run --json` prints for a strategy")
    })
}

/// Writes a plan as [`read`] takes it; `lines` stand above it as comments, where the format has them.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, plan: &Plan, lines: &[String]) -> Result<()> {
    let text = if is_json(path) {
        serde_json::to_string_pretty(plan).map_err(|e| e.to_string())
    } else {
        let comments: String = lines.iter().flat_map(|line| line.lines()).map(|line| format!("# {line}\n")).collect();
        toml::to_string(plan).map(|text| comments + "\n" + &text).map_err(|e| e.to_string())
    };
    let text = text.map_err(|reason| Error::input(path.display(), reason, "report this as a defect"))?;
    write_atomic_bytes(path, (text.trim_end().to_string() + "\n").as_bytes())
}

/// Looks whether a plan may be written to `path`: there is nothing, or a plan.
///
/// # Errors
/// When there is something else.
pub fn check_place(path: &Path) -> Result<()> {
    if path.exists() && read(path).is_err() {
        return Err(Error::input(path.display(), "it holds something else than a plan", "choose another --out"));
    }
    Ok(())
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Looks whether a plan that no strategy made can be followed with `network`.
///
/// # Errors
/// Naming the first phase that cannot, and the setting.
pub fn check(plan: &Plan, network: &Network) -> Result<()> {
    if plan.phases.is_empty() {
        return Err(Error::input("the plan", "it has no phases", "add one"));
    }
    let stages: Vec<&str> = network.stages.iter().map(|stage| stage.name.as_str()).collect();
    for (complete, phase) in plan.phases.iter().enumerate() {
        let (name, settings) = settings(phase, complete);
        let wrong = |reason: String, remedy: String| Err(Error::input(format!("phase {name:?}"), reason, remedy));
        for (setting, value, low, high) in settings {
            if !(low..=high).contains(&value) {
                let most = if high == f64::MAX { String::new() } else { format!(" to {high}") };
                return wrong(format!("{setting} is {value}"), format!("use a number from {low}{most}"));
            }
        }
        let Phase::Train(train) = phase else { continue };
        if train.boundary > stages.len() {
            return wrong(
                format!("boundary is {}, and {} has {} stages", train.boundary, network.name, stages.len()),
                "name fewer stages to keep".into(),
            );
        }
        let compared = train.penalties.iter().filter_map(|penalty| match penalty {
            Penalty::StartFeatures { stages, .. } => Some(stages),
            _ => None,
        });
        let rules = train.learn.iter().map(|rule| &rule.stage).filter(|stage| *stage != "head");
        if let Some(stage) = rules.chain(compared.flatten()).find(|stage| !stages.contains(&stage.as_str())) {
            return wrong(
                format!("{stage:?} is no stage of {}", network.name),
                format!("use head or one of {}", stages.join(", ")),
            );
        }
    }
    Ok(())
}

/// A number of a phase: its name, value, and what it must lie between.
type Setting = (&'static str, f64, f64, f64);

/// The numbers of a phase that `complete` others come before.
fn settings(phase: &Phase, complete: usize) -> (&str, Vec<Setting>) {
    let (least, most) = (f64::MIN_POSITIVE, f64::MAX);
    match phase {
        Phase::Train(train) => {
            let mut settings = vec![
                ("epochs", train.epochs as f64, 1.0, most),
                ("batch_size", train.batch_size as f64, 1.0, most),
                ("accumulate", train.accumulate as f64, 1.0, train.batch_size as f64),
                ("views", train.views as f64, if train.augment { 1.0 } else { 0.0 }, most),
                ("learning_rate", train.learning_rate, least, most),
                ("warmup", train.schedule.warmup, 0.0, 1.0),
                ("clip_norm", train.clip_norm.unwrap_or(1.0), least, most),
                ("label_smoothing", train.objective.label_smoothing, 0.0, 1.0),
                ("patience", train.patience.unwrap_or(1) as f64, 1.0, most),
            ];
            settings.extend(train.scales.iter().map(|scale| ("a size of views", *scale, 0.1, 1.0)));
            if let Some(mix) = &train.mix {
                settings.push(("mixup", mix.mixup, 0.0, most));
                settings.push(("cutmix", mix.cutmix, 0.0, most));
                settings.push(("mixup and cutmix together", mix.mixup + mix.cutmix, least, most));
                settings.push(("the probability of mixing", mix.probability, 0.0, 1.0));
            }
            settings.extend(train.learn.iter().map(|rule| ("the rate of a rule", rule.rate, 0.0, most)));
            settings.extend(train.pairs.iter().map(|pairs| ("per_sample", pairs.per_sample as f64, 1.0, most)));
            if let Some(teacher) = &train.teacher {
                settings.push(("the teacher's share", teacher.share, 0.0, 1.0));
                settings.push(("the teacher's temperature", teacher.temperature, least, most));
                settings.push(("the weight of the teacher's features", teacher.features, 0.0, most));
            }
            for penalty in &train.penalties {
                settings.push(("the weight of a penalty", penalty.weight(), 0.0, most));
                if let Penalty::SingularValues { smallest, .. } = penalty {
                    settings.push(("smallest", *smallest as f64, 1.0, most));
                }
            }
            (&train.name, settings)
        }
        Phase::Solve(solve) => {
            let mut settings = vec![("label_smoothing", solve.objective.label_smoothing, 0.0, 1.0)];
            match solve.method {
                Method::Logistic { l2 } | Method::Ridge { l2: Some(l2) } => settings.push(("l2", l2, least, most)),
                Method::Ridge { l2: None } | Method::Prototypes => {}
            }
            (&solve.name, settings)
        }
        Phase::Combine(Combine { name, mixture: Mixture::Earlier { phases, alpha } }) => {
            let phases = ("the number of earlier phases", *phases as f64, 0.0, complete as f64);
            (name, vec![("alpha", *alpha, 0.0, 1.0), phases])
        }
        Phase::Combine(Combine { name, mixture: Mixture::Runs { runs, .. } }) => {
            (name, vec![("the number of runs", runs.len() as f64, 1.0, most)])
        }
    }
}
