//! One small network of each kind for the tests of strategies: photos with batch normalization, texts with attention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};

use super::testing::Fixture;
use super::{Companions, Job, Outcome, execute};
use crate::Result;
use crate::cache::host_values;
use crate::data::{Dataset, Sample, Values, View};
use crate::net::{
    Act, Asks, Attention, BatchNorm, Conv, Embed, Index, Layer, LayerNorm, Linear, Network, Params, PoolRows, Residual,
    Role, Stage, Table, Window,
};
use crate::observe::{Observer, Silent};
use crate::plan::{Optimizer, Phase, Plan};
use crate::run::RunDir;
use crate::seed::Seed;
use crate::strategy::{Defaults, Facts, Options, Recipe, Settings, Strategy};

pub fn linear(name: &str, inputs: usize, outputs: usize) -> Linear {
    Linear { name: name.into(), inputs, outputs, bias: true, update: None }
}

fn conv(name: &str, inputs: usize, outputs: usize) -> Layer {
    let window = Window::square(3, 1);
    Layer::Conv(Conv { name: name.into(), inputs, outputs, window, groups: 1, bias: false, update: None })
}

fn batch_norm(name: &str, width: usize) -> Layer {
    Layer::BatchNorm(BatchNorm { name: name.into(), width, eps: 1e-5, momentum: 0.1 })
}

fn stage(name: &str, layers: Vec<Layer>) -> Stage {
    Stage { name: name.into(), layers }
}

/// Stages `stem`, `block`, `pool`; 8 features, 3 classes.
fn image_network() -> Network {
    let body = vec![conv("block.conv", 8, 8), batch_norm("block.bn", 8)];
    Network {
        name: "toy-photo".into(),
        stages: vec![
            stage("stem", vec![conv("stem.conv", 1, 8), batch_norm("stem.bn", 8), Layer::Act(Act::Relu)]),
            stage(
                "block",
                vec![Layer::Residual(Residual { body, shortcut: vec![], then: vec![Layer::Act(Act::Relu)] })],
            ),
            stage("pool", vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten]),
        ],
        head: stage("head", vec![Layer::Dropout(0.1), Layer::Linear(linear("fc", 8, 3))]),
        input: vec![4, 4, 1],
    }
}

/// Stages `embeddings`, `layer.0`, `layer.1`, `pooler`; 8 features, 3 classes.
pub fn text_network() -> Network {
    let norm = |name: &str| Layer::LayerNorm(LayerNorm { name: name.into(), width: 8, eps: 1e-5 });
    let table = |name: &str, rows, index| Table { name: name.into(), rows, index };
    let tables = vec![table("word", 12, Index::Column(0)), table("position", 8, Index::Position(0))];
    let layer = |i: usize| {
        let name = format!("layer.{i}");
        let part = |part: &str| linear(&format!("{name}.{part}"), 8, 8);
        let attention = Attention {
            query: part("query"),
            key: part("key"),
            value: part("value"),
            output: part("output"),
            heads: 2,
            prefix: None,
            asks: Asks::Every,
            window: None,
            distances: None,
            dropout: 0.1,
        };
        let mixing = Residual {
            body: vec![Layer::Attention(attention), Layer::Dropout(0.1)],
            shortcut: vec![],
            then: vec![norm(&format!("{name}.norm1"))],
        };
        let feed_forward = Residual {
            body: vec![
                Layer::Linear(linear(&format!("{name}.up"), 8, 16)),
                Layer::Act(Act::Gelu),
                Layer::Linear(linear(&format!("{name}.down"), 16, 8)),
            ],
            shortcut: vec![],
            then: vec![norm(&format!("{name}.norm2"))],
        };
        stage(&name, vec![Layer::Residual(mixing), Layer::Residual(feed_forward)])
    };
    Network {
        name: "toy-text".into(),
        stages: vec![
            stage("embeddings", vec![Layer::Embed(Embed { tables, width: 8, window: None }), norm("embeddings.norm")]),
            layer(0),
            layer(1),
            stage("pooler", vec![Layer::PoolRows(PoolRows::Mean)]),
        ],
        head: stage("head", vec![Layer::Dropout(0.1), Layer::Linear(linear("classifier", 8, 3))]),
        input: vec![2],
    }
}

