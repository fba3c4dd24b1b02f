//! Encoders of the BERT family as values, from a Hugging Face `config.json`.
//!
//! Parameters are called as in `transformers`, without the `bert.` or `roberta.` in front. Normalization comes after each
//! residual sum (post-norm): `x ← LN(x + Dropout(Attention(x)))`, then `x ← LN(x + Dropout(W₂ act(W₁ x)))`. What differs
//! between the members is in [`family`], what a checkpoint says of itself in [`config`]. Reading and writing of folders is
//! elsewhere.

pub mod config;
pub mod family;
pub mod masked;
pub mod pretraining;

use serde::{Deserialize, Serialize};
use topwork_core::net::{
    Act, Asks, Attention, Distances, Embed, Index, Layer, LayerNorm, Linear, Network, PoolRows, Repeat, Residual,
    Stage, Table,
};

pub use config::BertConfig;
use family::{Head, Projection, Segments};

/// From this distance of key and query on, all are in one bucket (MPNet).
const FARTHEST: usize = 128;

/// How the rows of a sentence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Their mean, as most sentence-transformers models (Reimers & Gurevych 2019).
    Mean,
    /// The first row, that of `[CLS]` or `<s>`, as it is.
    Cls,
    /// The largest value of each column.
    Max,
    /// As the member's classifier in `transformers`: the first row, through `pooler.dense` and tanh where the encoder
    /// comes with them; other members have a linear layer and an activation in the head.
    Pooler,
    /// Not at all: each row is labelled, as by the `…ForTokenClassification` of `transformers`.
    #[value(skip)]
    Tokens,
    /// Not at all: each row begins or ends a passage or does not, as by the `…ForQuestionAnswering` of `transformers`.
    #[value(skip)]
    Spans,
}

impl Pooling {
    /// Whether every row stays.
    pub fn keeps_rows(self) -> bool {
        matches!(self, Self::Tokens | Self::Spans)
    }
}

impl BertConfig {
    /// The network: stages `embeddings`, the encoder's layers, `pooler` (where rows become one); the head is dropout and
    /// `classifier`, the member's own, or that of rows. Input rows are `[word, segment]`; features have width `hidden_size`. Where only first rows
    /// are looked at behind the last layer, and no other layer shares its parameters, it computes nothing else.
    pub fn network(&self, pooling: Pooling, classes: usize) -> Network {
        let mut stages = vec![self.embeddings()];
        stages.extend(self.layers(self.pools_early(pooling)));
        stages.extend(self.pooler(pooling));
        let kind = self.family.model_type;
        let name = format!("{kind}-L{}-H{}-A{}", self.num_hidden_layers, self.hidden_size, self.num_attention_heads);
        Network { name, stages, head: self.head(pooling, classes), input: vec![2] }
    }

    fn embeddings(&self) -> Stage {
        let width = self.table_width();
        let table = |name: &str, rows, index| Table { name: format!("embeddings.{name}_embeddings"), rows, index };
        let mut tables = vec![table("word", self.vocab_size, Index::Column(0))];
        if self.family.segments != Segments::None {
            tables.push(table("token_type", self.type_vocab_size, Index::Column(1)));
        }
        tables.push(table("position", self.max_position_embeddings, Index::Position(self.family.first_position)));
        let mut layers = vec![
            Layer::Embed(Embed { tables, width, window: None }),
            self.norm("embeddings.LayerNorm", width),
            Layer::Dropout(self.hidden_dropout_prob),
        ];
        if let Some((name, when)) = self.family.names.projection
            && (when == Projection::Always || width != self.hidden_size)
        {
            layers.push(linear(name, width, self.hidden_size));
        }
        Stage { name: "embeddings".into(), layers }
    }

    /// Whether the last layer already gives one row a sample.
    fn pools_early(&self, pooling: Pooling) -> bool {
        matches!(pooling, Pooling::Cls | Pooling::Pooler) && self.family.names.inner.is_none()
    }

