//! Transfer learning for text: encoders of the BERT family, the text pipeline, and what `topwork-core` asks of a domain.
//!
//! [`Sentences`] is the domain. A sentence is a sample of n rows `[word, segment]`, n its number of tokens; models are
//! folders as Hugging Face has them.

pub mod dataset;
mod folder;
pub mod input;
pub mod models;
pub mod pipeline;
pub mod pretrain;
pub mod table;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use topwork_core::Result;
use topwork_core::adapter::Upstream;
use topwork_core::data::{Sample, Splits};
use topwork_core::domain::{Domain, Inputs, NoFlags, Opened};
use topwork_core::onnx;
use topwork_core::plan::Optimizer;
use topwork_core::seed::Seed;
use topwork_core::source::{Card, RemoteFile};
use topwork_core::strategy::{Defaults, Recipe};
use topwork_core::task::Task;

pub use dataset::DataArgs;
pub use input::InputArgs;
use models::bert::Pooling;
pub use pipeline::Pipeline;
use tokenizer::Tokens;

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
    const HUB_FILES: &'static [RemoteFile] = models::HUB_FILES;
    const LIBRARIES: &'static [&'static str] = &["transformers"];

    const GRAPH_INPUTS: onnx::Inputs =
        onnx::Inputs::Rows { columns: &["input_ids", "token_type_ids"], mask: "attention_mask" };

    type Pipeline = Pipeline;
    type Input = str;
    type DataArgs = DataArgs;
    type InputArgs = InputArgs;
    type ViewArgs = NoFlags;
    type Verbs = pretrain::Verbs;

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
        Defaults { batch_size: 16, fine_tuning, from_scratch }
    }

    fn open(folder: &Path, _card: Option<&Card>) -> Result<Opened<Pipeline>> {
        folder::open(folder)
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
        model.pipeline = model.pipeline.for_training(args.max_tokens)?;
        if let Some(pooling) = args.pooling {
            model.pipeline = model.pipeline.pooled(pooling);
            model.network = model.pipeline.network(model.network.classes());
        }
        Ok(model)
    }

    fn configuration(args: &DataArgs) -> DataArgs {
        DataArgs { max_tokens: args.max_tokens, pooling: args.pooling, ..DataArgs::default() }
    }

    /// `transformers` has a classifier on the first row only; with another pooling the encoder alone is its.
    fn upstream(pipeline: &Pipeline) -> Upstream {
        match pipeline.pooling {
            Pooling::Pooler => {
                Upstream { prefix: pipeline.config.family.prefix, task_type: Some("SEQ_CLS"), has_head: true }
            }
            Pooling::Mean | Pooling::Cls | Pooling::Max => {
                Upstream { prefix: "", task_type: Some("FEATURE_EXTRACTION"), has_head: false }
            }
        }
    }

    fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
        dataset::splits(args, pipeline, known, seed)
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
