//! What a phase of descent has beside its samples and labels: a teacher, source labels, the start to stay near to.
//! Prepared once when a phase begins (or goes on), it turns into the terms of each batch's loss.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::feed::{Batches, Fixed, Input, Split};
use super::terms::{
    BinaryCrossEntropy, CosinePairs, CrossEntropy, InBatchNegatives, Mimicry, RowLabels, SingularValues, SoftLabels,
    SpanEnds, SquaredError, StartFeatures, Term,
};
use super::{Optimizer, Run};
use crate::cache::ViewSeed;
use crate::data::Targets;
use crate::net::frozen::Frozen;
use crate::net::params::Init;
use crate::net::{ParamSpec, Role, Stage};
use crate::plan::{Penalty, Train};
use crate::task::Kind;
use crate::{Error, Result};

/// Prefix of the linear layer that brings features to the width of the teacher's.
const REGRESSOR: &str = "regressor";
/// Prefix of the source head.
const SOURCE: &str = "source-head";

/// The numbers of outputs, each with the attention of its channels.
type Compared = Vec<(usize, Vec<f32>)>;

/// A phase's companions, ready.
pub(super) struct Guides {
    /// Number of the output that holds the pooled features, and of the last one.
    features: usize,
    last: usize,
    /// What the outputs of the head are, and where they are.
    kind: Kind,
    device: Device,
    class_weights: Option<Vec<f32>>,
    teacher: Option<Tutor>,
    /// Outputs to compare with the start's, by penalty.
    compared: Vec<(f64, Compared)>,
    /// ln p(source label | class), and the weight.
    relations: Option<(Tensor, f64)>,
}

/// A teacher, ready to answer.
struct Tutor {
    split: Split,
    head: Frozen,
    regresses: bool,
}

/// What a teacher says of a batch.
pub(super) struct Answer {
    features: Tensor,
    logits: Tensor,
}

/// What is told of a batch beside its samples.
pub(super) struct Told {
    /// The teacher's answer.
    pub answer: Option<Answer>,
    /// Of pairs, their rows.
    pub pairs: Vec<(u32, u32)>,
    /// Of a mixed batch, the other class of each sample and the share of the first.
    pub mixed: Option<(Vec<u32>, f64)>,
}

impl Told {
    /// The same of the samples of `range`. Pairs have no parts.
    pub fn part(&self, range: Range<usize>) -> Result<Self> {
        let rows = |tensor: &Tensor| tensor.narrow(0, range.start, range.len());
        let answer = match &self.answer {
            Some(answer) => Some(Answer { features: rows(&answer.features)?, logits: rows(&answer.logits)? }),
            None => None,
        };
        let mixed = self.mixed.as_ref().map(|(others, share)| (others[range.clone()].to_vec(), *share));
        Ok(Self { answer, pairs: Vec::new(), mixed })
    }
}

/// A parameter beside the network, and where it starts.
pub(super) type Auxiliary = Vec<(ParamSpec, Tensor)>;

