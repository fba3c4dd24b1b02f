//! What a user may set for any strategy: the same names as flags and in `run.toml`.

use serde::{Deserialize, Serialize};

use crate::net::adapt::Placement;
use crate::plan::{BatchNormMode, Choice, ClassWeights, Decay, Mix, Optimizer, Sampler};
use crate::{Error, Result};

/// Update rules by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay
    AdamW,
    /// Stochastic gradient descent with momentum
    Sgd,
}

/// How a head is fitted on frozen features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Logistic regression, to convergence
    Logistic,
    /// Ridge regression, in closed form
    Ridge,
    /// Gradient descent: feature-extraction alone
    Gradient,
}

/// How the channels of a feature map weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelWeights {
    /// By how much a solved head misses them
    Attention,
    /// All the same
    Uniform,
}

/// What a user may set for any strategy; `None` leaves it to the strategy and the domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Passes over the training samples
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Samples a step
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Compute a step's samples in N parts, one after another, and add up their gradients: about 1/N of the memory
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Update rule
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<OptimizerName>,
    /// Decay of weights (biases and normalizations are exempt)
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Momentum of sgd
    #[arg(long, value_name = "X")]
    pub momentum: Option<f64>,
    /// Momentum of sgd looks ahead (Nesterov)
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub nesterov: Option<bool>,
    /// Course of the learning rate after the warm-up
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<Decay>,
    /// Share of the steps spent warming up
    #[arg(long, value_name = "SHARE")]
    pub warmup: Option<f64>,
    /// Largest norm of the gradient; 0 for no bound
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f64>,
    /// Share of the target spread evenly over all classes
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// Mix samples of a batch and their labels, in shares drawn from Beta(X, X) (mixup); 0 for not at all
    #[arg(long, value_name = "X")]
    pub mixup: Option<f64>,
    /// Put a box of one picture of a batch into another, its share of the area drawn from Beta(X, X) (CutMix); 0 for not at
    /// all
    #[arg(long, value_name = "X")]
    pub cutmix: Option<f64>,
    /// Share of the batches that are mixed [default: 1]
    #[arg(long, value_name = "SHARE")]
    pub mix_share: Option<f64>,
    /// Progressive resizing: sizes of views as shares of the model's own, each for an equal part of the epochs, as
    /// `0.5,0.75,1`
    #[arg(long, value_name = "SHARES", value_delimiter = ',')]
    pub view_scales: Option<Vec<f64>>,
    /// How often samples take part in an epoch
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<Sampler>,
    /// Weights of classes in the loss
    #[arg(long, value_name = "NAME")]
    pub class_weights: Option<ClassWeights>,
    /// Stop after this many epochs without a better validation score, and keep the best
    #[arg(long, value_name = "EPOCHS")]
    pub patience: Option<usize>,
    /// Judge and keep a running mean of what learns, with this decay a step, such as 0.99
    #[arg(long, value_name = "DECAY")]
    pub average: Option<f64>,
    /// What batch normalization does in stages that learn
    #[arg(long, value_name = "MODE")]
    pub batch_norm: Option<BatchNormMode>,
    /// Train on random views of the samples
    #[arg(long, num_args = 0, default_missing_value = "true", overrides_with = "no_augment")]
    pub augment: Option<bool>,
    /// Train on plain views of the samples
    #[arg(long, overrides_with = "augment")]
    #[serde(skip)]
    pub no_augment: bool,
    /// Random views computed and kept of a sample, where activations are kept
    #[arg(long, value_name = "N")]
    pub views: Option<usize>,
    /// Strategies that train several stages: factor on the learning rate from each stage to the one before it, counted
    /// from the head
    #[arg(long, value_name = "FACTOR")]
    pub stage_decay: Option<f64>,
    /// Factor on the head's learning rate
    #[arg(long, value_name = "FACTOR")]
    pub head_rate: Option<f64>,
    /// How the head is fitted on frozen features, where it is [default: logistic]
    #[arg(long, value_name = "NAME")]
    pub probe: Option<Probe>,
    /// Penalty of the regression that fits the head: 1 / C of scikit-learn's logistic, alpha of its ridge [default: 1; of
    /// ridge, the one that predicts best what is left out one sample at a time]
    #[arg(long, value_name = "X")]
    pub l2: Option<f64>,
    /// lora: rank of the term beside each weight [default: 8]
    #[arg(long, value_name = "N")]
    pub rank: Option<usize>,
    /// lora: weight of the term, times the rank [default: 16]
    #[arg(long, value_name = "X")]
    pub lora_alpha: Option<f64>,
    /// lora: dropout in front of the term [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub lora_dropout: Option<f64>,
    /// adapter: width of the bottleneck [default: 32]
    #[arg(long, value_name = "N")]
    pub bottleneck: Option<usize>,
    /// adapter: behind each block or beside it [default: sequential]
    #[arg(long, value_name = "PLACE")]
    pub adapter_placement: Option<Placement>,
    /// prefix: how many keys and values each layer gets [default: 8]
    #[arg(long, value_name = "N")]
    pub prefix_length: Option<usize>,
    /// lora, ia3, adapter, prefix: layers to act on, by whole parts of their names: `query,value`, `layer4`, `encoder.layer.5`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub targets: Option<Vec<String>>,
    /// partial: number of stages that learn, counted from the head [default: 2]
    #[arg(long, value_name = "N")]
    pub last_stages: Option<usize>,
    /// gradual-unfreezing: passes over the training samples in each phase before the last
    #[arg(long, value_name = "N")]
    pub stage_epochs: Option<usize>,
    /// wise-ft: share of the fine-tuned weights against those of the start [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub alpha: Option<f64>,
    /// l2-sp, delta, bss, co-tuning: weight of the penalty [defaults: 100, 0.01, 0.001, 2.3]
    #[arg(long, value_name = "X")]
    pub penalty: Option<f64>,
    /// delta: number of stages whose outputs are compared, counted from the head [default: 3]
    #[arg(long, value_name = "N")]
    pub compared_stages: Option<usize>,
    /// delta: how channels weigh [default: attention]
    #[arg(long, value_name = "NAME")]
    pub channel_weights: Option<ChannelWeights>,
    /// bss: number of singular values that are shrunk [default: 1]
    #[arg(long, value_name = "N")]
    pub smallest: Option<usize>,
    /// stoch-norm: probability that a channel is normalized by the running statistics [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub running_share: Option<f64>,
    /// distillation: the model that is imitated: a finished run or a model folder of the same classes
    #[arg(long, value_name = "DIR")]
    pub teacher: Option<String>,
    /// distillation: share of the teacher's answers in the loss against the labels [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub teacher_share: Option<f64>,
    /// distillation: divides the logits of both before the softmax [default: 2]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// distillation: weight of the squared difference of the pooled features [default: 0]
    #[arg(long, value_name = "X")]
    pub teacher_features: Option<f64>,
    /// contrastive-few-shot: partners of its class, and as many others, that a sample meets in an epoch [default: 20, less
    /// for large sets]
    #[arg(long, value_name = "N")]
    pub pairs: Option<usize>,
    /// soup: directories of finished runs, separated by commas
    #[arg(long, value_name = "DIRS", value_delimiter = ',')]
    pub runs: Option<Vec<String>>,
    /// soup: which of the runs go into the mean [default: greedy]
    #[arg(long, value_name = "NAME")]
    pub soup: Option<Choice>,
}