/// A network of 6 features for the same inputs.
pub fn teacher_network(text: bool) -> Network {
    let stages = if text {
        let tables = vec![Table { name: "word".into(), rows: 12, index: Index::Column(0) }];
        vec![stage(
            "all",
            vec![Layer::Embed(Embed { tables, width: 6, window: None }), Layer::PoolRows(PoolRows::Mean)],
        )]
    } else {
        let pool = [Layer::Act(Act::Relu), Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten];
        vec![stage("all", [conv("conv", 1, 6)].into_iter().chain(pool).collect())]
    };
    let head = stage("head", vec![Layer::Linear(linear("fc", 6, 3))]);
    Network { name: "teacher".into(), stages, head, input: if text { vec![2] } else { vec![4, 4, 1] } }
}

/// The same without dropout.
pub fn without_dropout(mut network: Network) -> Network {
    fn clean(layers: &mut Vec<Layer>) {
        layers.retain(|layer| !matches!(layer, Layer::Dropout(_)));
        for layer in layers {
            match layer {
                Layer::Attention(attention) => attention.dropout = 0.0,
                Layer::Residual(residual) => {
                    [&mut residual.body, &mut residual.shortcut, &mut residual.then].into_iter().for_each(clean);
                }
                _ => {}
            }
        }
    }
    network.stages.iter_mut().chain([&mut network.head]).for_each(|stage| clean(&mut stage.layers));
    network
}

/// Images with a bright row, or sentences with a telling word; counts how often a sample is loaded.
pub struct Toys {
    text: bool,
    len: usize,
    seed: u64,
    /// Height and width of the images.
    side: usize,
    pub loads: AtomicUsize,
    /// The sides that were loaded, in turn, of all sizes of the same images.
    pub sides: Arc<Mutex<Vec<usize>>>,
}

impl Toys {
    fn new(text: bool, len: usize, seed: u64, side: usize) -> Self {
        Self { text, len, seed, side, loads: AtomicUsize::new(0), sides: Arc::default() }
    }
}

impl Dataset for Toys {
    fn len(&self) -> usize {
        self.len
    }
    fn target(&self, i: usize) -> u32 {
        (i % 3) as u32
    }
    fn name(&self, i: usize) -> String {
        format!("toy {i}")
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        Ok(*blake3::hash(format!("{} {} {i}", self.text, self.seed).as_bytes()).as_bytes())
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let mut stream = Seed(self.seed).child(i as u64).stream();
        let class = i % 3;
        if self.text {
            let rows = 3 + stream.below(4);
            let telling = stream.below(rows);
            let words = (0..rows).map(|at| if at == telling { class } else { 3 + stream.below(9) });
            let values = words.flat_map(|word| [word as u32, 0]).collect();
            return Ok(Sample { rows, shape: vec![2], values: Values::U32(values) });
        }
        let mut noise = match view {
            View::Plain => Seed(0).stream(),
            View::Augmented(seed) => seed.stream(),
        };
        let jitter = if view == View::Plain { 0.0 } else { 0.1 };
        let side = self.side;
        self.sides.lock().unwrap().push(side);
        let pixel = |at: usize| {
            let bright = if at / side == class { 1.5 } else { 0.0 };
            (bright + 0.3 * stream.normal() + jitter * noise.normal()) as f32
        };
        let values = Values::F32((0..side * side).map(pixel).collect());
        Ok(Sample { rows: 1, shape: vec![side, side, 1], values })
    }
    fn scaled(&self, scale: f64) -> Option<Arc<dyn Dataset>> {
        let side = (scale * self.side as f64).round() as usize;
        let sides = self.sides.clone();
        (!self.text)
            .then(|| Arc::new(Self { sides, ..Self::new(false, self.len, self.seed, side) }) as Arc<dyn Dataset>)
    }
}

/// A job on one of the two, to be varied.
pub struct Toy {
    pub fixture: Fixture,
    pub data: Arc<Toys>,
    pub params: Params,
    pub companions: Companions,
}

/// The image-like and the text-like one.
pub fn both() -> [Toy; 2] {
    [Toy::new(false), Toy::new(true)]
}

impl Toy {
    pub fn new(text: bool) -> Self {
        let mut fixture = Fixture::new();
        fixture.network = if text { text_network() } else { image_network() };
        let data = Arc::new(Toys::new(text, 60, 1, 4));
        fixture.train = data.clone();
        fixture.validation = Arc::new(Toys::new(text, 30, 2, 4));
        let params = random_params(&fixture.network, Seed(5));
        Self { fixture, data, params, companions: Companions::default() }
    }

    pub fn network(&self) -> &Network {
        &self.fixture.network
    }

    pub fn settings(&self, options: Options) -> Settings {
        let recipe = Recipe {
            epochs: 3,
            least_steps: 1,
            optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
            learning_rate: 0.01,
            warmup: 0.1,
            augment: false,
        };
        let defaults = Defaults { batch_size: 10, fine_tuning: recipe.clone(), from_scratch: recipe, small: None };
        Settings { options, defaults }
    }

