//! `advise`: a plan for labelled data, and why.

use std::path::Path;

use serde_json::{Value, json};

use super::{Common, Console, print_line};
use crate::advise::rules::RULES;
use crate::advise::{Advice, Advise, heads};
use crate::domain::Domain;
use crate::plan_file;
use crate::report::quoted;
use crate::transferability::Score;
use crate::{Error, Result};

#[derive(clap::Args)]
pub(super) struct AdviseArgs<D: Domain> {
    #[command(flatten)]
    advise: Advise<D>,
    /// Print the rules and stop
    #[arg(long)]
    rules: bool,
}

pub(super) fn run<D: Domain>(args: AdviseArgs<D>, common: &Common) -> Result<()> {
    if args.rules {
        return rules(common);
    }
    let console = Console::new(common.quiet);
    let advise = Advise { machine: common.machine(args.advise.machine), ..args.advise };
    if let Some(out) = &advise.out {
        plan_file::check_place(out)?;
    }
    let advice = advise.run(&console)?;
    let command = command(&advise, &advice)?;
    if let Some(out) = &advise.out {
        let mut lines = vec![format!("Advised by {} {}.", D::BINARY, env!("CARGO_PKG_VERSION")), command.clone()];
        lines.extend(advice.rules.iter().map(|applied| format!("{}: {}", applied.rule.name, applied.numbers)));
        plan_file::write(out, &advice.plan, &lines)?;
    }
    if common.json {
        let mut value = serde_json::to_value(&advice).map_err(|e| Error::input("the advice", e, "report this"))?;
        value["command"] = command.into();
        print_line(&value.to_string())?;
    } else {
        show::<D>(&advice)?;
        match &advise.out {
            Some(out) => print_line(&format!("the plan is in {}; to follow it:\n  {command}", out.display()))?,
            None => print_line(&format!("with --out FILE the plan is written there; to follow it:\n  {command}"))?,
        }
    }
    if advice.failed.is_empty() {
        return Ok(());
    }
    let reason = format!("{} of the models could not be opened", advice.failed.len());
    Err(Error::input("--models", reason, "the advice is about the others; correct the names or paths of these"))
}

fn rules(common: &Common) -> Result<()> {
    for rule in RULES {
        if common.json {
            print_line(&super::json(rule)?)?;
            continue;
        }
        let when: Vec<String> = rule.when.iter().map(ToString::to_string).collect();
        let when = if when.is_empty() { "always".into() } else { format!("if {}", when.join(" and ")) };
        print_line(&format!(
            "{}\n  {when}:\n  {}\n  because {}\n  source: {}",
            rule.name, rule.then, rule.because, rule.source
        ))?;
    }
    if common.json {
        return Ok(());
    }
    print_line(
        "every rule that warns or sets something counts; of those that compare, and of those that take, the first that applies",
    )
}

fn show<D: Domain>(advice: &Advice) -> Result<()> {
    for (quantity, value) in &advice.measures.0 {
        print_line(&format!("{:<38} {}", quantity.title(), quantity.show(*value)))?;
    }
    print_line("")?;
    for considered in &advice.models {
        print_line(&format!("{}, frozen; cross-validated accuracy of heads:", considered.model))?;
        for judged in &considered.heads {
            let (accuracy, error) = (100.0 * judged.accuracy, 100.0 * judged.error);
            print_line(&format!("  {accuracy:5.1} ± {error:.1} %  {}", heads::title(judged.method)))?;
        }
        let score = |s: &Score| Some(format!("{} {:.4}", s.title(), considered.scores.values.get(s)?));
        print_line(&format!("  {}", Score::ALL.iter().filter_map(score).collect::<Vec<_>>().join(", ")))?;
    }
    for failed in &advice.failed {
        let reason: Vec<&str> = failed.error.lines().map(str::trim).collect();
        print_line(&format!("{} cannot be opened: {}", failed.model, reason.join("; ").replace(":;", ":")))?;
    }
    print_line("")?;
    print_line(&format!(
        "{:<22} {:>6} {:>8} {:>9} {:>10}",
        "on this machine", "steps", "s/step", "seconds", "memory MB"
    ))?;
    for cost in &advice.costs {
        let memory = cost.memory.map_or("?".into(), |bytes| format!("{:.0}", bytes as f64 / 1e6));
        let step = if cost.steps > 0 { format!("{:.3}", cost.step_seconds) } else { "–".into() };
        print_line(&format!("{:<22} {:>6} {step:>8} {:>9.1} {memory:>10}", cost.strategy, cost.steps, cost.seconds))?;
    }
    for c in &advice.compared {
        print_line(&format!(
            "\ncompared: {} for {} epochs on {} {}, judged by {} others: {:.1} % against {:.1} % of the head (difference ± {:.1}), in {:.1} s",
            c.course,
            c.epochs,
            c.learned,
            D::ITEM.1,
            c.held_out,
            100.0 * c.accuracy,
            100.0 * c.head,
            100.0 * c.error,
            c.seconds
        ))?;
    }
    print_line(&format!("\nmodel {}\n{}", advice.model, advice.plan.to_string().trim_end()))?;
    print_line("\nwhy:")?;
    for applied in &advice.rules {
        let rule = applied.rule;
        let numbers = if applied.numbers.is_empty() { String::new() } else { format!(" ({})", applied.numbers) };
        print_line(&format!("  {}{numbers}: {}, because {} [{}]", rule.name, rule.then, rule.because, rule.source))?;
    }
    print_line(&format!("advised in {:.1} s", advice.seconds))
}

/// The command that follows the advice.
fn command<D: Domain>(advise: &Advise<D>, advice: &Advice) -> Result<String> {
    let mut words = vec![D::BINARY.to_string(), "train".into()];
    let flags = serde_json::to_value(&advise.data).map_err(|e| Error::input("the data flags", e, "report this"))?;
    let budget = json!({ "limit": advise.limit, "per-class": advise.per_class });
    for (flag, value) in [&flags, &budget].into_iter().filter_map(Value::as_object).flatten() {
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => words.push(format!("--{flag}")),
            Value::String(text) => words.push(format!("--{flag} {}", quoted(text))),
            other => words.push(format!("--{flag} {other}")),
        }
    }
    let plan = advise.out.as_deref().unwrap_or(Path::new("FILE"));
    words.push(format!("--model {}", quoted(&advice.model)));
    words.push(format!("--plan {} --seed {} --out RUN", quoted(&plan.display().to_string()), advise.seed));
    Ok(words.join(" "))
}
