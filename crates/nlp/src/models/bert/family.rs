//! The members of the BERT family: all that is different between them, as data.
//!
//! BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020), DistilBERT (Sanh et al. 2019),
//! ALBERT (Lan et al. 2020), the discriminator of ELECTRA (Clark et al. 2020), MPNet (Song et al. 2020). Names are those
//! of `transformers`.

use topwork_core::net::Act;

use super::masked::Guess;

/// One member.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// As `config.json` calls it.
    pub model_type: &'static str,
    /// What the names of its classes in `transformers` begin with: `Bert` of `BertForSequenceClassification`.
    pub class: &'static str,
    /// In front of the encoder's parameters where there is a head beside them: `bert.`.
    pub prefix: &'static str,
    /// What `transformers` takes for keys that are absent from `config.json`, where that is not BERT's: a JSON object.
    pub defaults: &'static str,
    /// Keys of `config.json` with another name than BERT's, theirs first.
    pub keys: &'static [(&'static str, &'static str)],
    /// The names of its parameters.
    pub names: Names,
    /// Rows of the position table in front of that of the first position.
    pub first_position: usize,
    /// What becomes of the two texts of a pair.
    pub segments: Segments,
    /// Whether attention's projection and the feed-forward part are followed by dropout.
    pub dropouts: [bool; 2],
    /// The layers between the first row and the classes, in the classifier of `transformers`.
    pub head: Head,
    /// The head that guesses hidden tokens.
    pub guess: Guess,
    /// Whether the head that labels rows has the dropout of the classifier, else that of the encoder.
    pub classifier_drops_rows: bool,
    /// Tokens with a meaning of their own.
    pub marks: Marks,
}

/// Prefixes of parameters. Those inside a layer stand behind its own.
#[derive(Debug, PartialEq)]
pub struct Names {
    /// The encoder's layers: before the number.
    pub layer: &'static str,
    /// Of a group of layers that are one: what stands between the numbers of group and layer.
    pub inner: Option<&'static str>,
    /// Attention: queries, keys, values, output projection.
    pub attention: [&'static str; 4],
    /// Normalization behind attention.
    pub attention_norm: &'static str,
    /// The feed-forward part, up and down.
    pub feed_forward: [&'static str; 2],
    /// Normalization behind it.
    pub norm: &'static str,
    /// From the width of the tables to that of the rows, where they differ or always.
    pub projection: Option<(&'static str, Projection)>,
    /// Terms of attention by distance.
    pub distances: Option<&'static str>,
}

/// When the widths of tables and rows are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// Where they differ.
    Needed,
    /// Where they are the same, too.
    Always,
}

/// What becomes of the two texts of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// A table tells them apart.
    Two,
    /// There is a table, and every row takes its first.
    First,
    /// There is no table.
    None,
}

/// The layers between the first row and the classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Head {
    /// A linear layer and tanh that come with the encoder; the head is `classifier`.
    Pooler(&'static str),
    /// A linear layer of the head's own with its activation, then another one.
    Dense {
        /// Prefix of the first.
        dense: &'static str,
        /// Between the two.
        act: Act,
        /// Prefix of the last.
        output: &'static str,
        /// Whether there is dropout in front of the first, too.
        dropout_first: bool,
    },
}

/// Tokens with a meaning of their own, by the names that they have where no file says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Fills up.
    pub pad: &'static str,
    /// For what is not in the vocabulary.
    pub unk: &'static str,
    /// In front of every sequence.
    pub cls: &'static str,
    /// Behind every text.
    pub sep: &'static str,
    /// For a token to be guessed.
    pub mask: &'static str,
    /// Whether a pair has two separators between its texts (`<s> A </s></s> B </s>`), and both are of segment 0.
    pub doubled: bool,
}

const BERT_MARKS: Marks =
    Marks { pad: "[PAD]", unk: "[UNK]", cls: "[CLS]", sep: "[SEP]", mask: "[MASK]", doubled: false };
const ROBERTA_MARKS: Marks =
    Marks { pad: "<pad>", unk: "<unk>", cls: "<s>", sep: "</s>", mask: "<mask>", doubled: true };

const BERT_NAMES: Names = Names {
    layer: "encoder.layer",
    inner: None,
    attention: ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
    attention_norm: "attention.output.LayerNorm",
    feed_forward: ["intermediate.dense", "output.dense"],
    norm: "output.LayerNorm",
    projection: None,
    distances: None,
};

const ROBERTA_HEAD: Head =
    Head::Dense { dense: "classifier.dense", act: Act::Tanh, output: "classifier.out_proj", dropout_first: true };

const BERT_GUESS: Guess = Guess {
    dense: "cls.predictions.transform.dense",
    act: None,
    norm: "cls.predictions.transform.LayerNorm",
    bias: "cls.predictions.bias",
    decoder: "cls.predictions.decoder",
};
const ROBERTA_GUESS: Guess = Guess {
    dense: "lm_head.dense",
    act: Some(Act::Gelu),
    norm: "lm_head.layer_norm",
    bias: "lm_head.bias",
    decoder: "lm_head.decoder",
};

