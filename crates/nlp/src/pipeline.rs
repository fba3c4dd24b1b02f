//! The text pipeline of one model: its tokenizer, the longest sequence, and what its folder needs to be written again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use topwork_core::domain::Opened;
use topwork_core::net::Network;
use topwork_core::{Error, Result};

use crate::dataset::DataArgs;
use crate::folder::Dense;
use crate::models::bert::{BertConfig, Pooling};
use crate::tokenizer::{TextTokenizer, Windows};

/// Longest sequence in training when nothing else is asked for: long enough for nearly all sentences.
const USUAL_TOKENS: usize = 128;
/// The same where a question and a passage share it (Devlin et al. 2019).
const USUAL_OF_PASSAGES: usize = 384;

/// How a sentence becomes a sample for one model.
#[derive(Clone)]
pub struct Pipeline {
    /// Sentences to tokens.
    pub tokenizer: TextTokenizer,
    /// The description of the encoder.
    pub config: BertConfig,
    /// How rows become one.
    pub pooling: Pooling,
    /// Linear layers behind that.
    pub(crate) dense: Arc<[Dense]>,
    /// Whether the upstream library scales embeddings to length 1 (sentence-transformers' `Normalize`). The head sees
    /// them unscaled.
    pub normalize: bool,
    /// Tokens that neighbouring windows of a long text share, where it was chosen.
    pub stride: Option<usize>,
    /// By how much no answer must be more probable than the best one, in logits, to be given; `None` where there always is one.
    pub no_answer_threshold: Option<f64>,
    /// Whether the longest sequence was chosen, in training or by a flag, rather than the model's own.
    pub(crate) chosen: bool,
    /// The upstream `config.json`, with keys that mean nothing here.
    pub(crate) raw: Arc<Map<String, Value>>,
    /// Files of the folder that are kept as they are, by their path in it.
    pub(crate) files: Arc<BTreeMap<String, Vec<u8>>>,
}

/// In a line: what the tokenizer's files do not say.
impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "texts of up to {} tokens", self.max_tokens())?;
        if let Some(Windows { most, shared }) = self.tokenizer.windows() {
            write!(f, ", longer ones in up to {most} windows that share {shared}")?;
        }
        f.write_str(match self.pooling {
            Pooling::Mean => "; the mean of all rows",
            Pooling::Cls => "; the first row",
            Pooling::Max => "; the largest of all rows",
            Pooling::Pooler => "; the first row, through the pooler",
            Pooling::Tokens | Pooling::Spans => "; every row",
        })?;
        f.write_str(if self.normalize { ", scaled to length 1" } else { "" })
    }
}

