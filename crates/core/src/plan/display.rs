//! A plan in words: what `train --dry-run` prints and the report shows.

use std::fmt;

use super::{
    BatchNormMode, Choice, ClassWeights, Combine, Decay, Method, Mix, Mixture, Objective, Optimizer, Pairs, Penalty,
    Phase, Plan, RoleName, Rule, Sampler, Schedule, Solve, Start, Teacher, Train,
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = match self.start {
            Start::Pretrained => "the pre-trained weights",
            Start::Random => "random weights",
        };
        writeln!(f, "strategy {}, from {start}", self.strategy)?;
        self.adapters.iter().try_for_each(|adapter| writeln!(f, "adapter: {adapter}"))?;
        for (i, phase) in self.phases.iter().enumerate() {
            match phase {
                Phase::Train(train) => write!(f, "phase {}: {train}", i + 1)?,
                Phase::Solve(solve) => write!(f, "phase {}: {solve}", i + 1)?,
                Phase::Combine(combine) => write!(f, "phase {}: {combine}", i + 1)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Train {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = if self.accumulate > 1 { format!(" in {} parts", self.accumulate) } else { String::new() };
        writeln!(f, "{}: train, {} epochs of batches of {}{parts}", self.name, self.epochs, self.batch_size)?;
        if self.sampler == Sampler::Balanced {
            writeln!(f, "  samples: every class equally often")?;
        }
        match (self.boundary, self.augment) {
            (0, _) => writeln!(f, "  computed once and kept: nothing")?,
            (n, false) => writeln!(f, "  computed once and kept: the first {n} stages")?,
            (n, true) => writeln!(f, "  computed once and kept: the first {n} stages, {} random views", self.views)?,
        }
        let group = |r: &Rule| {
            let roles: Vec<&str> = r.roles.iter().map(|role| role.plural()).collect();
            let part = if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) };
            format!("{}{part} × {:.3}", r.stage, r.rate)
        };
        writeln!(f, "  learns: {}", self.learn.iter().map(group).collect::<Vec<_>>().join(", "))?;
        writeln!(f, "  optimizer: {}", self.optimizer)?;
        let clip = self.clip_norm.map_or("no clipping".into(), |norm| format!("gradient clipped to {norm}"));
        writeln!(f, "  learning rate: {:e}, {}; {clip}", self.learning_rate, self.schedule)?;
        let norm = match self.batch_norm {
            BatchNormMode::Update => "batch statistics, running ones updated".to_string(),
            BatchNormMode::Frozen => "running statistics, not updated".to_string(),
            BatchNormMode::Stochastic { running } => {
                format!("batch statistics or, each channel with probability {running}, running ones; these updated")
            }
        };
        writeln!(f, "  batch norm: {norm}; random views: {}", if self.augment { "yes" } else { "no" })?;
        match self.pairs {
            None => writeln!(f, "  loss: {}", self.objective)?,
            Some(Pairs { per_sample }) => writeln!(
                f,
                "  loss: (cosine of the features of two samples - [same class])², {per_sample} partners of its class and \
                 as many others a sample"
            )?,
        }
        if let Some(Teacher { model, share, temperature, features }) = &self.teacher {
            writeln!(f, "  teacher: {model}, {share} of the loss at temperature {temperature}, features × {features}")?;
        }
        for penalty in &self.penalties {
            writeln!(f, "  and: {penalty}")?;
        }
        if let Some(mix) = &self.mix {
            writeln!(f, "  mixes: {mix}")?;
        }
        if !self.scales.is_empty() {
            let scales = self.scales.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
            writeln!(f, "  size of views, each for an equal part of the epochs: {scales} of the usual one")?;
        }
        if let Some(decay) = self.average {
            writeln!(f, "  judged and kept: the running mean of what learns, decay {decay} a step")?;
        }
        match self.patience {
            Some(n) => writeln!(f, "  stops after {n} epochs without a better validation score, and keeps the best"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("mixup", self.mixup), ("CutMix", self.cutmix)].into_iter().filter(|(_, alpha)| *alpha > 0.0);
        let kinds = kinds.map(|(name, alpha)| format!("{name}, α {alpha}")).collect::<Vec<_>>().join(", or ");
        write!(f, "{} of the batches, by {kinds}", self.probability)
    }
}

impl fmt::Display for Penalty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartWeights { weight } => {
                write!(
                    f,
                    "{weight} × half the squared distance of the backbone from its start, in place of weight decay"
                )
            }
            Self::StartFeatures { weight, stages, attention } => {
                let by = if *attention { "weighted by how much a solved head misses them" } else { "all alike" };
                let stages = stages.join(", ");
                write!(f, "{weight} × the distance of the outputs of {stages} from those at the start, channels {by}")
            }
            Self::SingularValues { weight, smallest } => {
                write!(f, "{weight} × the squares of the {smallest} smallest singular values of the features")
            }
            Self::SourceLabels { weight } => {
                write!(f, "{weight} × cross-entropy of the source head against the source labels of each class")
            }
        }
    }
}

