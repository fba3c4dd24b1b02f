//! What a strategy asks the trainer to do, as plain data: phases with all their settings, printable and serializable.

mod display;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::net::adapt::Adapter;
use crate::net::{Network, ParamSpec, Role};
use crate::task::Kind;

/// The list of phases that a strategy turns into for one backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the strategy it came from.
    pub strategy: String,
    /// Where the parameters start.
    pub start: Start,
    /// What is put into the backbone before the first phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<Adapter>,
    /// In order; each continues with what the one before left.
    pub phases: Vec<Phase>,
}

/// Where the backbone's parameters start. The head always starts fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// From the pre-trained checkpoint.
    Pretrained,
    /// From random numbers.
    Random,
}

/// A stretch of work with one setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)] // A plan has a handful of them.
pub enum Phase {
    /// Gradient descent.
    Train(Train),
    /// A closed-form or convex solution for the head on fixed features.
    Solve(Solve),
    /// A mixture of weights.
    Combine(Combine),
}

/// Gradient descent on some parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// What to call the phase.
    pub name: String,
    /// Number of leading stages whose output is computed once and kept: nothing in them learns or is random.
    pub boundary: usize,
    /// Which parameters learn, and how fast relative to the peak rate; the first rule that matches decides.
    pub learn: Vec<Rule>,
    /// Batch normalization in the stages behind the boundary.
    pub batch_norm: BatchNormMode,
    /// Passes over the training samples.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Parts that a step's batch is computed in, one after another, their gradients added up: less memory for the same step, but
    /// for what is taken over a whole batch (batch statistics) or drawn (dropout).
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub accumulate: usize,
    /// How often samples take part.
    #[serde(default, skip_serializing_if = "Sampler::is_default")]
    pub sampler: Sampler,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: Schedule,
    /// Largest norm of the gradient of all learning parameters together; larger ones are scaled down.
    pub clip_norm: Option<f64>,
    /// The loss.
    pub objective: Objective,
    /// Random views instead of plain ones.
    pub augment: bool,
    /// With a boundary and `augment`: how many random views of a sample are computed and kept.
    pub views: usize,
    /// Stop after this many epochs without a better validation score, and keep the best.
    pub patience: Option<usize>,
    /// Decay a step of the running mean of what learns, which is what is judged and kept ([`crate::train`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// Learn from pairs of samples in place of single ones: no head takes part, and no epoch is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Pairs>,
    /// A model whose answers are imitated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// What else is minimized.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub penalties: Vec<Penalty>,
    /// Samples are mixed with others of their batch, and so are their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Progressive resizing: the size of views as a share of the usual one, each for an equal part of the epochs; empty
    /// for the usual one throughout. Only where all stages are computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<f64>,
}

fn whole() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks.
fn is_whole(parts: &usize) -> bool {
    *parts == 1
}

/// How often samples take part in an epoch, which has as many draws as there are samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Each once
    #[default]
    Each,
    /// Every class equally often: samples of rare classes several times, those of frequent ones by turns
    Balanced,
}

impl Sampler {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How samples of a batch are mixed. With both kinds, each batch takes one of them, either as likely.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// mixup (Zhang et al. 2018): λ x + (1 - λ) x', λ from Beta(α, α) with this α; 0 for none.
    pub mixup: f64,
    /// CutMix (Yun et al. 2019): a box of x' in the place of that of x, its share of the area 1 - λ; α as above.
    pub cutmix: f64,
    /// Share of the batches that are mixed.
    pub probability: f64,
}

/// Pairs of samples: the cosine of their pooled features is to be 1 within a class and 0 between classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairs {
    /// In an epoch, every sample meets this many others of its class and this many of other classes.
    pub per_sample: usize,
}

/// A trained model of the same classes, whose answers are imitated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// A run directory or model folder.
    pub model: String,
    /// Share of its answers in the loss against the labels.
    pub share: f64,
    /// Divides the logits of both before the softmax.
    pub temperature: f64,
    /// Weight of the squared difference of the pooled features.
    pub features: f64,
}

/// What is minimized beside the objective; with weight 0 it is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Penalty {
    /// ½ weight ‖w - w⁰‖² of the backbone, w⁰ being the start (Li et al. 2018, equation 2), beside the update rule: after
    /// each step at rate η, w ← w⁰ + (w - w⁰) / (1 + η weight). It replaces weight decay there.
    StartWeights {
        /// Its weight.
        weight: f64,
    },
    /// The distance of feature maps from those of the start, channel by channel (Li et al. 2019).
    StartFeatures {
        /// Its weight.
        weight: f64,
        /// The stages whose outputs are compared.
        stages: Vec<String>,
        /// Channels weigh by how much a solved head misses them; otherwise all the same.
        attention: bool,
    },
    /// The squares of the smallest singular values of a batch's pooled features (Chen et al. 2019).
    SingularValues {
        /// Its weight.
        weight: f64,
        /// How many.
        smallest: usize,
    },
    /// Cross-entropy of the source head, which learns on, against the source labels that a sample's class stands for (You
    /// et al. 2020).
    SourceLabels {
        /// Its weight.
        weight: f64,
    },
}