impl Pipeline {
    /// The longest sequence, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.max_tokens()
    }

    /// The encoder with its pooling, what stands behind it, and a head of `classes` outputs.
    pub fn network(&self, classes: usize) -> Network {
        let network = self.config.network(self.pooling, classes);
        self.dense.iter().fold(network, |network, dense| dense.on(network)).windowed(self.window())
    }

    /// Rows of a window, where texts are read in windows.
    fn window(&self) -> Option<usize> {
        self.tokenizer.windows().map(|_| self.max_tokens())
    }

    /// Looks whether the flags by which texts are to be read are those that the network was made for.
    ///
    /// # Errors
    /// When a model in use would read in other windows than it computes in.
    pub(crate) fn reads(&self, args: &DataArgs) -> Result<()> {
        let windows = self.tokenizer.windows();
        let (most, shared) = (windows.map_or(1, |windows| windows.most), windows.map(|windows| windows.shared));
        let longest = args.max_tokens.filter(|&tokens| windows.is_some() && tokens != self.max_tokens());
        let other = [
            longest.map(|tokens| format!("--max-tokens {tokens}")),
            args.windows.filter(|&asked| asked != most).map(|asked| format!("--windows {asked}")),
            args.stride
                .filter(|&asked| windows.is_some() && Some(asked) != shared)
                .map(|asked| format!("--stride {asked}")),
        ];
        match other.into_iter().flatten().next() {
            None => Ok(()),
            Some(flag) => {
                let reason = "the model is judged as it was trained to read long texts";
                Err(Error::input(flag, reason, "leave it out; `predict` and `embed` take it"))
            }
        }
    }

    /// The same with another pooling; what the upstream files say of it goes.
    pub(crate) fn pooled(mut self, pooling: Pooling) -> Self {
        if pooling != self.pooling {
            // Those of modules are in folders, which nothing else is.
            let says = |name: &str| name.contains('/') || name.starts_with("modules") || name.contains("sentence_");
            Arc::make_mut(&mut self.files).retain(|name, _| !says(name));
            (self.pooling, self.normalize, self.dense) = (pooling, false, Arc::default());
        }
        self
    }

    /// The same with the longest sequence that a flag asks for; without one, what the model was trained with.
    ///
    /// # Errors
    /// When the model has not so many positions, or text would have no room.
    pub fn limited(mut self, max_tokens: Option<usize>) -> Result<Self> {
        let Some(max_tokens) = max_tokens else { return Ok(self) };
        let most = self.config.positions();
        if max_tokens > most {
            return Err(Error::input(
                format!("--max-tokens {max_tokens}"),
                format!("the model has positions for only {most} tokens"),
                format!("use {most} or less"),
            ));
        }
        self.tokenizer = self.tokenizer.with_max_tokens(max_tokens)?;
        self.chosen = true;
        Ok(self)
    }

    /// The same with texts that are longer than a sequence read in at most `most` windows, `shared` tokens of each being in the
    /// next one too; by default as it was, and a quarter of them.
    ///
    /// # Errors
    /// When rows are not pooled over the whole text, or a window would have no room.
    pub fn in_windows(mut self, most: Option<usize>, shared: Option<usize>) -> Result<Self> {
        let now = self.tokenizer.windows();
        let Some(most) = most.or(now.map(|windows| windows.most)) else { return Ok(self) };
        if most > 1 && !matches!(self.pooling, Pooling::Mean | Pooling::Max) {
            let reason = "the model looks at the first row of a text alone, which is in its first window";
            return Err(Error::input(format!("--windows {most}"), reason, "add --pooling mean, or leave it out"));
        }
        let usual = now.map(|windows| windows.shared).filter(|&shared| shared < self.max_tokens() / 2);
        let shared = shared.or(usual).unwrap_or(self.max_tokens() / 4);
        self.tokenizer = self.tokenizer.with_windows(Some(Windows { most, shared }))?;
        Ok(self)
    }

    /// The same for training: a model that is not yet fitted to a task gets at most 128 tokens,
    /// with passages 384, unless a flag says more.
    ///
    /// # Errors
    /// As [`Pipeline::limited`].
    pub fn for_training(self, max_tokens: Option<usize>) -> Result<Self> {
        let most = if self.pooling == Pooling::Spans { USUAL_OF_PASSAGES } else { USUAL_TOKENS };
        let usual = if self.chosen { self.max_tokens() } else { self.max_tokens().min(most) };
        self.limited(Some(max_tokens.unwrap_or(usual)))
    }

    /// Key of everything that the tokens of a text depend on.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"topwork-nlp tokens 1");
        hasher.update(self.tokenizer.digest());
        hasher.update(&(self.max_tokens() as u64).to_le_bytes());
        if let Some(Windows { most, shared }) = self.tokenizer.windows() {
            for number in [most, shared] {
                hasher.update(&(number as u64).to_le_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// The model with its texts in windows, as [`Pipeline::in_windows`].
///
/// # Errors
/// As there.
pub(crate) fn in_windows(
    mut model: Opened<Pipeline>,
    most: Option<usize>,
    shared: Option<usize>,
) -> Result<Opened<Pipeline>> {
    model.pipeline = model.pipeline.in_windows(most, shared)?;
    model.network = model.network.windowed(model.pipeline.window());
    Ok(model)
}

impl fmt::Debug for Pipeline {
    /// Without the files' contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Pipeline");
        shown.field("max_tokens", &self.max_tokens()).field("pooling", &self.pooling);
        shown.field("normalize", &self.normalize).field("config", &self.config).finish_non_exhaustive()
    }
}
