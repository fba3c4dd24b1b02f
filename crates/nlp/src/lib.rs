//! Transfer learning for text: encoders of the BERT family, the text pipeline, and what `topwork-core` asks of a domain.
//!
//! [`Sentences`] is the domain. A sentence is a sample of n rows `[word, segment]`, n its number of tokens; models are
//! folders as Hugging Face has them.
//!
//! ```
//! use topwork_core::observe::Silent;
//! use topwork_nlp::{Classifier, DataArgs, Embedder, Fit};
//!
//! # fn main() -> topwork_core::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let (table, run) = (folder.path().join("texts.tsv"), folder.path().join("run"));
//! # let rows = |text: &str, label: &str| format!("{text}\t{label}\n").repeat(8);
//! # let rows = rows("plays music and sound files", "sound") + &rows("driver for network cards", "net");
//! # std::fs::write(&table, format!("text\tlabel\n{rows}")).unwrap();
//! let data = DataArgs { train: Some(table), ..DataArgs::default() };
//! Fit::new(data).model("tiny-bert").strategy("feature-extraction").out(&run).run(&Silent)?;
//!
//! let run = run.display().to_string();
//! for prediction in Classifier::load(&run)?.predict(&["an editor of sound files"])? {
//!     println!("{} {:.3}", prediction.label(), prediction.probability());
//!     # assert_eq!(prediction.label(), "sound");
//! }
//! let vectors = Embedder::load("tiny-bert", true, Default::default(), &Silent)?.embed(&["one text", "another"])?;
//! assert_eq!(vectors[0].len(), 192);
//! # Ok(())
//! # }
//! ```

pub mod dataset;
mod folder;
pub mod input;
pub mod masked;
mod matches;
pub mod models;
mod omissions;
pub mod pipeline;
pub mod pretrain;
mod similarity;
pub mod spans;
pub mod table;
pub mod tokenizer;
pub mod tokens;
pub mod verbs;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use topwork_core::adapter::Upstream;
use topwork_core::data::{Sample, Splits};
use topwork_core::domain::{Answers, Domain, Inputs, NoFlags, Opened};
use topwork_core::metrics::{Metrics, Scores};
use topwork_core::onnx;
use topwork_core::plan::Optimizer;
use topwork_core::seed::Seed;
use topwork_core::source::{Card, RemoteFile};
use topwork_core::strategy::{Defaults, Recipe, Small};
use topwork_core::task::{Kind, Task};
use topwork_core::{Error, Result};

pub use dataset::DataArgs;
pub use input::InputArgs;
use models::bert::Pooling;
pub use pipeline::Pipeline;
use tokenizer::Tokens;

/// What the page of tasks shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tasks.md")]
struct Page;

/// Sentences and pairs of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sentences;

/// A trained model of sentences, in use.
pub type Classifier = topwork_core::classifier::Classifier<Sentences>;
/// An encoder of sentences, in use.
pub type Embedder = topwork_core::embedder::Embedder<Sentences>;
/// Fitting a model to sentences.
pub type Fit = topwork_core::fit::Fit<Sentences>;

impl Domain for Sentences {
    const BINARY: &'static str = "topwork-nlp";
    const ITEM: (&'static str, &'static str) = ("sentence", "sentences");