impl Penalty {
    /// Its weight.
    pub fn weight(&self) -> f64 {
        match self {
            Self::StartWeights { weight }
            | Self::StartFeatures { weight, .. }
            | Self::SingularValues { weight, .. }
            | Self::SourceLabels { weight } => *weight,
        }
    }
}

/// Which parameters a rule speaks of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A stage's name, or `head`.
    pub stage: String,
    /// Only these roles; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleName>,
    /// Factor on the learning rate.
    pub rate: f64,
}

/// The roles that can be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleName {
    /// Matrices, kernels and tables.
    Weight,
    /// Additive terms, of normalizations too.
    Bias,
    /// Factors and additive terms of normalizations.
    Norm,
    /// What adapters have put into the network.
    Adapter,
}

impl RoleName {
    /// Whether it covers `role`.
    pub fn covers(self, role: Role) -> bool {
        match self {
            Self::Weight => matches!(role, Role::Weight | Role::Table),
            Self::Bias => matches!(role, Role::Bias | Role::Shift),
            Self::Norm => matches!(role, Role::Scale | Role::Shift),
            Self::Adapter => role == Role::Adapter,
        }
    }
}

/// What batch normalization does in stages that learn. In frozen stages it always uses the running statistics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNormMode {
    /// Normalizes with the batch's statistics and updates the running ones.
    Update,
    /// Normalizes with the running statistics and leaves them.
    Frozen,
    /// Normalizes each channel with the batch's statistics or, at random, with the running ones, and updates these (Kou et
    /// al. 2020, *Stochastic Normalization*).
    #[value(skip)]
    Stochastic {
        /// Probability of the running ones.
        running: f64,
    },
}

/// Update rules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Decoupled decay of weights and tables (biases and normalizations are exempt).
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum (Sutskever et al. 2013, PyTorch's form).
    Sgd {
        /// Weight of the running direction.
        momentum: f64,
        /// Looks ahead along it.
        nesterov: bool,
        /// L2 term added to the gradient of weights and tables.
        weight_decay: f64,
    },
}

/// The course of the learning rate: a linear warm-up to the peak, then a decay to zero at the phase's end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Share of all steps spent warming up.
    pub warmup: f64,
    /// What follows.
    pub decay: Decay,
}

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Not at all.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
    /// Up from 1/25 of the peak along half a cosine in place of a line, then down along another; the momentum takes the
    /// opposite course (Smith & Topin 2018).
    OneCycle,
    /// Upwards to the peak, exponentially, through so many powers of ten: the range test (Smith 2017).
    #[value(skip)]
    Rising {
        /// Between the first step and the last.
        decades: u32,
    },
}

/// The loss: cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// Weight samples against the frequency of their class.
    pub class_weights: ClassWeights,
}

/// Weights of classes in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// All 1.
    None,
    /// samples / (classes × samples of the class), as scikit-learn's "balanced".
    Balanced,
}

/// A linear head on the pooled features that has one best answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solve {
    /// What to call the phase.
    pub name: String,
    /// What is best.
    pub method: Method,
    /// The loss, where the method has one.
    pub objective: Objective,
    /// Random views of each sample to fit on besides the plain one; 0 for none.
    pub views: usize,
}

/// How a head is solved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Multinomial logistic regression, to convergence: convex, so that nothing but the penalty needs choosing.
    Logistic {
        /// Weight of ½‖W‖² against the summed loss (1 / C of scikit-learn and LIBLINEAR).
        l2: f64,
    },
    /// Ridge regression of the classes, 1 against -1, in closed form ([`crate::train::ridge`]). Its loss is the squared error.
    Ridge {
        /// Weight of ‖W‖² against the summed squares; `None` for the one that predicts best what is left out one sample at
        /// a time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        l2: Option<f64>,
    },
    /// The nearest class mean in Euclidean distance (Snell et al. 2017, equation 8): -‖x - μ‖² is linear in x but for a
    /// term that all classes share.
    Prototypes,
}

/// A mixture of weights that are there already: nothing is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combine {
    /// What to call the phase.
    pub name: String,
    /// Of what, in which shares.
    pub mixture: Mixture,
}

/// What a [`Combine`] makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Mixture {
    /// (1 - alpha) × earlier + alpha × present, for every parameter and running statistic (Wortsman et al. 2022,
    /// *Robust fine-tuning of zero-shot models*, equation 1).
    Earlier {
        /// The earlier ones: as they were when this many phases were complete; 0 for the start.
        phases: usize,
        /// Share of the present ones.
        alpha: f64,
    },
    /// The mean of finished runs of the same network (Wortsman et al. 2022, *Model soups*).
    Runs {
        /// Their directories.
        runs: Vec<String>,
        /// Which of them.
        choice: Choice,
    },
}

