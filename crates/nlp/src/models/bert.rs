//! BERT encoders (Devlin et al. 2019) as values, from a Hugging Face `config.json`.
//!
//! Parameters are called as in `transformers`, without the `bert.` in front. Normalization comes after each residual
//! sum (post-norm): `x ← LN(x + Dropout(Attention(x)))`, then `x ← LN(x + Dropout(W₂ act(W₁ x)))`. Reading and writing
//! of folders is elsewhere.

use serde::{Deserialize, Serialize};
use topwork_core::net::{
    Act, Asks, Attention, Embed, Index, Layer, LayerNorm, Linear, Network, PoolRows, Residual, Stage, Table,
};
use topwork_core::{Error, Result};

/// What of `config.json` the network depends on; what is absent has the value that `transformers` gives it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// `bert`, where the file says it.
    pub model_type: Option<String>,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of every row between layers.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads a layer.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Non-linearity of the feed-forward part: `gelu`, `gelu_new`, `relu`.
    pub hidden_act: String,
    /// Added to the variance in layer normalization.
    pub layer_norm_eps: f64,
    /// Number of segments.
    pub type_vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Dropout behind projections.
    pub hidden_dropout_prob: f32,
    /// Dropout on attention weights.
    pub attention_probs_dropout_prob: f32,
    /// Dropout in front of the head; `hidden_dropout_prob` where absent.
    pub classifier_dropout: Option<f32>,
    /// Only `absolute` is supported.
    pub position_embedding_type: Option<String>,
    /// Decoders are not supported.
    pub is_decoder: bool,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            type_vocab_size: 2,
            max_position_embeddings: 512,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            position_embedding_type: None,
            is_decoder: false,
        }
    }
}

/// How the rows of a sentence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Their mean, as most sentence-transformers models (Reimers & Gurevych 2019).
    Mean,
    /// The row of `[CLS]` as it is.
    Cls,
    /// The row of `[CLS]` through `pooler.dense` and tanh, as `BertForSequenceClassification`.
    Pooler,
}

impl BertConfig {
    /// Reads the text of a `config.json`; `subject` is what to call it in errors.
    ///
    /// # Errors
    /// When it is not JSON, or not the configuration of a BERT encoder.
    pub fn parse(text: &str, subject: &str) -> Result<Self> {
        let other = "topwork-nlp reads encoders of the BERT family (model_type \"bert\"): choose one of those";
        let config: Self = serde_json::from_str(text)
            .map_err(|e| Error::input(subject, format!("is not the configuration of a BERT encoder: {e}"), other))?;
        let refuse = |reason: String| Err(Error::input(subject, reason, other));
        if let Some(kind) = config.model_type.as_deref().filter(|kind| *kind != "bert") {
            return refuse(format!("describes a model of type {kind:?}"));
        }
        if let Some(kind) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return refuse(format!("wants {kind:?} positions, which are not supported"));
        }
        if config.is_decoder {
            return refuse("describes a decoder".into());
        }
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("intermediate_size", config.intermediate_size),
            ("type_vocab_size", config.type_vocab_size),
            ("max_position_embeddings", config.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(format!("has {name} 0"));
        }
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return refuse(format!(
                "has hidden_size {}, which {} heads cannot share evenly",
                config.hidden_size, config.num_attention_heads
            ));
        }
        if config.act().is_none() {
            return refuse(format!("has the unknown hidden_act {:?}", config.hidden_act));
        }
        Ok(config)
    }

    fn act(&self) -> Option<Act> {
        match self.hidden_act.as_str() {
            "gelu" | "gelu_python" => Some(Act::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Act::GeluTanh),
            "relu" => Some(Act::Relu),
            "tanh" => Some(Act::Tanh),
            _ => None,
        }
    }

    /// The network: stages `embeddings`, `encoder.layer.0` …, `pooler`; the head is dropout and `classifier`.
    /// Input rows are `[word, segment]`; the pooled features have width `hidden_size`. Where only `[CLS]` is looked at
    /// behind the last layer, that layer computes nothing else.
    pub fn network(&self, pooling: Pooling, classes: usize) -> Network {
        let mut stages = vec![self.embeddings()];
        let last = self.num_hidden_layers - 1;
        let asks = |i| if i == last && pooling != Pooling::Mean { Asks::First } else { Asks::Every };
        stages.extend((0..self.num_hidden_layers).map(|i| self.layer(i, asks(i))));
        stages.push(self.pooler(pooling));
        let dropout = self.classifier_dropout.unwrap_or(self.hidden_dropout_prob);
        let head = Stage {
            name: "head".into(),
            layers: vec![Layer::Dropout(dropout), linear("classifier", self.hidden_size, classes)],
        };
        let name = format!("bert-L{}-H{}-A{}", self.num_hidden_layers, self.hidden_size, self.num_attention_heads);
        Network { name, stages, head, input: vec![2] }
    }

    fn embeddings(&self) -> Stage {
        let table = |name: &str, rows, index| Table { name: format!("embeddings.{name}_embeddings"), rows, index };
        let tables = vec![
            table("word", self.vocab_size, Index::Column(0)),
            table("token_type", self.type_vocab_size, Index::Column(1)),
            table("position", self.max_position_embeddings, Index::Position(0)),
        ];
        Stage {
            name: "embeddings".into(),
            layers: vec![
                Layer::Embed(Embed { tables, width: self.hidden_size }),
                self.norm("embeddings.LayerNorm"),
                Layer::Dropout(self.hidden_dropout_prob),
            ],
        }
    }

    fn layer(&self, i: usize, asks: Asks) -> Stage {
        let name = format!("encoder.layer.{i}");
        let width = self.hidden_size;
        let square = |part: &str| Linear {
            name: format!("{name}.attention.{part}"),
            inputs: width,
            outputs: width,
            bias: true,
            update: None,
        };
        let attention = Attention {
            query: square("self.query"),
            key: square("self.key"),
            value: square("self.value"),
            output: square("output.dense"),
            heads: self.num_attention_heads,
            dropout: self.attention_probs_dropout_prob,
            prefix: None,
            asks,
        };
        let mixing = Residual {
            body: vec![Layer::Attention(attention), Layer::Dropout(self.hidden_dropout_prob)],
            shortcut: match asks {
                Asks::Every => vec![],
                Asks::First => vec![Layer::PoolRows(PoolRows::First)],
            },
            then: vec![self.norm(&format!("{name}.attention.output.LayerNorm"))],
        };
        let feed_forward = Residual {
            body: vec![
                linear(&format!("{name}.intermediate.dense"), width, self.intermediate_size),
                Layer::Act(self.act().unwrap_or(Act::Gelu)),
                linear(&format!("{name}.output.dense"), self.intermediate_size, width),
                Layer::Dropout(self.hidden_dropout_prob),
            ],
            shortcut: vec![],
            then: vec![self.norm(&format!("{name}.output.LayerNorm"))],
        };
        Stage { name, layers: vec![Layer::Residual(mixing), Layer::Residual(feed_forward)] }
    }

    fn pooler(&self, pooling: Pooling) -> Stage {
        let layers = match pooling {
            Pooling::Mean => vec![Layer::PoolRows(PoolRows::Mean)],
            Pooling::Cls => vec![],
            Pooling::Pooler => vec![linear("pooler.dense", self.hidden_size, self.hidden_size), Layer::Act(Act::Tanh)],
        };
        Stage { name: "pooler".into(), layers }
    }

    fn norm(&self, name: &str) -> Layer {
        Layer::LayerNorm(LayerNorm { name: name.into(), width: self.hidden_size, eps: self.layer_norm_eps })
    }
}