    const DEFAULT_MODEL: &'static str = "all-minilm-l6-v2";
    const EMBEDDED_MODEL: Option<&'static str> = Some(models::EMBEDDED);
    const HUB_FILES: &'static [RemoteFile] = models::HUB_FILES;
    const LIBRARIES: &'static [&'static str] = &["transformers"];

    const GRAPH_INPUTS: onnx::Inputs =
        onnx::Inputs::Rows { columns: &["input_ids", "token_type_ids"], mask: "attention_mask" };

    type Pipeline = Pipeline;
    type Input = str;
    type DataArgs = DataArgs;
    type InputArgs = InputArgs;
    type ViewArgs = NoFlags;
    type Verbs = verbs::Verbs;

    fn cards() -> &'static [Card] {
        models::CARDS
    }

    /// Fine-tuning as Devlin et al. 2019, with the longer training of small sets that Mosbach et al. 2021 advise.
    fn defaults() -> Defaults {
        let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let fine_tuning =
            Recipe { epochs: 3, least_steps: 60, optimizer, learning_rate: 5e-5, warmup: 0.1, augment: false };
        let from_scratch =
            Recipe { epochs: 10, least_steps: 200, optimizer, learning_rate: 1e-4, warmup: 0.1, augment: false };
        Defaults {
            batch_size: 16,
            fine_tuning,
            from_scratch,
            small: Some(Small { parameters: 6_000_000, learning_rate: 1e-3 }),
        }
    }

    fn open(folder: &Path, _card: Option<&Card>) -> Result<Opened<Pipeline>> {
        folder::open(folder)
    }

    fn preparation(pipeline: &Pipeline) -> Option<String> {
        Some(pipeline.to_string())
    }

    fn save(folder: &Path, model: &Opened<Pipeline>) -> Result<()> {
        folder::save(folder, model)
    }

    fn state_dict(model: &Opened<Pipeline>, library: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
        let mut found = folder::state_dict(model);
        if library.is_none() {
            let family = model.pipeline.config.family;
            found = found.into_iter().map(|(name, tensor)| (family.rename(&name), tensor)).collect();
        }
        Ok(found)
    }

    fn configure(mut model: Opened<Pipeline>, args: &DataArgs) -> Result<Opened<Pipeline>> {
        let of_rows = match args.task {
            Some(Kind::Tokens) => Some(Pooling::Tokens),
            Some(Kind::Spans) => Some(Pooling::Spans),
            _ => None,
        };
        if let (Some(_), Some(_), Some(task)) = (of_rows, args.pooling, args.task) {
            let reason = format!("each row has an answer with --task {task}, and none is pooled");
            return Err(Error::input("--pooling", reason, "leave it out"));
        }
        let matches = args.task == Some(Kind::Matches);
        // The classes that keep rows come without a pooler, and what a pooler was trained for is no place of a text.
        let now = model.pipeline.pooling;
        let unpooled = (now.keeps_rows() || matches && now == Pooling::Pooler).then_some(Pooling::Mean);
        if let Some(pooling) = of_rows.or(args.pooling).or(unpooled).filter(|&to| to != model.pipeline.pooling) {
            model = repooled(model, pooling);
        }
        model = if matches { matches::headless(model) } else { matches::headed(model) };
        model.pipeline = model.pipeline.for_training(args.max_tokens)?;
        if of_rows.is_some() {
            // Windows of their own, which are samples.
            model.pipeline.tokenizer = model.pipeline.tokenizer.with_windows(None)?;
            model.network = model.network.windowed(None);
            model.pipeline.stride = args.stride.or(model.pipeline.stride);
            return Ok(model);
        }
        pipeline::in_windows(model, args.windows, args.stride)
    }

    fn used(mut model: Opened<Pipeline>, args: &InputArgs) -> Result<Opened<Pipeline>> {
        if let Some(pooling) = args.pooling {
            model = pooled(model, pooling)?;
        }
        if model.task.as_ref().is_some_and(|task| task.kind.of_rows()) {
            return Ok(model);
        }
        model.pipeline = model.pipeline.limited(args.max_tokens)?;
        pipeline::in_windows(model, args.windows, args.stride)
    }

    fn conclude(pipeline: &mut Pipeline, scores: &Metrics) {
        if let Scores::Spans(scores) = &scores.scores {
            pipeline.no_answer_threshold = scores.no_answer_threshold;
        }
    }

    fn answers<'a>(classifier: &'a Classifier, args: &InputArgs, top: Option<usize>) -> Result<Option<Answers<'a>>> {
        Ok(match classifier.task().kind {
            Kind::Tokens => Some(tokens::answers(classifier, args, top)?),
            Kind::Spans => Some(spans::answers(classifier, args, top)?),
            Kind::Classes | Kind::Labels | Kind::Values | Kind::Matches => None,
        })
    }

    fn configuration(args: &DataArgs) -> DataArgs {
        let task = args.task.filter(|kind| !kind.of_samples());
        let DataArgs { max_tokens, pooling, stride, windows, .. } = *args;
        DataArgs { max_tokens, pooling, task, stride, windows, ..DataArgs::default() }
    }

    /// `transformers` has a classifier on the first row only; with another pooling the encoder alone is its.
    fn upstream(pipeline: &Pipeline) -> Upstream {
        let whole = |kind| Upstream { prefix: pipeline.config.family.prefix, task_type: Some(kind), has_head: true };
        match pipeline.pooling {
            Pooling::Pooler => whole("SEQ_CLS"),
            Pooling::Tokens => whole("TOKEN_CLS"),
            Pooling::Spans => whole("QUESTION_ANS"),
            Pooling::Mean | Pooling::Cls | Pooling::Max => {
                Upstream { prefix: "", task_type: Some("FEATURE_EXTRACTION"), has_head: false }
            }
        }
    }

    fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
        let kind = known.map(|task| task.kind).or(args.task).unwrap_or_default();
        args.fit(kind)?;
        match kind {
            Kind::Tokens => tokens::splits(args, pipeline, known, seed),
            Kind::Spans => spans::splits(args, pipeline, known, seed),
            Kind::Matches => matches::splits(args, pipeline, seed),
            Kind::Classes | Kind::Labels | Kind::Values => dataset::splits(args, pipeline, known, seed),
        }
    }

    fn inputs(args: &InputArgs, pipeline: &Pipeline) -> Result<Inputs> {
        input::inputs(args, pipeline)
    }

    fn sample(text: &str, pipeline: &Pipeline) -> Result<Sample> {
        let tokens = pipeline.tokenizer.encode(text, None)?;
        Ok(Tokens::sample(&tokens.ids, tokens.first))
    }

    fn normalizes(pipeline: &Pipeline) -> bool {
        pipeline.normalize
    }

    fn fingerprint(pipeline: &Pipeline) -> String {
        pipeline.fingerprint()
    }
}

/// A model without a head, with another pooling.
fn pooled(model: Opened<Pipeline>, pooling: Pooling) -> Result<Opened<Pipeline>> {
    if model.task.is_some() && pooling != model.pipeline.pooling {
        let reason = "the model's head was trained with another pooling";
        return Err(Error::input("--pooling", reason, "leave it out, or train with it"));
    }
    Ok(repooled(model, pooling))
}

fn repooled(mut model: Opened<Pipeline>, pooling: Pooling) -> Opened<Pipeline> {
    model.pipeline = model.pipeline.pooled(pooling);
    model.network = model.pipeline.network(model.network.classes());
    model
}