/// Which runs go into a mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// All of them.
    Uniform,
    /// From the best on, each that does not lower the validation accuracy of the mean so far.
    Greedy,
}

impl Phase {
    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Train(train) => &train.name,
            Self::Solve(solve) => &solve.name,
            Self::Combine(combine) => &combine.name,
        }
    }

    /// Number of leading stages of a network of `stages` that it leaves alone.
    pub fn boundary(&self, stages: usize) -> usize {
        match self {
            Self::Train(train) => train.boundary,
            Self::Solve(_) => stages,
            Self::Combine(_) => 0,
        }
    }
}

impl Plan {
    /// After how many phases parameters are to be kept, because a later phase goes back to them.
    pub fn earlier(&self) -> BTreeSet<usize> {
        let kept = |phase: &Phase| match phase {
            Phase::Combine(Combine { mixture: Mixture::Earlier { phases, .. }, .. }) => Some(*phases),
            _ => None,
        };
        self.phases.iter().filter_map(kept).collect()
    }

    /// Whether some phase goes back to where the plan started from.
    pub fn looks_back(&self) -> bool {
        let penalties = self.trains().flat_map(|train| &train.penalties);
        !self.earlier().is_empty() || penalties.into_iter().any(|p| !matches!(p, Penalty::SingularValues { .. }))
    }

    /// The phases of gradient descent.
    pub fn trains(&self) -> impl Iterator<Item = &Train> {
        self.phases.iter().filter_map(|phase| if let Phase::Train(train) = phase { Some(train) } else { None })
    }

    /// The models that are imitated.
    pub fn teachers(&self) -> BTreeSet<&str> {
        self.trains().filter_map(|train| Some(train.teacher.as_ref()?.model.as_str())).collect()
    }

    /// Whether some phase needs the head that the checkpoint came with.
    pub fn needs_source_head(&self) -> bool {
        self.trains().flat_map(|train| &train.penalties).any(|p| matches!(p, Penalty::SourceLabels { .. }))
    }

    /// The finished runs that it mixes.
    pub fn runs(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for phase in &self.phases {
            if let Phase::Combine(Combine { mixture: Mixture::Runs { runs, .. }, .. }) = phase {
                found.extend(runs.iter().map(String::as_str));
            }
        }
        found
    }
}

impl Train {
    /// The parameters of `network` that learn, with the factor on their learning rate.
    pub fn learning<'n>(&self, network: &'n Network) -> Vec<(ParamSpec, f64, &'n str)> {
        let stages = network.stages.iter().chain([&network.head]);
        let mut found = Vec::new();
        for (i, stage) in stages.enumerate() {
            if i < self.boundary {
                continue;
            }
            let name = if i == network.stages.len() { "head" } else { stage.name.as_str() };
            for spec in stage.params().into_iter().filter(|spec| spec.role != Role::Buffer) {
                let covers = |rule: &&Rule| {
                    rule.stage == name && (rule.roles.is_empty() || rule.roles.iter().any(|r| r.covers(spec.role)))
                };
                if let Some(rule) = self.learn.iter().find(covers).filter(|rule| rule.rate > 0.0) {
                    found.push((spec, rule.rate, name));
                }
            }
        }
        found
    }

    /// The size of views in epoch `epoch`, counted from 0, as a share of the usual one.
    pub fn scale(&self, epoch: usize) -> f64 {
        let place = epoch * self.scales.len() / self.epochs.max(1);
        self.scales.get(place).or(self.scales.last()).copied().unwrap_or(1.0)
    }

    /// What samples of a batch are compared in, on a task of `kind`, so that a batch has no parts; `None` where each is learned from
    /// alone.
    pub fn looks_across(&self, kind: Kind) -> Option<&'static str> {
        let singular = |p: &Penalty| matches!(p, Penalty::SingularValues { weight, .. } if *weight > 0.0);
        match kind {
            Kind::Matches => Some("other couples of the batch"),
            _ if self.pairs.is_some() => Some("pairs of samples"),
            _ if self.penalties.iter().any(singular) => Some("singular values of the batch's features"),
            _ => None,
        }
    }

    /// Steps that it takes over `samples` samples, if none is unreadable and every class has several.
    pub fn steps(&self, samples: usize) -> usize {
        let batches = match self.pairs {
            // A sample's partners of its own class and of others.
            Some(Pairs { per_sample }) => (2 * per_sample * samples).div_ceil((self.batch_size / 2).max(1)),
            None => samples.div_ceil(self.batch_size.max(1)),
        };
        self.epochs * batches
    }

    /// Names of the stages (and `head`) in which something learns.
    pub fn learning_stages<'n>(&self, network: &'n Network) -> BTreeSet<&'n str> {
        self.learning(network).into_iter().map(|(_, _, stage)| stage).collect()
    }
}
