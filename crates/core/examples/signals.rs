//! A domain of its own: vibrations of machines, a row of a CSV file each, as `docs/new-domain.md` tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use csv::StringRecord;
use serde::{Deserialize, Serialize};
use topwork_core::data::{Dataset, Sample, Splits, Values, View, hold_out};
use topwork_core::domain::{self, Domain, Inputs, NoFlags, Opened};
use topwork_core::net::{Act, BatchNorm, Conv, Layer, Linear, Network, Padding, Stage, Window};
use topwork_core::plan::Optimizer;
use topwork_core::prefetch::{self, Prefetch};
use topwork_core::seed::Seed;
use topwork_core::strategy::{Defaults, Recipe};
use topwork_core::task::Task;
use topwork_core::{Error, Result, checkpoint, cli, files, source};

/// The domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signals;

/// How a signal becomes numbers for the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    length: usize,
}

impl Pipeline {
    /// A sample of mean 0 and deviation 1, so that neither offset nor gain of the sensor matters. It begins `shift`
    /// measurements later, and what came before stands at its end.
    fn sample(self, name: &str, signal: &[f32], shift: usize) -> Result<Sample> {
        if signal.len() != self.length {
            let reason = format!("has {} measurements, the model takes {}", signal.len(), self.length);
            return Err(Error::input(name, reason, "cut the signals to that length, or measure longer"));
        }
        let mean = signal.iter().sum::<f32>() / self.length as f32;
        let variance = signal.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / self.length as f32;
        let mut values: Vec<f32> = signal.iter().map(|x| (x - mean) / variance.sqrt().max(1e-6)).collect();
        values.rotate_left(shift);
        Ok(Sample { rows: 1, shape: vec![1, self.length, 1], values: Values::F32(values) })
    }
}

/// Three convolutions along time, each with half the steps and twice the channels, and the mean over time.
fn network(length: usize, classes: usize) -> Network {
    let stage = |name: &str, inputs, outputs| {
        let window = Window { kernel: [1, 9], stride: [1, 2], padding: Padding::Even([0, 4]), dilation: [1, 1] };
        let conv = Conv { name: format!("{name}.conv"), inputs, outputs, window, groups: 1, bias: false, update: None };
        let norm = BatchNorm { name: format!("{name}.norm"), width: outputs, eps: 1e-5, momentum: 0.1 };
        Stage { name: name.into(), layers: vec![Layer::Conv(conv), Layer::BatchNorm(norm), Layer::Act(Act::Relu)] }
    };
    let pool = Stage { name: "pool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] };
    let linear = Linear { name: "head".into(), inputs: 64, outputs: classes, bias: true, update: None };
    Network {
        name: Signals::DEFAULT_MODEL.into(),
        stages: vec![stage("stage1", 1, 16), stage("stage2", 16, 32), stage("stage3", 32, 64), pool],
        head: Stage { name: "head".into(), layers: vec![Layer::Linear(linear)] },
        input: vec![1, length, 1],
    }
}

/// Where labelled signals are.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataArgs {
    /// CSV file of signals to learn from: the class in the column `label`, measurements in the others
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// More of them, to validate on [default: a fifth of the others]
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
}

/// What to predict on.
#[derive(Debug, Clone, clap::Args)]
pub struct InputArgs {
    /// CSV files of signals
    #[arg(value_name = "FILE", required = true)]
    pub inputs: Vec<PathBuf>,
}

/// A row: its name in messages, its class where there is one, its measurements.
struct Row {
    name: String,
    label: Option<String>,
    signal: Vec<f32>,
}

impl Row {
    fn new(name: &str, header: &StringRecord, record: csv::Result<StringRecord>) -> Result<Self> {
        let wrong = |reason: String| Error::input(name, reason, "correct it, or leave the row out");
        let record = record.map_err(|e| wrong(e.to_string()))?;
        let (labels, cells): (Vec<_>, Vec<_>) = header.iter().zip(&record).partition(|&(column, _)| column == "label");
        let number = |(column, cell): (&str, &str)| {
            let number = cell.trim().parse().ok().filter(|x: &f32| x.is_finite());
            number.ok_or_else(|| wrong(format!("column {column:?} holds {cell:?}, which is not a number")))
        };
        let label = labels.first().map(|(_, label)| label.trim().to_string()).filter(|label| !label.is_empty());
        Ok(Self { name: name.into(), label, signal: cells.into_iter().map(number).collect::<Result<_>>()? })
    }
}

