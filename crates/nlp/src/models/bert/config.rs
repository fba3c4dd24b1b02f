//! What an encoder's `config.json` says.

use serde::Deserialize;
use serde_json::{Map, Value};
use topwork_core::net::Act;
use topwork_core::{Error, Result};

use super::family::{BERT, FAMILIES, Family};

/// What of `config.json` the network depends on, by BERT's names; what is absent has the value that `transformers` gives
/// it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// The member of the family.
    #[serde(skip, default = "bert")]
    pub family: &'static Family,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the tables; `hidden_size` where absent.
    pub embedding_size: Option<usize>,
    /// Width of every row between layers.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// ALBERT: groups of layers with the same parameters.
    pub num_hidden_groups: usize,
    /// ALBERT: layers in a group.
    pub inner_group_num: usize,
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
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// MPNet: buckets of distances.
    pub relative_attention_num_buckets: usize,
    /// Dropout behind projections.
    pub hidden_dropout_prob: f32,
    /// Dropout on attention weights.
    pub attention_probs_dropout_prob: f32,
    /// Dropout in the head; `hidden_dropout_prob` where absent.
    pub classifier_dropout: Option<f32>,
    /// Dropout in front of the head that finds passages, which DistilBERT has.
    pub qa_dropout: f32,
    /// Only `absolute` is supported.
    pub position_embedding_type: Option<String>,
    /// Decoders are not supported.
    pub is_decoder: bool,
}

fn bert() -> &'static Family {
    &BERT
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            family: &BERT,
            vocab_size: 30522,
            embedding_size: None,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            type_vocab_size: 2,
            max_position_embeddings: 512,
            relative_attention_num_buckets: 32,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            qa_dropout: 0.0,
            position_embedding_type: None,
            is_decoder: false,
        }
    }
}

/// Far more than any encoder has.
const MOST_LAYERS: usize = 1024;

impl BertConfig {
    /// Reads the text of a `config.json`; `subject` is what to call it in errors.
    ///
    /// # Errors
    /// When it is not JSON, or not the configuration of an encoder of the family.
    pub fn parse(text: &str, subject: &str) -> Result<Self> {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        let other = format!("topwork-nlp reads encoders of the BERT family (model_type {})", known.join(", "));
        let unclear = |e: serde_json::Error| {
            Error::input(subject, format!("is not the configuration of a BERT encoder: {e}"), &other)
        };
        let refuse = |reason: String| Error::input(subject, reason, &other);
        let theirs: Map<String, Value> = serde_json::from_str(text).map_err(unclear)?;
        let kind = theirs.get("model_type").and_then(Value::as_str).unwrap_or(BERT.model_type);
        let family = Family::named(kind).ok_or_else(|| refuse(format!("describes a model of type {kind:?}")))?;
        let mut object: Map<String, Value> = serde_json::from_str(family.defaults).map_err(unclear)?;
        object.extend(theirs.into_iter().map(|(key, value)| (family.key(&key).to_string(), value)));
        let config: Self = serde_json::from_value(Value::Object(object)).map_err(unclear)?;
        let config = Self { family, ..config };
        config.check().map_err(refuse)?;
        Ok(config)
    }

