//! Which settings each strategy chooses from when all are compared, and what it needs.
//!
//! A grid is small, because every candidate costs as much as the final run: rates a factor of three to five apart, around
//! the strategy's default. All candidates of a strategy see the same number of samples.

use topwork_core::plan::BatchNormMode;
use topwork_core::strategy::{self, ChannelWeights, Options};

use super::grid::{Aid, Budget, Entry};

/// Kinds of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For `topwork-cv`.
    Photos,
    /// For `topwork-nlp`.
    Sentences,
}

/// A number of labels and a length of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Labelled samples of each class.
    pub per_class: usize,
    /// Passes over them.
    pub epochs: usize,
}

/// Parameters that are few and start at nothing learn for longer.
const ADAPTERS_LONGER: usize = 2;
/// Samples in a step; fewer where there are fewer than a hundred.
const BATCH: (usize, usize) = (8, 16);

/// Two rates.
type Pair = [f64; 2];

/// Rates to choose from, by strategy: for photos, for sentences.
const RATES: [(&[&str], Pair, Pair); 7] = [
    // A head that is solved first bears no large steps.
    (&["lp-ft", "wise-ft", "soup"], [3e-5, 2e-4], [2e-5, 1e-4]),
    (&["contrastive-few-shot"], [1e-4, 4e-4], [2e-5, 1e-4]),
    (&["from-scratch"], [1e-3, 4e-3], [2e-4, 1e-3]),
    (&["bitfit", "norm-only", "lora", "adapter"], [1e-3, 4e-3], [5e-4, 2e-3]),
    (&["ia3"], [5e-3, 2e-2], [2e-3, 1e-2]),
    (&["prefix"], [5e-3, 2e-2], [5e-3, 2e-2]),
    // All others.
    (&[], [1e-4, 4e-4], [5e-5, 2e-4]),
];

fn rates(kind: Kind, strategy: &str) -> Pair {
    let found = RATES.iter().find(|(names, ..)| names.is_empty() || names.contains(&strategy));
    let (_, photos, sentences) = found.unwrap_or(&RATES[RATES.len() - 1]);
    if kind == Kind::Photos { *photos } else { *sentences }
}

/// What `strategy` chooses from on `classes` × `length.per_class` samples.
fn grid(kind: Kind, strategy: &str, length: Length, classes: usize) -> Vec<Options> {
    let labels = classes * length.per_class;
    let photos = kind == Kind::Photos;
    if strategy == "prototypes" {
        return vec![Options::default()];
    }
    if strategy == "feature-extraction" {
        return [0.1, 1.0].map(|l2| Options { l2: Some(l2), ..Options::default() }).to_vec();
    }
    let fresh_head = !matches!(
        strategy,
        "lp-ft" | "wise-ft" | "soup" | "contrastive-few-shot" | "from-scratch" | "bitfit" | "norm-only"
    );
    let adapter = matches!(strategy, "lora" | "adapter" | "ia3" | "prefix" | "bitfit" | "norm-only");
    let base = Options {
        epochs: Some(length.epochs * if adapter { ADAPTERS_LONGER } else { 1 }),
        batch_size: Some(if labels < 100 { BATCH.0 } else { BATCH.1 }),
        augment: photos.then_some(false),
        // A head from random numbers has to get somewhere in the steps that there are.
        head_rate: (fresh_head && !adapter).then_some(10.0),
        // In so few steps, running statistics that are updated do not reach those of the batches.
        batch_norm: (photos && !matches!(strategy, "from-scratch" | "stoch-norm")).then_some(BatchNormMode::Frozen),
        ..Options::default()
    };
    let base = match strategy {
        "gradual-unfreezing" => Options { stage_epochs: Some(1), ..base },
        // A sample meets p of its class and p others, each time with its partner: 4 p passes.
        "contrastive-few-shot" => Options { epochs: Some(1), pairs: Some((length.epochs / 4).clamp(1, 20)), ..base },
        // Judging the channels of an encoder takes longer than training on so few samples.
        "delta" if !photos => Options { channel_weights: Some(ChannelWeights::Uniform), ..base },
        _ => base,
    };
    let grid = rates(kind, strategy).map(|rate| Options { learning_rate: Some(rate), ..base.clone() });
    let mut grid = grid.to_vec();
    let last = grid.last().cloned().unwrap_or_default();
    match strategy {
        "l2-sp" => grid.push(Options { penalty: Some(10.0), ..last }),
        "delta" => {
            // What its authors' code amounts to, and what its default is.
            grid.iter_mut().for_each(|options| options.penalty = Some(0.64));
            grid.push(Options { penalty: Some(0.01), ..last });
        }
        "norm-only" if photos => grid.push(Options { batch_norm: Some(BatchNormMode::Update), ..last }),
        _ => {}
    }
    grid
}