    /// One stage for each layer, or for each group of layers that have the same parameters.
    fn layers(&self, pools_early: bool) -> Vec<Stage> {
        let (prefix, count) = (self.family.names.layer, self.num_hidden_layers);
        let Some(inner) = self.family.names.inner else {
            let stage = |i: usize| {
                let name = format!("{prefix}.{i}");
                let asks = if pools_early && i + 1 == count { Asks::First } else { Asks::Every };
                Stage { layers: self.layer(&name, i, asks).into(), name }
            };
            return (0..count).map(stage).collect();
        };
        let groups = self.num_hidden_groups;
        let group_of = |i: usize| (i as f64 / (count as f64 / groups as f64)) as usize;
        let stage = |group: usize| {
            let name = format!("{prefix}.{group}");
            let layers = (0..self.inner_group_num)
                .flat_map(|i| self.layer(&format!("{name}.{inner}.{i}"), i, Asks::Every))
                .collect();
            let times = (0..count).filter(|&i| group_of(i) == group).count();
            Stage { name, layers: vec![Layer::Repeat(Repeat { layers, times })] }
        };
        (0..groups).map(stage).collect()
    }

    /// The two sublayers of the layer `i` called `name`.
    fn layer(&self, name: &str, i: usize, asks: Asks) -> [Layer; 2] {
        let (width, names) = (self.hidden_size, &self.family.names);
        let of = |part: &str| format!("{name}.{part}");
        let [query, key, value, output] = names.attention.map(|part| Linear {
            name: of(part),
            inputs: width,
            outputs: width,
            bias: true,
            update: None,
        });
        let distances = names.distances.map(|name| Distances {
            name: name.into(),
            buckets: self.relative_attention_num_buckets,
            farthest: FARTHEST,
            shared: i > 0,
        });
        let attention = Attention {
            query,
            key,
            value,
            output,
            heads: self.num_attention_heads,
            dropout: self.attention_probs_dropout_prob,
            prefix: None,
            distances,
            asks,
            window: None,
        };
        let [up, down] = names.feed_forward;
        let feed_forward = vec![
            linear(&of(up), width, self.intermediate_size),
            Layer::Act(self.act().unwrap_or(Act::Gelu)),
            linear(&of(down), self.intermediate_size, width),
        ];
        let sublayer = |mut body: Vec<Layer>, shortcut: Vec<Layer>, dropout: bool, norm: &str| {
            if dropout {
                body.push(Layer::Dropout(self.hidden_dropout_prob));
            }
            Layer::Residual(Residual { body, shortcut, then: vec![self.norm(&of(norm), width)] })
        };
        let beside = match asks {
            Asks::Every => vec![],
            Asks::First => vec![Layer::PoolRows(PoolRows::First)],
        };
        let [first, second] = self.family.dropouts;
        [
            sublayer(vec![Layer::Attention(attention)], beside, first, names.attention_norm),
            sublayer(feed_forward, vec![], second, names.norm),
        ]
    }

    fn pooler(&self, pooling: Pooling) -> Option<Stage> {
        let rows = match pooling {
            Pooling::Mean => PoolRows::Mean,
            Pooling::Max => PoolRows::Max,
            Pooling::Cls | Pooling::Pooler => PoolRows::First,
            Pooling::Tokens | Pooling::Spans => return None,
        };
        let mut layers = if self.pools_early(pooling) { vec![] } else { vec![Layer::PoolRows(rows)] };
        if let (Pooling::Pooler, Head::Pooler(dense)) = (pooling, self.family.head) {
            layers.extend([linear(dense, self.hidden_size, self.hidden_size), Layer::Act(Act::Tanh)]);
        }
        Some(Stage { name: "pooler".into(), layers })
    }