/// BERT itself, and MiniLM.
pub const BERT: Family = Family {
    model_type: "bert",
    class: "Bert",
    prefix: "bert.",
    defaults: "{}",
    keys: &[],
    names: BERT_NAMES,
    first_position: 0,
    segments: Segments::Two,
    dropouts: [true, true],
    head: Head::Pooler("pooler.dense"),
    guess: BERT_GUESS,
    classifier_drops_rows: true,
    marks: BERT_MARKS,
};

const ROBERTA: Family = Family {
    model_type: "roberta",
    class: "Roberta",
    prefix: "roberta.",
    defaults: r#"{"vocab_size": 50265}"#,
    first_position: 2,
    segments: Segments::First,
    head: ROBERTA_HEAD,
    guess: ROBERTA_GUESS,
    marks: ROBERTA_MARKS,
    ..BERT
};

/// All of them.
pub const FAMILIES: &[Family] = &[
    BERT,
    ROBERTA,
    Family { model_type: "xlm-roberta", class: "XLMRoberta", defaults: "{}", ..ROBERTA },
    Family {
        model_type: "distilbert",
        class: "DistilBert",
        prefix: "distilbert.",
        defaults: r#"{"num_hidden_layers": 6, "classifier_dropout": 0.2, "qa_dropout": 0.1}"#,
        keys: &[
            ("dim", "hidden_size"),
            ("n_layers", "num_hidden_layers"),
            ("n_heads", "num_attention_heads"),
            ("hidden_dim", "intermediate_size"),
            ("activation", "hidden_act"),
            ("dropout", "hidden_dropout_prob"),
            ("attention_dropout", "attention_probs_dropout_prob"),
            ("seq_classif_dropout", "classifier_dropout"),
        ],
        names: Names {
            layer: "transformer.layer",
            attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
            attention_norm: "sa_layer_norm",
            feed_forward: ["ffn.lin1", "ffn.lin2"],
            norm: "output_layer_norm",
            ..BERT_NAMES
        },
        segments: Segments::None,
        dropouts: [false, true],
        head: Head::Dense { dense: "pre_classifier", act: Act::Relu, output: "classifier", dropout_first: false },
        guess: Guess {
            dense: "vocab_transform",
            act: None,
            norm: "vocab_layer_norm",
            bias: "vocab_projector.bias",
            decoder: "vocab_projector",
        },
        classifier_drops_rows: false,
        ..BERT
    },
    Family {
        model_type: "albert",
        class: "Albert",
        prefix: "albert.",
        defaults: r#"{"vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_attention_heads": 64,
            "intermediate_size": 16384, "hidden_act": "gelu_new", "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.1}"#,
        keys: &[("classifier_dropout_prob", "classifier_dropout")],
        names: Names {
            layer: "encoder.albert_layer_groups",
            inner: Some("albert_layers"),
            attention: ["attention.query", "attention.key", "attention.value", "attention.dense"],
            attention_norm: "attention.LayerNorm",
            feed_forward: ["ffn", "ffn_output"],
            norm: "full_layer_layer_norm",
            projection: Some(("encoder.embedding_hidden_mapping_in", Projection::Always)),
            ..BERT_NAMES
        },
        dropouts: [true, false],
        head: Head::Pooler("pooler"),
        guess: Guess {
            dense: "predictions.dense",
            act: None,
            norm: "predictions.LayerNorm",
            bias: "predictions.bias",
            decoder: "predictions.decoder",
        },
        ..BERT
    },
    Family {
        model_type: "electra",
        class: "Electra",
        prefix: "electra.",
        defaults: r#"{"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}"#,
        names: Names { projection: Some(("embeddings_project", Projection::Needed)), ..BERT_NAMES },
        head: Head::Dense {
            dense: "classifier.dense",
            act: Act::Gelu,
            output: "classifier.out_proj",
            dropout_first: true,
        },
        guess: Guess {
            dense: "generator_predictions.dense",
            act: Some(Act::Gelu),
            norm: "generator_predictions.LayerNorm",
            bias: "generator_lm_head.bias",
            decoder: "generator_lm_head",
        },
        ..BERT
    },
    Family {
        model_type: "mpnet",
        class: "MPNet",
        prefix: "mpnet.",
        defaults: r#"{"vocab_size": 30527}"#,
        names: Names {
            attention: ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"],
            attention_norm: "attention.LayerNorm",
            distances: Some("encoder.relative_attention_bias"),
            ..BERT_NAMES
        },
        first_position: 2,
        segments: Segments::None,
        head: ROBERTA_HEAD,
        guess: ROBERTA_GUESS,
        marks: Marks { unk: "[UNK]", ..ROBERTA_MARKS },
        ..BERT
    },
];

impl Family {
    /// The member that `config.json` calls so.
    pub fn named(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// BERT's name for a key of `config.json`.
    pub fn key<'k>(&self, theirs: &'k str) -> &'k str {
        self.keys.iter().find(|(name, _)| *name == theirs).map_or(theirs, |(_, ours)| *ours)
    }

    /// The description's name for a checkpoint's: without the encoder's prefix, and with the `gamma` and `beta` of
    /// checkpoints converted from TensorFlow called `weight` and `bias`.
    pub fn rename(&self, name: &str) -> String {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        match name.rsplit_once('.') {
            Some((stem, "gamma")) => format!("{stem}.weight"),
            Some((stem, "beta")) => format!("{stem}.bias"),
            _ => name.to_string(),
        }
    }
}