impl Run<'_> {
    /// Prepares the companions of `phase`.
    pub(super) fn guides(&mut self, phase: &Train) -> Result<Guides> {
        let network = &self.job.network;
        let features = network.stages.len() - phase.boundary.min(network.stages.len());
        let (mut compared, mut relations) = (Vec::new(), None);
        for penalty in phase.penalties.iter().filter(|penalty| penalty.weight() > 0.0) {
            match penalty {
                Penalty::StartFeatures { weight, stages, attention } => {
                    compared.push((*weight, self.compared(phase, stages, *attention)?));
                }
                Penalty::SourceLabels { weight } => relations = Some((self.relations()?, *weight)),
                Penalty::StartWeights { .. } | Penalty::SingularValues { .. } => {}
            }
        }
        let teacher = match &phase.teacher {
            Some(teacher) if teacher.share > 0.0 || teacher.features > 0.0 => Some(self.tutor(phase, &teacher.model)?),
            _ => None,
        };
        let class_weights = self.class_weights(phase.objective.class_weights);
        let (kind, device) = (self.job.task.kind, self.job.device.device.clone());
        Ok(Guides { features, last: features + 1, kind, device, class_weights, teacher, compared, relations })
    }

    /// The numbers of the outputs of `stages` that lie behind the boundary, with the attention of their channels.
    fn compared(&mut self, phase: &Train, stages: &[String], attention: bool) -> Result<Compared> {
        let network = self.job.network;
        let costs = network.costs(1);
        let mut found = Vec::new();
        for name in stages {
            let missing =
                || Error::input(format!("stage {name}"), "the network has none of this name", "correct the plan");
            let at = network.stage(name).ok_or_else(missing)?;
            if at >= phase.boundary {
                found.push(at);
            }
        }
        found.sort_unstable();
        found.dedup();
        let channels = |at: usize| costs[at].output.last().copied().unwrap_or(1);
        let weights = match attention {
            true => self.channel_attention(&found)?,
            false => found.iter().map(|&at| vec![1.0 / channels(at) as f32; channels(at)]).collect(),
        };
        Ok(found.into_iter().map(|at| at + 1 - phase.boundary).zip(weights).collect())
    }

    fn tutor(&mut self, phase: &Train, model: &str) -> Result<Tutor> {
        let job = self.job;
        let missing = || Error::input(model, "this model was not opened", "name it in the plan");
        let teacher = job.companions.teachers.get(model).ok_or_else(missing)?;
        let stages: Vec<&Stage> = teacher.network.stages.iter().collect();
        let fixed = Fixed {
            stages: &stages,
            params: &teacher.params,
            dataset: teacher.train.clone(),
            fingerprint: &teacher.fingerprint,
        };
        // The teacher sees what the student sees (Beyer et al. 2022, "consistent teaching"): fresh views where those are.
        let fresh = phase.augment && phase.boundary == 0;
        let views = if fresh { Vec::new() } else { self.views(phase) };
        let split = Split::of(self, "teacher", &fixed, views, false)?;
        let head = Frozen::compile(&[&teacher.network.head], &teacher.params, job.device)?;
        Ok(Tutor { split, head, regresses: teacher.network.features() != job.network.features() })
    }

    /// Parameters beside the network that learn in `phase`, with where they start.
    pub(super) fn auxiliary(&self, phase: &Train, guides: &Guides) -> Result<Auxiliary> {
        let job = self.job;
        let mut found = Vec::new();
        if let (Some(tutor), Some(plan)) = (&guides.teacher, &phase.teacher)
            && (tutor.regresses && plan.features > 0.0)
            && let Some(teacher) = job.companions.teachers.get(&plan.model)
        {
            let (inputs, outputs) = (job.network.features(), teacher.network.features());
            let init = Init::Normal((1.0 / inputs as f64).sqrt());
            for (part, shape, role, init) in [
                ("weight", vec![outputs, inputs], Role::Weight, init),
                ("bias", vec![outputs], Role::Bias, Init::Constant(0.0)),
            ] {
                let spec = ParamSpec { name: format!("{REGRESSOR}.{part}"), shape, role, init };
                let value = spec.initial(job.seed.named("initial"), job.device)?;
                found.push((spec, value));
            }
        }
        if let (Some(_), Some((weight, bias))) = (&guides.relations, &job.companions.source_head) {
            for (part, value, role) in [("weight", weight, Role::Weight), ("bias", bias, Role::Bias)] {
                let (name, shape) = (format!("{SOURCE}.{part}"), value.dims().to_vec());
                found.push((ParamSpec { name, shape, role, init: Init::Constant(0.0) }, value.clone()));
            }
        }
        Ok(found)
    }

    /// Ties the backbone to its start, where `phase` says so.
    pub(super) fn anchor(&self, phase: &Train, optimizer: &mut Optimizer) -> Result<()> {
        for penalty in &phase.penalties {
            if let Penalty::StartWeights { weight } = penalty
                && *weight > 0.0
            {
                for (spec, _, _) in
                    phase.learning(self.job.network).into_iter().filter(|(_, _, stage)| *stage != "head")
                {
                    optimizer.pull(&spec.name, self.start.get(&spec.name)?, *weight);
                }
            }
        }
        Ok(())
    }
}