    /// What cannot be, in words.
    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(format!("wants {kind:?} positions, which are not supported"));
        }
        if self.is_decoder {
            return Err("describes a decoder".into());
        }
        // Bounds far beyond any encoder: what is made of these sizes must fit a number, and a description the memory.
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("embedding_size", self.table_width(), 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_hidden_groups", self.num_hidden_groups, MOST_LAYERS),
            ("inner_group_num", self.inner_group_num, MOST_LAYERS),
            ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 1 << 16),
        ];
        if let Some((name, size, most)) = sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            return Err(format!("has {name} {size}, which is none from 1 to {most}"));
        }
        // Each is a stage in memory before any weight is looked at.
        if self.num_hidden_layers.saturating_mul(self.inner_group_num) > MOST_LAYERS {
            return Err(format!("has more than {MOST_LAYERS} layers"));
        }
        let probabilities = [
            ("hidden_dropout_prob", Some(self.hidden_dropout_prob)),
            ("attention_probs_dropout_prob", Some(self.attention_probs_dropout_prob)),
            ("classifier_dropout", self.classifier_dropout),
            ("qa_dropout", Some(self.qa_dropout)),
        ];
        for (name, share) in probabilities {
            if share.is_some_and(|share| !(0.0..1.0).contains(&share)) {
                return Err(format!("has {name} {}, which is no share", share.unwrap_or_default()));
            }
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(format!("has layer_norm_eps {}", self.layer_norm_eps));
        }
        if self.positions() == 0 || self.positions() > 1 << 20 {
            return Err(format!("has max_position_embeddings {}", self.max_position_embeddings));
        }
        if self.relative_attention_num_buckets < 4 || !self.relative_attention_num_buckets.is_multiple_of(4) {
            let buckets = self.relative_attention_num_buckets;
            return Err(format!("has relative_attention_num_buckets {buckets}, which is no multiple of 4"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(format!(
                "has hidden_size {}, which {} heads cannot share evenly",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if self.act().is_none() {
            return Err(format!("has the unknown hidden_act {:?}", self.hidden_act));
        }
        Ok(())
    }

    /// Longest sequence, in tokens.
    pub fn positions(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.family.first_position)
    }

    /// Width of the tables.
    pub(crate) fn table_width(&self) -> usize {
        match self.family.names.projection {
            Some(_) => self.embedding_size.unwrap_or(self.hidden_size),
            None => self.hidden_size,
        }
    }

    pub(super) fn act(&self) -> Option<Act> {
        match self.hidden_act.as_str() {
            "gelu" | "gelu_python" => Some(Act::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Act::GeluTanh),
            "relu" => Some(Act::Relu),
            "tanh" => Some(Act::Tanh),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_architecture_is_refused_by_name() {
        let message = BertConfig::parse(r#"{"model_type": "gpt2"}"#, "config.json").unwrap_err().to_string();
        assert!(message.contains("gpt2") && message.contains("config.json") && message.contains("mpnet"), "{message}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (text, word) in [
            (r#"{"hidden_size": 0}"#, "hidden_size"),
            (r#"{"hidden_size": 100}"#, "evenly"),
            (r#"{"num_hidden_layers": 1000000000000}"#, "from 1 to 1024"),
            (r#"{"hidden_act": "swish2"}"#, "swish2"),
            (r#"{"hidden_size": "#, "not the configuration"),
            (r#"{"model_type": "roberta", "max_position_embeddings": 2}"#, "max_position_embeddings"),
            (r#"{"model_type": "mpnet", "relative_attention_num_buckets": 6}"#, "multiple of 4"),
        ] {
            let message = BertConfig::parse(text, "config.json").unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn absent_keys_have_the_members_own_defaults_and_names() {
        let read = |text: &str| BertConfig::parse(text, "config.json").unwrap();
        let electra = read(r#"{"model_type": "electra"}"#);
        assert_eq!((electra.hidden_size, electra.table_width()), (256, 128));
        let distil = read(r#"{"model_type": "distilbert", "dim": 32, "n_layers": 3, "dropout": 0.3, "n_heads": 4}"#);
        assert_eq!((distil.hidden_size, distil.num_hidden_layers, distil.hidden_dropout_prob), (32, 3, 0.3));
        assert_eq!(distil.classifier_dropout, Some(0.2));
        let roberta = read(r#"{"model_type": "roberta", "max_position_embeddings": 514}"#);
        assert_eq!((roberta.positions(), roberta.vocab_size), (512, 50265));
        assert_eq!(read(r#"{"model_type": "albert"}"#).hidden_act, "gelu_new");
    }
}