impl Options {
    /// Whether random views are wanted, if the user said so.
    pub fn augmented(&self) -> Option<bool> {
        if self.no_augment { Some(false) } else { self.augment }
    }

    /// These options, completed by those of `below` (a `run.toml`) where they say nothing.
    pub fn over(mut self, below: &Self) -> Self {
        self.augment = self.augmented().or(below.augmented());
        self.no_augment = false;
        macro_rules! complete {
            ($($field:ident),*) => { $(self.$field = self.$field.or_else(|| below.$field.clone());)* };
        }
        complete!(
            accumulate,
            epochs,
            batch_size,
            learning_rate,
            optimizer,
            weight_decay,
            momentum,
            schedule,
            warmup,
            clip_norm
        );
        complete!(nesterov, mixup, cutmix, mix_share, view_scales, average);
        complete!(
            label_smoothing,
            sampler,
            class_weights,
            patience,
            batch_norm,
            views,
            stage_decay,
            head_rate,
            probe,
            l2
        );
        self.targets = self.targets.or_else(|| below.targets.clone());
        complete!(rank, lora_alpha, lora_dropout, bottleneck, adapter_placement, prefix_length);
        complete!(last_stages, stage_epochs, alpha, runs, soup, penalty, compared_stages, channel_weights, smallest);
        complete!(running_share, teacher, teacher_share, temperature, teacher_features, pairs);
        self
    }