    fn head(&self, pooling: Pooling, classes: usize) -> Stage {
        let width = self.hidden_size;
        let of_pooled = Layer::Dropout(self.classifier_dropout.unwrap_or(self.hidden_dropout_prob));
        let of_rows = if self.family.classifier_drops_rows {
            of_pooled.clone()
        } else {
            Layer::Dropout(self.hidden_dropout_prob)
        };
        let dropout = of_pooled;
        let layers = match (pooling, self.family.head) {
            (Pooling::Pooler, Head::Dense { dense, act, output, dropout_first }) => {
                let mut layers = if dropout_first { vec![dropout.clone()] } else { vec![] };
                layers.extend([linear(dense, width, width), Layer::Act(act), dropout, linear(output, width, classes)]);
                layers
            }
            (Pooling::Tokens, _) => vec![of_rows, linear("classifier", width, classes)],
            (Pooling::Spans, _) => vec![Layer::Dropout(self.qa_dropout), linear("qa_outputs", width, classes)],
            _ => vec![dropout, linear("classifier", width, classes)],
        };
        Stage { name: "head".into(), layers }
    }

    /// Whether the classifier of `transformers` computes what the network with this pooling does.
    pub fn is_upstream_head(&self, pooling: Pooling) -> bool {
        // Where the encoder comes with no pooler, its classifier stands on the first row through layers of the head.
        pooling == Pooling::Pooler || pooling.keeps_rows()
    }

    fn norm(&self, name: &str, width: usize) -> Layer {
        Layer::LayerNorm(LayerNorm { name: name.into(), width, eps: self.layer_norm_eps })
    }
}

fn linear(name: &str, inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })
}

#[cfg(test)]
mod tests {
    use super::family::{FAMILIES, Family};
    use super::*;

    /// The configuration of all-MiniLM-L6-v2, as far as it matters.
    fn minilm() -> BertConfig {
        BertConfig { hidden_size: 384, num_hidden_layers: 6, intermediate_size: 1536, ..BertConfig::default() }
    }

    #[test]
    fn names_and_shapes_are_those_of_the_real_minilm_file() {
        let stored = include_str!("../../../tests/fixtures/minilm-parameters.txt");
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
    fn no_parameter_is_listed_twice_though_layers_share_it() {
        for family in FAMILIES {
            let network = BertConfig { family, ..minilm() }.network(Pooling::Pooler, 2);
            let mut names: Vec<String> = network.params().into_iter().map(|p| p.name).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "{}", family.model_type);
            assert_eq!((network.features(), network.classes()), (384, 2));
        }
    }

    #[test]
    fn layers_that_share_parameters_cost_as_much_as_others_and_hold_less() {
        let of = |kind: &str| {
            let family = Family::named(kind).unwrap();
            // Behind other pooling, the last layer of those that share nothing computes first rows alone.
            let network = BertConfig { family, ..minilm() }.network(Pooling::Mean, 2);
            let costs = network.costs(10);
            let encoder = &costs[1..costs.len() - 2];
            (encoder.iter().map(|c| c.multiply_adds).sum::<u64>(), encoder.iter().map(|c| c.parameters).sum::<usize>())
        };
        let (bert, albert) = (of("bert"), of("albert"));
        assert_eq!((albert.0, 6 * albert.1), bert);
    }

    #[test]
    fn names_of_converted_checkpoints_are_mapped() {
        let bert = Family::named("bert").unwrap();
        assert_eq!(bert.rename("bert.embeddings.LayerNorm.gamma"), "embeddings.LayerNorm.weight");
        assert_eq!(bert.rename("encoder.layer.0.output.LayerNorm.beta"), "encoder.layer.0.output.LayerNorm.bias");
        assert_eq!(bert.rename("bert.pooler.dense.bias"), "pooler.dense.bias");
        assert_eq!(bert.rename("cls.predictions.bias"), "cls.predictions.bias");
        let xlm = Family::named("xlm-roberta").unwrap();
        assert_eq!(xlm.rename("roberta.encoder.layer.0.output.dense.bias"), "encoder.layer.0.output.dense.bias");
    }
}
