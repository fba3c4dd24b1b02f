//! Throughput and peak memory of whole networks, random weights: the frozen forward pass and the full training step.
//!
//! Sizes, batches and the lines of `--json` are those of the script that measures the peers, so that `--against` its
//! output gives ratios. Every measurement has a process of its own: its peak memory is its own as well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use topwork_core::data::{Activation, Rows};
use topwork_core::device::Place;
use topwork_core::memory;
use topwork_core::net::forward::Mode as PassMode;
use topwork_core::net::frozen::Frozen;
use topwork_core::net::{Network, Params, Role};
use topwork_core::plan::{BatchNormMode, Optimizer as Rule};
use topwork_core::seed::Seed;
use topwork_core::train::Optimizer;
use topwork_core::train::gradient::Objective;
use topwork_kernels::frozen::Precision;
use topwork_nlp::models::bert::{BertConfig, Pooling};

mod ceiling;
mod loader;

/// Tokens of every sentence.
const TOKENS: usize = 128;
/// Height and width of every image.
const SIDE: usize = 224;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks to measure [default: all]
    #[arg(long, value_enum, num_args = 1..)]
    arch: Vec<Arch>,
    /// Passes to measure [default: both]
    #[arg(long, value_enum, num_args = 1..)]
    mode: Vec<Mode>,
    /// Runs after the warm-up, of which the best counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// In training, keep only the stages' inputs and compute the stages again on the way back
    #[arg(long)]
    recompute: bool,
    /// What the frozen pass multiplies: f32 or bf16
    #[arg(long, value_name = "NAME", default_value = "f32")]
    precision: String,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Lines of JSON in place of a table
    #[arg(long)]
    json: bool,
    /// In place of networks: what the processor's multiply-adds reach alone, and the share of it of single products
    #[arg(long, conflicts_with_all = ["arch", "mode", "recompute", "against"])]
    ceiling: bool,
    /// In place of networks: photos of this folder, CLASS/…, decoded, cropped at random and normalized for training
    #[arg(long, value_name = "DIR", conflicts_with_all = ["arch", "mode", "recompute", "against", "ceiling"])]
    loader: Option<PathBuf>,
    /// Lines of JSON of the peers, measured in the same sitting: prints ratios
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure in this process (what the others are started with)
    #[arg(long, hide = true)]
    here: bool,
}

/// What is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Arch {
    Alexnet,
    Resnet18,
    Resnet50,
    Vgg16,
    EfficientnetLite0,
    #[value(name = "resnext50_32x4d")]
    #[serde(rename = "resnext50_32x4d")]
    Resnext50,
    #[value(name = "mobilenet_v2")]
    #[serde(rename = "mobilenet_v2")]
    MobilenetV2,
    #[value(name = "mobilenet_v3_large")]
    #[serde(rename = "mobilenet_v3_large")]
    MobilenetV3Large,
    #[value(name = "efficientnet_b0")]
    #[serde(rename = "efficientnet_b0")]
    EfficientnetB0,
    Minilm,
    BertBase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Forward,
    Train,
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    peer: String,
    arch: Arch,
    mode: Mode,
    dtype: String,
    batch: usize,
    items_per_s: f64,
    peak_mb: u64,
}

pub fn run(args: &Args) -> Result<()> {
    if args.ceiling {
        topwork_core::device::set_threads(args.threads)?;
        return ceiling::run(args.repeat, args.json);
    }
    if let Some(folder) = &args.loader {
        return loader::run(folder, args.repeat, args.threads, args.json);
    }
    let archs = if args.arch.is_empty() { Arch::value_variants() } else { &args.arch };
    let modes = if args.mode.is_empty() { Mode::value_variants() } else { &args.mode };
    let peers = args.against.as_ref().map(|path| read(path, &args.precision)).transpose()?.unwrap_or_default();
    if !args.json {
        println!("{:20} {:8} {:>10} {:>9}  peers", "network", "mode", "items / s", "peak MB");
    }
    for (&arch, &mode) in archs.iter().flat_map(|arch| modes.iter().map(move |mode| (arch, mode))) {
        let measured = if args.here { measure(arch, mode, args)? } else { elsewhere(arch, mode, args)? };
        if args.json {
            println!("{}", serde_json::to_string(&measured)?);
        } else {
            println!("{}", line(&measured, &peers));
        }
    }
    Ok(())
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// Measures in a process of its own.
fn elsewhere(arch: Arch, mode: Mode, args: &Args) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["speed", "--here", "--json", "--arch", &name(arch), "--mode", &name(mode)]);
    command.args(["--repeat", &args.repeat.to_string(), "--precision", &args.precision]);
    if args.recompute {
        command.arg("--recompute");
    }
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("measuring {} ({}) failed: {}", name(arch), name(mode), output.status);
    }
    serde_json::from_slice(&output.stdout).context("a measurement that is not JSON")
}

/// The peers' lines in this precision, by network and mode, the fastest first.
fn read(path: &PathBuf, precision: &str) -> Result<BTreeMap<(Arch, Mode), Vec<Measured>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut found: BTreeMap<_, Vec<Measured>> = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        let measured: Measured =
            serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))?;
        if measured.dtype == precision {
            found.entry((measured.arch, measured.mode)).or_default().push(measured);
        }
    }
    found.values_mut().for_each(|peers| peers.sort_by(|a, b| b.items_per_s.total_cmp(&a.items_per_s)));
    Ok(found)
}