impl Guides {
    /// The teacher's batches, beside those of the student.
    pub fn answers(
        &self,
        batches: Vec<Vec<usize>>,
        view: usize,
        fresh: ViewSeed,
        threads: usize,
    ) -> Option<Batches<'_>> {
        self.teacher.as_ref().map(|teacher| teacher.split.batches(batches, view, fresh, threads))
    }

    /// What the teacher says of the batch whose student's side is `input`.
    pub fn answer(
        &self,
        run: &mut Run<'_>,
        batches: Option<&mut Batches<'_>>,
        input: Option<&Input>,
    ) -> Result<Option<Answer>> {
        let (Some(teacher), Some(batches)) = (&self.teacher, batches) else { return Ok(None) };
        let own = batches.next(run)?.flatten();
        let Some(input) = input else { return Ok(None) };
        let unread = || {
            let name = input.indices.first().map_or_else(String::new, |&i| run.job.train.name(i));
            Error::input(name, "the teacher could not read this batch as the student did", "check the file")
        };
        let own = own.filter(|own| own.indices == input.indices).ok_or_else(unread)?;
        let logits = teacher.head.run(&own.activation)?.data;
        Ok(Some(Answer { features: own.activation.data, logits }))
    }

    /// Whether the terms compare with the start.
    pub fn compares(&self) -> bool {
        !self.compared.is_empty()
    }

    /// The term of a task whose targets are numbers.
    fn of_numbers(&self, phase: &Train, targets: &Targets) -> Result<Box<dyn Term + '_>> {
        match self.kind {
            Kind::Tokens => {
                let (class_weights, label_smoothing) = (self.class_weights.as_deref(), phase.objective.label_smoothing);
                let term = RowLabels::of(self.last, &targets.numbers, class_weights, label_smoothing);
                return Ok(Box::new(term));
            }
            Kind::Spans => return Ok(Box::new(SpanEnds::of(self.last, &targets.numbers))),
            Kind::Matches => return Ok(Box::new(InBatchNegatives::of(self.last, &targets.numbers))),
            Kind::Classes | Kind::Labels | Kind::Values => {}
        }
        let samples = targets.classes.len();
        let shape = (samples, targets.numbers.len() / samples.max(1));
        let (output, numbers) = (self.last, Tensor::from_slice(&targets.numbers, shape, &self.device)?);
        if self.kind == Kind::Values {
            return Ok(Box::new(SquaredError { output, targets: numbers }));
        }
        let smoothing = phase.objective.label_smoothing;
        let targets = numbers.affine(1.0 - smoothing, smoothing / 2.0)?;
        let weights = self.class_weights.as_ref().map(|w| Tensor::new(w.as_slice(), &self.device)).transpose()?;
        Ok(Box::new(BinaryCrossEntropy { output, targets, weights }))
    }

    /// The terms of a batch's loss.
    pub fn terms<'a>(&'a self, phase: &Train, targets: &Targets, told: Told) -> Result<Vec<Box<dyn Term + 'a>>> {
        let Told { answer, pairs, mixed } = told;
        let output = self.features;
        let share = phase.teacher.as_ref().filter(|_| answer.is_some()).map_or(0.0, |teacher| teacher.share);
        let mut terms: Vec<Box<dyn Term + 'a>> = Vec::new();
        if phase.pairs.is_some() {
            terms.push(Box::new(CosinePairs { output, pairs }));
        } else if self.kind != Kind::Classes {
            terms.push(self.of_numbers(phase, targets)?);
        } else if share < 1.0 {
            terms.push(Box::new(CrossEntropy {
                output: self.last,
                class_weights: self.class_weights.as_deref(),
                label_smoothing: phase.objective.label_smoothing,
                share: 1.0 - share,
                mixed,
            }));
        }
        if let (Some(Answer { features, logits }), Some(teacher)) = (answer, &phase.teacher) {
            if share > 0.0 {
                let targets = super::terms::log_softmax(&(logits / teacher.temperature)?)?;
                let (weight, temperature) = (share, teacher.temperature);
                terms.push(Box::new(SoftLabels { output: self.last, layer: None, targets, weight, temperature }));
            }
            if teacher.features > 0.0 {
                let layer = self.teacher.as_ref().is_some_and(|tutor| tutor.regresses).then_some(REGRESSOR);
                terms.push(Box::new(Mimicry { output, layer, targets: features, weight: teacher.features }));
            }
        }
        for (weight, stages) in self.compared.iter().filter(|(_, stages)| !stages.is_empty()) {
            terms.push(Box::new(StartFeatures { weight: *weight, stages }));
        }
        for penalty in &phase.penalties {
            if let &Penalty::SingularValues { weight, smallest } = penalty
                && weight > 0.0
            {
                terms.push(Box::new(SingularValues { output, weight, smallest }));
            }
        }
        if let Some((relations, weight)) = &self.relations {
            let targets = relations.index_select(&Tensor::new(targets.classes.as_slice(), relations.device())?, 0)?;
            terms.push(Box::new(SoftLabels {
                output,
                layer: Some(SOURCE),
                targets,
                weight: *weight,
                temperature: 1.0,
            }));
        }
        Ok(terms)
    }
}