    /// Looks for numbers that make no sense.
    ///
    /// # Errors
    /// Naming the first such flag.
    pub fn check(&self) -> Result<()> {
        let at_least_one = [
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("accumulate", self.accumulate),
            ("patience", self.patience),
            ("views", self.views),
            ("rank", self.rank),
            ("bottleneck", self.bottleneck),
            ("prefix-length", self.prefix_length),
            ("last-stages", self.last_stages),
            ("stage-epochs", self.stage_epochs),
            ("compared-stages", self.compared_stages),
            ("smallest", self.smallest),
            ("pairs", self.pairs),
        ];
        for (flag, value) in at_least_one {
            if value == Some(0) {
                return Err(Error::input(format!("--{flag} 0"), "it must be at least 1", "choose a larger number"));
            }
        }
        let positive = f64::MIN_POSITIVE;
        let ranges = [
            ("learning-rate", self.learning_rate, positive, f64::MAX),
            ("weight-decay", self.weight_decay, 0.0, f64::MAX),
            ("momentum", self.momentum, 0.0, 1.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("clip-norm", self.clip_norm, 0.0, f64::MAX),
            ("label-smoothing", self.label_smoothing, 0.0, 1.0),
            ("mixup", self.mixup, 0.0, f64::MAX),
            ("cutmix", self.cutmix, 0.0, f64::MAX),
            ("mix-share", self.mix_share, 0.0, 1.0),
            ("average", self.average, 0.0, 0.99999),
            ("stage-decay", self.stage_decay, positive, 1.0),
            ("head-rate", self.head_rate, 0.0, f64::MAX),
            ("l2", self.l2, positive, f64::MAX),
            ("lora-alpha", self.lora_alpha, positive, f64::MAX),
            ("lora-dropout", self.lora_dropout, 0.0, 0.9),
            ("alpha", self.alpha, 0.0, 1.0),
            ("penalty", self.penalty, 0.0, f64::MAX),
            ("running-share", self.running_share, 0.0, 1.0),
            ("teacher-share", self.teacher_share, 0.0, 1.0),
            ("temperature", self.temperature, positive, f64::MAX),
            ("teacher-features", self.teacher_features, 0.0, f64::MAX),
        ];
        for (flag, value, low, high) in ranges {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                let from = if low == 0.0 { "at least 0" } else { "above 0" };
                let to = if high == f64::MAX { String::new() } else { format!(" and at most {high}") };
                return Err(Error::input(
                    format!("--{flag} {value}"),
                    format!("it must be {from}{to}"),
                    "choose another",
                ));
            }
        }
        if let Some(scale) = self.view_scales.iter().flatten().find(|scale| !(0.1..=1.0).contains(*scale)) {
            let reason = format!("{scale} is not from 0.1 to 1");
            return Err(Error::input("--view-scales", reason, "give shares such as 0.5,0.75,1"));
        }
        if let Some(name) = self.targets.iter().flatten().find(|name| name.split('.').any(str::is_empty)) {
            let reason = "a layer's name has no empty parts";
            return Err(Error::input(format!("--targets {name:?}"), reason, "give names such as query,value"));
        }
        Ok(())
    }

    /// How samples of a batch are mixed, if they are.
    pub fn mix(&self) -> Option<Mix> {
        let (mixup, cutmix) = (self.mixup.unwrap_or(0.0), self.cutmix.unwrap_or(0.0));
        let probability = self.mix_share.unwrap_or(1.0);
        (mixup + cutmix > 0.0 && probability > 0.0).then_some(Mix { mixup, cutmix, probability })
    }

    /// `recipe`'s update rule with what the user changed.
    pub(super) fn optimizer(&self, recipe: Optimizer) -> Optimizer {
        let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 };
        let mut chosen = match (self.optimizer, recipe) {
            (Some(OptimizerName::AdamW), Optimizer::Sgd { .. }) => adamw,
            (Some(OptimizerName::Sgd), Optimizer::AdamW { .. }) => sgd,
            _ => recipe,
        };
        match &mut chosen {
            Optimizer::AdamW { weight_decay, .. } => *weight_decay = self.weight_decay.unwrap_or(*weight_decay),
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                *nesterov = self.nesterov.unwrap_or(*nesterov);
                *weight_decay = self.weight_decay.unwrap_or(*weight_decay);
                *momentum = self.momentum.unwrap_or(*momentum);
            }
        }
        chosen
    }
}