fn line(measured: &Measured, peers: &BTreeMap<(Arch, Mode), Vec<Measured>>) -> String {
    let Measured { arch, mode, items_per_s, peak_mb, .. } = measured;
    let ratio = |peer: &Measured| {
        let Measured { peer, items_per_s: theirs, peak_mb, .. } = peer;
        format!("{peer} {theirs:.1} ({:.2}), {peak_mb} MB", items_per_s / theirs)
    };
    let peers: Vec<String> = peers.get(&(*arch, *mode)).into_iter().flatten().map(ratio).collect();
    format!("{:20} {:8} {items_per_s:10.1} {peak_mb:9}  {}", name(*arch), name(*mode), peers.join("; "))
}

impl Arch {
    fn batch(self) -> usize {
        match self {
            Self::Alexnet | Self::EfficientnetLite0 => 32,
            Self::Vgg16 => 8,
            _ => 16,
        }
    }

    fn network(self) -> Result<Network> {
        let minilm =
            BertConfig { hidden_size: 384, num_hidden_layers: 6, intermediate_size: 1536, ..BertConfig::default() };
        Ok(match self {
            Self::Minilm => minilm.network(Pooling::Pooler, 2),
            Self::BertBase => BertConfig::default().network(Pooling::Pooler, 2),
            _ => topwork_cv::models::network(&name(self), 2, SIDE).context("a network without description")?,
        })
    }

    fn input(self, network: &Network) -> Result<Activation> {
        let (batch, mut stream) = (self.batch(), Seed(1).stream());
        if network.input.len() == 3 {
            let values: Vec<f32> = (0..batch * SIDE * SIDE * 3).map(|_| stream.normal() as f32).collect();
            let data = Tensor::from_vec(values, (batch, SIDE, SIDE, 3), &Device::Cpu)?;
            return Ok(Activation { data, rows: Rows::One });
        }
        let tokens = (0..batch * TOKENS).flat_map(|_| [stream.below(30_000) as u32, 0]).collect::<Vec<_>>();
        let data = Tensor::from_vec(tokens, (batch * TOKENS, 2), &Device::Cpu)?;
        Ok(Activation { data, rows: Rows::Each(vec![TOKENS; batch].into()) })
    }
}

/// Best seconds of `repeat` calls after one that warms up.
fn best(repeat: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut least = f64::INFINITY;
    for _ in 0..repeat.max(1) {
        let start = Instant::now();
        f()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn measure(arch: Arch, mode: Mode, args: &Args) -> Result<Measured> {
    topwork_core::device::keep_memory();
    topwork_core::device::set_threads(args.threads)?;
    let network = arch.network()?;
    let input = arch.input(&network)?;
    let params = Params::initial(&network.params(), Seed(1), &Device::Cpu)?;
    let place = Place::parse(None, Some(&args.precision))?;
    let seconds = match mode {
        Mode::Forward => forward(&network, params, &input, &place, args.repeat)?,
        Mode::Train if place.precision != Precision::F32 => bail!("training is in f32"),
        Mode::Train => train(&network, params, &input, args)?,
    };
    let peak_mb = memory::peak().unwrap_or(0) >> 20;
    let (peer, dtype, batch) = ("topwork".into(), args.precision.clone(), arch.batch());
    Ok(Measured { peer, arch, mode, dtype, batch, items_per_s: batch as f64 / seconds, peak_mb })
}

fn forward(network: &Network, params: Params, input: &Activation, place: &Place, repeat: usize) -> Result<f64> {
    let stages: Vec<_> = network.stages.iter().chain([&network.head]).collect();
    let frozen = Frozen::compile(&stages, &params, place)?;
    drop(params);
    best(repeat, || Ok(frozen.run(input).map(drop)?))
}

/// Forward, backward and the optimizer's step: SGD with momentum for images, AdamW for sentences.
fn train(network: &Network, mut params: Params, input: &Activation, args: &Args) -> Result<f64> {
    let images = network.input.len() == 3;
    let rule = if images {
        Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
    } else {
        Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    };
    let rate = if images { 1e-3 } else { 1e-5 };
    let members: Vec<_> = network.params().into_iter().filter(|p| p.role != Role::Buffer).collect();
    params.set_learning(&members.iter().map(|p| p.name.clone()).collect())?;
    let mut optimizer = Optimizer::new(rule, members.into_iter().map(|p| (p.name, p.role, 1.0)));
    let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
    let objective = Objective { recompute: args.recompute, ..Objective::of_classes(stages) };
    let targets: Vec<u32> = (0..input.samples()).map(|i| (i % 2) as u32).collect();
    let mut step = 0;
    best(args.repeat, || {
        step += 1;
        let mode = PassMode::Train { batch_norm: BatchNormMode::Update, seed: Seed(step) };
        let gradient = objective.gradient(&params, mode, input, &targets)?;
        let grads = gradient.grads.context("the loss is not finite")?;
        optimizer.step(&params, &grads, rate, 1.0)?;
        for (name, value) in gradient.statistics {
            params.set(&name, value.detach())?;
        }
        Ok(())
    })
}