/// The rows of a CSV file by their names, streamed.
fn rows(path: &Path) -> Result<impl Iterator<Item = (String, Result<Row>)> + Send + use<>> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| Error::io(path)(e.into()))?;
    let header = reader.headers().map_err(|e| Error::io(path)(e.into()))?.clone();
    let file = path.display().to_string();
    Ok(reader.into_records().zip(2..).map(move |(record, number)| {
        let name = format!("{file}, row {number}");
        (name.clone(), Row::new(&name, &header, record))
    }))
}

/// Labelled signals in memory.
struct Table {
    rows: Vec<Row>,
    targets: Vec<u32>,
    pipeline: Pipeline,
}

impl Table {
    fn new(rows: Vec<Row>, task: &Task, pipeline: Pipeline) -> Result<Self> {
        let target = |row: &Row| {
            // One that does not fit is told before anything is learned.
            pipeline.sample(&row.name, &row.signal, 0)?;
            let wrong = || format!("its label is none of {}", task.join(", "));
            let class = task.iter().position(|class| Some(class) == row.label.as_ref());
            Ok(class.ok_or_else(|| Error::input(&row.name, wrong(), "correct it, or leave the row out"))? as u32)
        };
        let targets = rows.iter().map(target).collect::<Result<_>>()?;
        Ok(Self { rows, targets, pipeline })
    }
}

impl Dataset for Table {
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.targets[i]
    }
    fn name(&self, i: usize) -> String {
        self.rows[i].name.clone()
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let bytes: Vec<u8> = self.rows[i].signal.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(*blake3::hash(&bytes).as_bytes())
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        let shift = if let View::Augmented(seed) = view { seed.stream().below(self.pipeline.length) } else { 0 };
        self.pipeline.sample(&self.rows[i].name, &self.rows[i].signal, shift)
    }
}

/// What `config.json` says of a model.
#[derive(Serialize, Deserialize)]
struct Config {
    pipeline: Pipeline,
    task: Option<Task>,
}

impl Domain for Signals {
    const BINARY: &'static str = "signals";
    const ITEM: (&'static str, &'static str) = ("signal", "signals");
    const DEFAULT_MODEL: &'static str = "signal-net";

    type Pipeline = Pipeline;
    type Input = [f32];
    type DataArgs = DataArgs;
    type InputArgs = InputArgs;
    type ViewArgs = NoFlags;
    type Verbs = Verbs;

    fn defaults() -> Defaults {
        let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let fine_tuning =
            Recipe { epochs: 10, least_steps: 100, optimizer, learning_rate: 1e-3, warmup: 0.1, augment: true };
        let from_scratch = Recipe { epochs: 20, least_steps: 300, learning_rate: 3e-3, ..fine_tuning.clone() };
        Defaults { batch_size: 32, fine_tuning, from_scratch, small: None }
    }

    fn outline(architecture: &str) -> Option<Opened<Pipeline>> {
        let pipeline = Pipeline { length: 128 };
        let network = network(pipeline.length, 2);
        (architecture == network.name).then(|| Opened { network, weights: BTreeMap::new(), pipeline, task: None })
    }

    fn open(folder: &Path, _card: Option<&source::Card>) -> Result<Opened<Pipeline>> {
        let path = folder.join("config.json");
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let config: Config = serde_json::from_slice(&bytes)
            .map_err(|e| Error::input(path.display(), e, "name a model folder of this program"))?;
        let weights = checkpoint::read(&folder.join("model.safetensors"))?;
        let classes = config.task.as_ref().map_or(2, |task| task.len());
        Ok(Opened {
            network: network(config.pipeline.length, classes),
            weights,
            pipeline: config.pipeline,
            task: config.task,
        })
    }