    pub fn plan(&self, strategy: &dyn Strategy, options: Options) -> Plan {
        let settings = self.settings(options);
        strategy.check(self.network(), &settings).unwrap();
        strategy.plan(self.network(), &Facts { kind: crate::task::Kind::Classes, outputs: 3, samples: 60 }, &settings)
    }

    pub fn job<'a>(&'a self, plan: &'a Plan, run: &'a RunDir, observer: &'a dyn Observer) -> Job<'a> {
        let (params, companions) = (self.params.clone(), self.companions.clone());
        Job { params, companions, ..self.fixture.job(plan, run, observer) }
    }

    /// Executes a plan in a run of its own.
    pub fn execute(&self, plan: &Plan) -> Outcome {
        let number = std::fs::read_dir(self.fixture.root.path()).unwrap().count();
        let run = self.fixture.run_dir(&format!("run{number}"));
        execute(self.job(plan, &run, &Silent)).unwrap()
    }

    pub fn run(&self, strategy: &dyn Strategy, options: Options) -> Outcome {
        self.execute(&self.plan(strategy, options))
    }

    /// Names of what differs from the start in any bit.
    pub fn moved(&self, outcome: &Outcome) -> BTreeSet<String> {
        let (before, after) = (bits(&self.params), bits(&outcome.params));
        after.into_iter().filter(|(name, value)| before[name] != *value).map(|(name, _)| name).collect()
    }

    /// Names of the parameters in `stages` (and `head`) whose role `keep` wants.
    pub fn names(&self, stages: &[&str], keep: impl Fn(Role) -> bool) -> BTreeSet<String> {
        let network = self.network();
        let all = network.stages.iter().chain([&network.head]);
        let specs = all.filter(|stage| stages.contains(&stage.name.as_str())).flat_map(Stage::params);
        specs.filter(|spec| keep(spec.role)).map(|spec| spec.name).collect()
    }

    /// Names of all stages and `head`.
    pub fn stages(&self) -> Vec<&str> {
        self.network().stages.iter().map(|stage| stage.name.as_str()).chain(["head"]).collect()
    }

    /// Makes `network` with `params` a teacher, under the name it gives back.
    pub fn teacher(&mut self, network: Network, params: Params) -> String {
        let (train, fingerprint) = (self.fixture.train.clone(), "toys".to_string());
        self.companions.teachers.insert("teacher".into(), super::Teacher { network, params, train, fingerprint });
        "teacher".into()
    }

    /// Gives the checkpoint a head of `labels` source labels.
    pub fn source_head(&mut self, labels: usize) {
        let tensor = |name: &str, shape: &[usize]| {
            let mut stream = Seed(8).named(name).stream();
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        self.companions.source_head = Some((tensor("weight", &[labels, 8]), tensor("bias", &[labels])));
    }

    /// Whether it is the one of texts.
    pub fn text(&self) -> bool {
        self.network().name == "toy-text"
    }
}

/// Weights of a size with which the features differ from sample to sample, and moments that are not those of a start.
pub fn random_params(network: &Network, seed: Seed) -> Params {
    let values = network.params().into_iter().map(|spec| {
        let mut value = spec.initial(seed, &Device::Cpu).unwrap();
        if spec.role == Role::Weight && value.dims().len() == 2 {
            value = (value * 15.0).unwrap();
        }
        if matches!(spec.role, Role::Bias | Role::Shift) {
            let mut stream = seed.named(&spec.name).stream();
            let shifts: Vec<f32> = (0..spec.len()).map(|_| stream.range(-0.1, 0.1) as f32).collect();
            value = Tensor::from_vec(shifts, spec.shape.as_slice(), &Device::Cpu).unwrap();
        }
        (spec.name, value)
    });
    Params::new(values.collect())
}

pub fn bits(params: &Params) -> BTreeMap<String, Vec<u32>> {
    let read = |(name, value)| (name, host_values(&value).unwrap().into_iter().map(f32::to_bits).collect());
    params.snapshot().into_iter().map(read).collect()
}

/// The first `phases` phases of a plan.
pub fn first(plan: &Plan, phases: usize) -> Plan {
    Plan { phases: plan.phases[..phases].to_vec(), ..plan.clone() }
}

/// The same with every phase of descent changed by `change`.
pub fn changed(mut plan: Plan, change: impl Fn(&mut crate::plan::Train)) -> Plan {
    for phase in &mut plan.phases {
        if let Phase::Train(train) = phase {
            change(train);
        }
    }
    plan
}