impl fmt::Display for Solve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let views =
            if self.views > 0 { format!(", {} random views besides the plain one", self.views) } else { String::new() };
        let kept = format!("  computed once and kept: the whole backbone{views}");
        match self.method {
            Method::Logistic { l2 } => {
                writeln!(f, "{}: logistic regression of the head on the pooled features, L2 {l2}", self.name)?;
                writeln!(f, "{kept}\n  loss: {}", self.objective)
            }
            Method::Ridge { l2 } => {
                let l2 = l2.map_or("chosen by leaving one out".into(), |l2| l2.to_string());
                writeln!(f, "{}: ridge regression of the head on the pooled features, L2 {l2}", self.name)?;
                writeln!(f, "{kept}\n  loss: squared error{}", self.objective.class_weights)
            }
            Method::Prototypes => writeln!(f, "{}: the nearest class mean of the pooled features\n{kept}", self.name),
        }
    }
}

impl fmt::Display for Combine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.mixture {
            Mixture::Earlier { phases: 0, alpha } => {
                writeln!(f, "{} × the start + {alpha} × what is there now", 1.0 - alpha)
            }
            Mixture::Earlier { phases, alpha } => {
                writeln!(f, "{} × what was there after phase {phases} + {alpha} × what is there now", 1.0 - alpha)
            }
            Mixture::Runs { runs, choice: Choice::Uniform } => writeln!(f, "the mean of {}", runs.join(", ")),
            Mixture::Runs { runs, choice: Choice::Greedy } => {
                let rule = "from the best on, each that does not lower the validation accuracy";
                writeln!(f, "the mean of those of {}: {rule}", runs.join(", "))
            }
        }
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdamW { beta1, beta2, weight_decay, .. } => {
                write!(f, "AdamW, moments {beta1} and {beta2}, weight decay {weight_decay}")
            }
            Self::Sgd { momentum, nesterov, weight_decay } => {
                let kind = if *nesterov { "Nesterov momentum" } else { "momentum" };
                write!(f, "SGD, {kind} {momentum}, weight decay {weight_decay}")
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decay = match self.decay {
            Decay::Constant => "constant",
            Decay::Linear => "falling linearly",
            Decay::Cosine => "falling along a cosine",
            Decay::OneCycle => {
                let course = "up along a cosine, then down to zero, momentum the other way";
                return write!(f, "one cycle: {:.0} % of the steps {course}", 100.0 * self.warmup);
            }
            Decay::Rising { decades } => return write!(f, "rising exponentially through {decades} powers of ten"),
        };
        write!(f, "warmed up over {:.0} % of the steps, then {decay}", 100.0 * self.warmup)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cross-entropy")?;
        if self.label_smoothing > 0.0 {
            write!(f, ", label smoothing {}", self.label_smoothing)?;
        }
        write!(f, "{}", self.class_weights)
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Balanced => write!(f, ", classes weighted against their frequency"),
        }
    }
}

impl RoleName {
    fn plural(self) -> &'static str {
        match self {
            Self::Weight => "weights",
            Self::Bias => "biases",
            Self::Norm => "normalizations",
            Self::Adapter => "adapters",
        }
    }
}
