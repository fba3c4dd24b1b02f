//! `models list|show|fetch`: the pre-trained models known by name.

use serde_json::json;

use super::{Common, Console, json, print_line};
use crate::domain::{Domain, Opened};
use crate::source::{self, Accuracy, Card, Reference, Source};
use crate::{Result, fit};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// All models known by name
    List,
    /// One model, stage by stage
    Show {
        /// A name from the list, `hf-hub:owner/name`, or a path
        model: String,
        /// Rows of one sample to count operations for: tokens of a sentence (1 for a photo)
        #[arg(long, value_name = "N")]
        rows: Option<usize>,
    },
    /// Bring a model's files to this machine and check them
    Fetch {
        /// A name from the list, or `hf-hub:owner/name`
        model: String,
    },
}

pub(super) fn run<D: Domain>(args: ModelsArgs, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    match args.action {
        Action::List => list::<D>(common.json),
        Action::Fetch { model } => {
            let fetched = fit::fetch::<D>(&model, common.offline, &console)?;
            print_line(&if common.json {
                json!({ "model": model, "folder": fetched }).to_string()
            } else {
                format!("{model} is in {}", fetched.display())
            })
        }
        Action::Show { model, rows } => {
            let opened = fit::describe::<D>(&model, common.offline, &console)?;
            let card = match source::parse(&model, D::cards())? {
                Reference::Card(card) => Some(card),
                Reference::Hub { .. } | Reference::Path(_) => None,
            };
            show::<D>(&model, card, &opened, rows, common.json)
        }
    }
}

fn show<D: Domain>(
    model: &str,
    card: Option<&Card>,
    opened: &Opened<D::Pipeline>,
    rows: Option<usize>,
    as_json: bool,
) -> Result<()> {
    let network = &opened.network;
    let rows = rows.unwrap_or(if network.input.len() > 1 { 1 } else { 128 });
    let costs = network.costs(rows);
    let preparation = D::preparation(&opened.pipeline);
    if as_json {
        return print_line(&json(&json!({
            "model": model, "architecture": network.name, "parameters": network.parameters(), "stages": costs,
            "classes": opened.task.as_ref().map(|task| &task.outputs), "preparation": preparation, "card": card.map(facts),
        }))?);
    }
    let for_rows = if rows > 1 { format!(", {rows} rows a sample") } else { String::new() };
    print_line(&format!("{model} ({}{for_rows})", network.name))?;
    if let Some(card) = card {
        print_line(&format!("{}. {}, {}", card.paper, card.trained_on, card.licence))?;
        if let Some(Accuracy { top1, from }) = card.accuracy {
            print_line(&format!("{top1:.1} % top-1 ({from})"))?;
        }
        print_line(&format!("from {}", origins(card)))?;
    }
    preparation.map_or(Ok(()), |preparation| print_line(&preparation))?;
    let row = |stage: &str, output: &str, parameters: usize, multiply_adds: u64| {
        let (parameters, operations) = (thousands(parameters), millions(multiply_adds));
        print_line(&format!("{stage:<20} {output:>18} {parameters:>14} {operations:>14}"))
    };
    print_line(&format!("{:<20} {:>18} {:>14} {:>14}", "stage", "output", "parameters", "multiply-adds"))?;
    for cost in &costs {
        let output = cost.output.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        row(&cost.stage, &output, cost.parameters, cost.multiply_adds)?;
    }
    row("all", "", network.parameters(), costs.iter().map(|c| c.multiply_adds).sum())
}

fn list<D: Domain>(as_json: bool) -> Result<()> {
    if !as_json {
        let head = ["model", "parameters", "multiply-adds", "top-1", "licence", "from"];
        print_line(&line(head.map(String::from)))?;
    }
    for card in D::cards() {
        let network = D::describe(card).map(|opened| opened.network);
        let size = network.map(|network| {
            let multiply_adds: u64 = network.costs(1).iter().map(|cost| cost.multiply_adds).sum();
            (network.parameters(), multiply_adds)
        });
        if as_json {
            let mut facts = facts(card);
            facts["parameters"] = json!(size.map(|(parameters, _)| parameters));
            facts["multiply_adds"] = json!(size.map(|(_, multiply_adds)| multiply_adds));
            print_line(&facts.to_string())?;
            continue;
        }
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        print_line(&line([
            card.name.into(),
            or_none(size.map(|(parameters, _)| thousands(parameters))),
            or_none(size.map(|(_, multiply_adds)| millions(multiply_adds))),
            or_none(card.accuracy.map(|accuracy| format!("{:.1}", accuracy.top1))),
            card.licence.into(),
            origins(card),
        ]))?;
    }
    Ok(())
}

fn line([name, parameters, multiply_adds, top1, licence, from]: [String; 6]) -> String {
    format!("{name:<32} {parameters:>11} {multiply_adds:>13} {top1:>6}  {licence:<13} {from}")
}

fn facts(card: &Card) -> serde_json::Value {
    let accuracy = card.accuracy.map(|Accuracy { top1, from }| json!({ "top1": top1, "from": from }));
    let sources: Vec<String> = card.sources.iter().map(describe).collect();
    json!({
        "name": card.name, "aliases": card.aliases, "architecture": card.architecture, "trained_on": card.trained_on,
        "licence": card.licence, "paper": card.paper, "accuracy": accuracy, "sources": sources,
    })
}

fn origins(card: &Card) -> String {
    card.sources.iter().map(describe).collect::<Vec<_>>().join(", ")
}

fn describe(source: &Source) -> String {
    match source {
        Source::Embedded(_) => "embedded".into(),
        Source::Hub { repo, .. } => format!("hf-hub:{repo}"),
        Source::TorchHub { file, .. } => format!("torch hub's cache: {file}"),
        Source::Package { name, version, .. } => format!("package {name} {version}"),
    }
}

/// 1814073344 as `1,814.1 M`.
fn millions(n: u64) -> String {
    let (whole, tenth) = ((n + 50_000) / 1_000_000, (n + 50_000) / 100_000 % 10);
    format!("{}.{tenth} M", thousands(whole as usize))
}

/// 11689512 as `11,689,512`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
