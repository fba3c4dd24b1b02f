//! `models list|show|fetch`: the pre-trained models known by name.

use serde_json::json;

use super::{Common, Console, json, print_line};
use crate::domain::Domain;
use crate::source::{Card, Source};
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
        Action::List => list(D::cards(), common.json),
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
            let rows = rows.unwrap_or(if opened.network.input.len() > 1 { 1 } else { 128 });
            let costs = opened.network.costs(rows);
            if common.json {
                return print_line(&json(&json!({
                    "model": model, "architecture": opened.network.name, "parameters": opened.network.parameters(),
                    "stages": costs, "classes": opened.classes,
                }))?);
            }
            let for_rows = if rows > 1 { format!(", {rows} rows a sample") } else { String::new() };
            print_line(&format!("{} ({}{for_rows})", model, opened.network.name))?;
            print_line(&format!("{:<20} {:>18} {:>14} {:>14}", "stage", "output", "parameters", "multiply-adds"))?;
            for cost in &costs {
                let output = cost.output.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
                let operations = format!("{:.1} M", cost.multiply_adds as f64 / 1e6);
                print_line(&format!(
                    "{:<20} {output:>18} {:>14} {operations:>14}",
                    cost.stage,
                    thousands(cost.parameters)
                ))?;
            }
            let total: u64 = costs.iter().map(|c| c.multiply_adds).sum();
            let operations = format!("{:.1} M", total as f64 / 1e6);
            print_line(&format!(
                "{:<20} {:>18} {:>14} {operations:>14}",
                "all",
                "",
                thousands(opened.network.parameters())
            ))
        }
    }
}

fn list(cards: &[Card], as_json: bool) -> Result<()> {
    for card in cards {
        let sources: Vec<String> = card.sources.iter().map(describe).collect();
        print_line(&if as_json {
            json!({
                "name": card.name, "aliases": card.aliases, "architecture": card.architecture,
                "trained_on": card.trained_on, "licence": card.licence, "paper": card.paper, "sources": sources,
            })
            .to_string()
        } else {
            format!("{:<22} {:<32} {:<14} {}", card.name, card.trained_on, card.licence, sources.join(", "))
        })?;
    }
    Ok(())
}

fn describe(source: &Source) -> String {
    match source {
        Source::Embedded(_) => "embedded".into(),
        Source::Hub { repo, .. } => format!("hf-hub:{repo}"),
        Source::Package { name, version, .. } => format!("package {name} {version}"),
    }
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
