//! A tiny task for tests: three clusters of points, a small perceptron, and an observer that stops a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::Device;

use crate::cache::Cache;
use crate::data::{Dataset, Sample, Values, View};
use crate::device::Place;
use crate::loader::Strictness;
use crate::net::{Act, Layer, Linear, Network, Params, PoolRows, Stage};
use crate::observe::Observer;
use crate::plan::{
    BatchNormMode, ClassWeights, Decay, Method, Objective, Optimizer, Phase, Plan, Rule, Schedule, Solve, Start, Train,
};
use crate::run::RunDir;
use crate::seed::Seed;
use crate::task::Task;
use crate::{Error, Result};

use super::{Job, OnNan};

/// Points around three centres; every `broken`-th cannot be read.
pub struct Clusters {
    pub len: usize,
    pub seed: u64,
    pub broken: usize,
    pub loads: AtomicUsize,
}

impl Clusters {
    pub fn new(len: usize, seed: u64) -> Arc<Self> {
        Arc::new(Self { len, seed, broken: usize::MAX, loads: AtomicUsize::new(0) })
    }
}

impl Dataset for Clusters {
    fn len(&self) -> usize {
        self.len
    }
    fn target(&self, i: usize) -> u32 {
        (i % 3) as u32
    }
    fn name(&self, i: usize) -> String {
        format!("point {i}")
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        Ok(*blake3::hash(format!("{} {i}", self.seed).as_bytes()).as_bytes())
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        if i % self.broken == self.broken - 1 {
            return Err(Error::input(self.name(i), "is broken", "mend it"));
        }
        let mut stream = Seed(self.seed).child(i as u64).stream();
        let class = i % 3;
        let mut values: Vec<f32> =
            (0..4).map(|j| (0.4 * stream.normal() + if j == class { 2.0 } else { 0.0 }) as f32).collect();
        if let View::Augmented(seed) = view {
            let mut noise = seed.stream();
            values.iter_mut().for_each(|v| *v += 0.1 * noise.normal() as f32);
        }
        Ok(Sample { rows: 1, shape: vec![4], values: Values::F32(values) })
    }
}

fn linear(name: &str, inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })
}

pub fn network() -> Network {
    let one = vec![linear("one", 4, 16), Layer::Act(Act::Tanh)];
    let two = vec![linear("two", 16, 8), Layer::Act(Act::Tanh), Layer::PoolRows(PoolRows::Mean)];
    Network {
        name: "perceptron".into(),
        stages: vec![Stage { name: "one".into(), layers: one }, Stage { name: "two".into(), layers: two }],
        head: Stage { name: "head".into(), layers: vec![linear("fc", 8, 3)] },
        input: vec![4],
    }
}

/// Large enough random weights that the features tell the clusters apart.
pub fn params(network: &Network) -> Params {
    let params = Params::initial(&network.params(), Seed(5), &Device::Cpu).unwrap();
    let scaled = params.snapshot().into_iter().map(|(name, value)| (name, (value * 25.0).unwrap()));
    Params::new(scaled.collect())
}

pub fn objective() -> Objective {
    Objective { label_smoothing: 0.0, class_weights: ClassWeights::None }
}

pub fn train(boundary: usize) -> Train {
    let names = ["one", "two", "head"];
    Train {
        name: "test".into(),
        boundary,
        learn: names[boundary..].iter().map(|s| Rule { stage: (*s).into(), roles: vec![], rate: 1.0 }).collect(),
        batch_norm: BatchNormMode::Update,
        epochs: 4,
        batch_size: 8,
        accumulate: 1,
        sampler: crate::plan::Sampler::Each,
        optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
        learning_rate: 0.02,
        schedule: Schedule { warmup: 0.1, decay: Decay::Cosine },
        clip_norm: Some(1.0),
        objective: objective(),
        augment: true,
        views: 2,
        patience: None,
        pairs: None,
        mix: None,
        scales: Vec::new(),
        teacher: None,
        penalties: Vec::new(),
        average: None,
    }
}

pub fn plan(phases: Vec<Phase>) -> Plan {
    Plan { strategy: "test".into(), start: Start::Pretrained, adapters: vec![], phases }
}

pub fn solve(views: usize) -> Phase {
    Phase::Solve(Solve { name: "solve".into(), method: Method::Logistic { l2: 1.0 }, objective: objective(), views })
}

/// Stops the run after a number of questions.
pub struct Stopper(pub AtomicUsize);

impl Stopper {
    pub fn after(steps: usize) -> Self {
        Self(AtomicUsize::new(steps))
    }
}

impl Observer for Stopper {
    fn stop(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// The job that tests vary.
pub struct Fixture {
    pub network: Network,
    pub task: Task,
    pub train: Arc<dyn Dataset>,
    pub validation: Arc<dyn Dataset>,
    pub cache: Cache,
    pub place: Place,
    pub root: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            network: network(),
            task: Task::classes(["a", "b", "c"].map(String::from).to_vec()),
            train: Clusters::new(60, 1),
            validation: Clusters::new(30, 2),
            cache: Cache::at(root.path().join("features"), 1 << 30),
            place: Place::default(),
            root,
        }
    }

    pub fn run_dir(&self, name: &str) -> RunDir {
        let run = RunDir::create(&self.root.path().join(name), false).unwrap();
        run.write("run.toml", "").unwrap();
        run
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.root.path(), name)
    }

    pub fn job<'a>(&'a self, plan: &'a Plan, run: &'a RunDir, observer: &'a dyn Observer) -> Job<'a> {
        Job {
            network: &self.network,
            plan,
            params: params(&self.network),
            task: &self.task,
            train: self.train.clone(),
            validation: self.validation.clone(),
            fingerprint: "points",
            companions: super::Companions::default(),
            seed: Seed(7),
            device: &self.place,
            run,
            cache: &self.cache,
            checkpoint_every: Some(3),
            checkpoint_pause: Duration::ZERO,
            judgements: 5,
            recompute: false,
            strictness: Strictness::default(),
            on_nan: OnNan::Stop,
            identity: None,
            threads: 2,
            resume: false,
            observer,
        }
    }
}
