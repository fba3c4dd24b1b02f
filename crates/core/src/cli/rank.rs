//! `rank`: pre-trained models in the order of what their features are worth for labelled data.

use super::{Common, Console, print_line};
use crate::domain::Domain;
use crate::rank::{Rank, Ranked, Ranking};
use crate::transferability::Score;
use crate::{Error, Result};

#[derive(clap::Args)]
pub(super) struct RankArgs<D: Domain> {
    #[command(flatten)]
    rank: Rank<D>,
}

pub(super) fn run<D: Domain>(args: RankArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let rank = Rank { machine: common.machine(args.rank.machine), ..args.rank };
    let ranking = rank.run(&console)?;
    if common.json {
        print_line(&super::json(&ranking)?)?;
    } else {
        table::<D>(&ranking)?;
    }
    if ranking.failed.is_empty() {
        return Ok(());
    }
    let reason = format!("{} of {} models could not be opened", ranking.failed.len(), rank.models.len());
    Err(Error::input("--models", reason, "the others are ranked; correct the names or paths of these"))
}

fn table<D: Domain>(ranking: &Ranking) -> Result<()> {
    let names = ranking.models.iter().map(|ranked| &ranked.model).chain(ranking.failed.iter().map(|f| &f.model));
    let wide = names.map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let titles = Score::ALL.map(|score| format!("{:>9}", score.title())).join(" ");
    print_line(&format!("{:<wide$} {titles} {:>10} {:>9}", "model", "features s", "scores s"))?;
    for ranked in &ranking.models {
        let values = Score::ALL.map(|score| value(ranked, score)).join(" ");
        let (features, scores) = (ranked.feature_seconds, ranked.score_seconds);
        print_line(&format!("{:<wide$} {values} {features:>10.2} {scores:>9.2}", ranked.model))?;
    }
    for failed in &ranking.failed {
        let reason: Vec<&str> = failed.error.lines().map(str::trim).collect();
        print_line(&format!("{:<wide$} cannot be opened: {}", failed.model, reason.join("; ").replace(":;", ":")))?;
    }
    let Some(first) = ranking.models.first() else { return Ok(()) };
    print_line(&format!(
        "{} training {} of {} classes; best first by {}; larger is better in every column",
        first.samples,
        D::ITEM.1,
        first.classes,
        ranking.by.title()
    ))?;
    if ranking.models.iter().any(|ranked| ranked.source_classes.is_none()) {
        print_line("–: LEEP and NCE need the head that a model was trained with")?;
    }
    Ok(())
}

fn value(ranked: &Ranked, score: Score) -> String {
    ranked.scores.values.get(&score).map_or_else(|| format!("{:>9}", "–"), |value| format!("{value:>9.4}"))
}