    fn save(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
        files::create_dir_all(folder)?;
        let tensors = Self::state_dict(model, None)?;
        checkpoint::write_safetensors(&folder.join("model.safetensors"), &tensors, &BTreeMap::new())?;
        let path = folder.join("config.json");
        let config = Config { pipeline: model.pipeline, task: model.task.clone() };
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::io(&path)(e.into()))?;
        files::write_atomic_bytes(&path, text.as_bytes())
    }

    fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
        let read = |path: &PathBuf| {
            let rows = rows(path)?.map(|(_, row)| row).collect::<Result<Vec<_>>>()?;
            let none = || Error::input(path.display(), "holds no signals", "add rows below the header");
            (!rows.is_empty()).then_some(rows).ok_or_else(none)
        };
        let train = args.train.as_ref().map(read).transpose()?;
        let validation = args.validation.as_ref().map(read).transpose()?;
        let labels = train.iter().flatten().filter_map(|row| row.label.clone()).collect::<BTreeSet<_>>();
        let task = known.cloned().unwrap_or_else(|| Task::classes(labels.into_iter().collect()));
        if task.len() < 2 {
            return Err(Error::input(
                "--train",
                "there are no two classes to learn",
                "name a CSV file with a column label",
            ));
        }
        let table = |rows: Option<Vec<Row>>| rows.map(|rows| Table::new(rows, &task, *pipeline)).transpose();
        Splits::of(task.clone(), table(train)?, table(validation)?, |all| Ok(hold_out(&all.targets, 0.2, seed)))
    }

    fn inputs(args: &InputArgs, pipeline: &Pipeline) -> Result<Inputs> {
        let pipeline = *pipeline;
        let files = args.inputs.iter().map(|path| rows(path)).collect::<Result<Vec<_>>>()?;
        Ok(Prefetch::new(files.into_iter().flatten(), prefetch::threads(), 64, move |(name, row)| {
            (name.clone(), row.and_then(|row| pipeline.sample(&name, &row.signal, 0)))
        }))
    }

    fn sample(signal: &[f32], pipeline: &Pipeline) -> Result<Sample> {
        pipeline.sample("the signal", signal, 0)
    }

    fn fingerprint(pipeline: &Pipeline) -> String {
        format!("signals of {}, mean 0, deviation 1", pipeline.length)
    }
}

/// Verbs beside those of all domains.
#[derive(Debug, clap::Subcommand)]
pub enum Verbs {
    /// Make up signals, to try this program with: a CSV file on standard output
    Generate {
        /// What tells the classes apart: a pitch each, in waves a measurement, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        pitches: Vec<f64>,
        /// Noise, beside waves of height 1
        #[arg(long)]
        noise: f64,
        /// Signals of each class
        #[arg(long)]
        each: usize,
        /// Decides what is random
        #[arg(long)]
        seed: u64,
    },
}

/// A CSV file of signals of 128 measurements: something is struck every 40 of them, rings at about the pitch of its
/// class, and fades.
pub fn generate(pitches: &[f64], noise: f64, each: usize, seed: u64) -> String {
    let mut text = (0..128).fold(String::from("label"), |header, t| format!("{header},t{t}"));
    for (i, pitch) in std::iter::repeat_n(pitches, each).flatten().enumerate() {
        let mut random = Seed(seed).child(i as u64).stream();
        let (start, exact) = (random.range(0.0, 40.0), pitch * random.range(0.93, 1.07));
        text += &format!("\nrings at {pitch}");
        for t in 0..128 {
            let since = (f64::from(t) + start) % 40.0;
            let ringing = (-since / 15.0).exp() * (std::f64::consts::TAU * exact * since).sin();
            text += &format!(",{:.3}", ringing + noise * random.normal());
        }
    }
    text
}

impl domain::Verbs for Verbs {
    fn run(self, _: &cli::Common) -> Result<()> {
        let Self::Generate { pitches, noise, each, seed } = self;
        cli::print_line(&generate(&pitches, noise, each, seed))
    }
}

/// The command line, as every domain has it.
pub fn main() {
    cli::main::<Signals>()
}