fn linear(name: &str, inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })
}

/// The description's name for a checkpoint's: without `bert.` in front, and with the `gamma` and `beta` of
/// checkpoints converted from TensorFlow called `weight` and `bias`.
pub fn rename(name: &str) -> String {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if let Some(stem) = name.strip_suffix("LayerNorm.gamma") {
        format!("{stem}LayerNorm.weight")
    } else if let Some(stem) = name.strip_suffix("LayerNorm.beta") {
        format!("{stem}LayerNorm.bias")
    } else {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration of all-MiniLM-L6-v2, as far as it matters.
    fn minilm() -> BertConfig {
        BertConfig { hidden_size: 384, num_hidden_layers: 6, intermediate_size: 1536, ..BertConfig::default() }
    }

    #[test]
    fn names_and_shapes_are_those_of_the_real_minilm_file() {
        let stored = include_str!("../../tests/fixtures/minilm-parameters.txt");
        let mut theirs: Vec<String> = stored.lines().map(str::to_string).collect();
        let network = minilm().network(Pooling::Pooler, 2);
        let encoder = network.stages.iter().flat_map(Stage::params);
        let mut ours: Vec<String> = encoder.map(|p| format!("{} {:?}", p.name, p.shape)).collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn mean_pooling_has_no_parameters_and_the_head_takes_its_width() {
        let network = minilm().network(Pooling::Mean, 5);
        assert!(network.stages.last().unwrap().params().is_empty());
        assert_eq!((network.features(), network.classes()), (384, 5));
    }

    #[test]
    fn each_sublayer_is_normalized_after_its_sum() {
        let network = minilm().network(Pooling::Mean, 2);
        for layer in &network.stages[1].layers {
            let Layer::Residual(residual) = layer else { panic!("{layer:?}") };
            assert!(matches!(residual.then[..], [Layer::LayerNorm(_)]));
            assert!(!residual.body.iter().any(|l| matches!(l, Layer::LayerNorm(_))));
        }
    }

    #[test]
    fn names_of_converted_checkpoints_are_mapped() {
        assert_eq!(rename("bert.embeddings.LayerNorm.gamma"), "embeddings.LayerNorm.weight");
        assert_eq!(rename("encoder.layer.0.output.LayerNorm.beta"), "encoder.layer.0.output.LayerNorm.bias");
        assert_eq!(rename("bert.pooler.dense.bias"), "pooler.dense.bias");
        assert_eq!(rename("cls.predictions.bias"), "cls.predictions.bias");
    }

    #[test]
    fn another_architecture_is_refused_by_name() {
        let message = BertConfig::parse(r#"{"model_type": "roberta"}"#, "config.json").unwrap_err().to_string();
        assert!(message.contains("roberta") && message.contains("config.json"), "{message}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (text, word) in [
            (r#"{"hidden_size": 0}"#, "hidden_size"),
            (r#"{"hidden_size": 100}"#, "evenly"),
            (r#"{"hidden_act": "swish2"}"#, "swish2"),
            (r#"{"hidden_size": "#, "not the configuration"),
        ] {
            let message = BertConfig::parse(text, "config.json").unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