/// The strategies called `names`, or all, on a data set with these lengths.
pub fn entries(
    kind: Kind,
    model: &str,
    lengths: &[Length],
    classes: usize,
    seeds: u64,
    names: Option<&[String]>,
) -> Vec<Entry> {
    let wanted = |name: &str| names.is_none_or(|names| names.iter().any(|wanted| wanted == name));
    let strategies = strategy::all().iter().map(|strategy| strategy.name()).filter(|name| wanted(name));
    let entry = |strategy: &'static str| {
        let (follows, aid) = match strategy {
            "distillation" => (Some("fine-tuning"), Some(Aid::Teacher)),
            "soup" => (Some("lp-ft"), Some(Aid::Members)),
            _ => (None, None),
        };
        let budget = |length: &Length| Budget {
            labels: classes * length.per_class,
            seeds,
            grid: grid(kind, follows.unwrap_or(strategy), *length, classes),
        };
        let budgets = lengths.iter().map(budget).collect();
        Entry { strategy, pretrained: strategy != "from-scratch", model: model.into(), follows, aid, budgets }
    };
    strategies.map(entry).collect()
}

/// What a strategy needs beside a backbone and labels.
pub fn needs(strategy: &str) -> &'static str {
    match strategy {
        "from-scratch" => "no backbone",
        "feature-extraction" | "prototypes" => "a forward pass",
        "partial" => "kept activations at the boundary",
        "gradual-unfreezing" => "kept activations at every boundary",
        "l2-sp" => "a copy of the weights",
        "delta" => "a second forward pass a step",
        "co-tuning" => "the head that the checkpoint came with",
        "stoch-norm" => "batch normalization",
        "distillation" => "a teacher; here the fine-tuned run of the same labels, counted",
        "soup" => "several runs; here three of lp-ft at 0.5, 1 and 2 times its rate, counted",
        "wise-ft" => "a copy of the weights at the start",
        "prefix" => "attention",
        "lora" | "adapter" | "ia3" => "one base for many tasks, or none",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [Length; 1] = [Length { per_class: 8, epochs: 20 }];

    #[test]
    fn every_strategy_has_settings_to_choose_from_that_are_in_order() {
        for kind in [Kind::Photos, Kind::Sentences] {
            let entries = entries(kind, "m", &LENGTHS, 2, 5, None);
            assert_eq!(entries.len(), strategy::all().len());
            for entry in entries {
                let grid = &entry.budgets[0].grid;
                assert!(grid.len() > 1 || entry.strategy == "prototypes", "{}", entry.strategy);
                for (i, options) in grid.iter().enumerate() {
                    options.check().unwrap();
                    assert!(!grid[..i].contains(options), "{}: twice the same", entry.strategy);
                }
            }
        }
    }

    #[test]
    fn followers_take_over_the_settings_of_whom_they_follow() {
        let names = ["lp-ft", "soup"].map(String::from);
        let entries = entries(Kind::Sentences, "m", &LENGTHS, 2, 1, Some(&names));
        assert_eq!((entries.len(), entries[1].follows), (2, Some("lp-ft")));
        assert_eq!(entries[0].budgets, entries[1].budgets);
    }
}
