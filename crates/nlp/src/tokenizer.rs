//! Sentences to token ids: the model's own `tokenizer.json`, or a WordPiece tokenizer made from its `vocab.txt`.
//!
//! Sequences are truncated and never padded. The tokenization itself is that of the `tokenizers` crate.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy};
use topwork_core::data::{Sample, Values};
use topwork_core::{Error, Result};

/// A tokenizer with the longest sequence that it gives.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// The effective `tokenizer.json`, of which results are a function.
    digest: [u8; 32],
    max_tokens: usize,
}

/// The tokens of a sentence or a pair: the first `first` of `ids` are of segment 0, the others of segment 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Rows of the word table, `[CLS]` and `[SEP]` included.
    pub ids: Vec<u32>,
    /// How many of them belong to the first text.
    pub first: usize,
}

impl Tokens {
    /// Rows `[word, segment]`.
    pub fn sample(ids: &[u32], first: usize) -> Sample {
        let rows = ids.iter().enumerate().flat_map(|(i, &id)| [id, u32::from(i >= first)]);
        Sample { rows: ids.len(), shape: vec![2], values: Values::U32(rows.collect()) }
    }
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, else `vocab.txt`, in `folder`; `tokenizer_config.json` decides about lower-casing,
    /// accents and Chinese characters where it speaks of them, as in `transformers`.
    ///
    /// # Errors
    /// When there is none of the two, or the file is no tokenizer.
    pub fn open(folder: &Path, max_tokens: usize) -> Result<Self> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match std::fs::read(&config_path) {
            Ok(bytes) => parse(&config_path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(Error::io(&config_path)(e)),
        };
        let whole = folder.join("tokenizer.json");
        let vocabulary = folder.join("vocab.txt");
        let (path, description) = if whole.exists() {
            let bytes = std::fs::read(&whole).map_err(Error::io(&whole))?;
            let mut description = parse(&whole, &bytes)?;
            adjust(&mut description, &config);
            (whole, description)
        } else if vocabulary.exists() {
            let bytes = std::fs::read(&vocabulary).map_err(Error::io(&vocabulary))?;
            let text = String::from_utf8(bytes).map_err(|_| unusable(&vocabulary, "is not UTF-8 text"))?;
            (vocabulary.clone(), word_piece(&text, &config).map_err(|reason| unusable(&vocabulary, &reason))?)
        } else {
            return Err(Error::input(
                folder.display(),
                "holds no tokenizer",
                "put the model's tokenizer.json or vocab.txt there",
            ));
        };
        let bytes = Value::Object(description).to_string().into_bytes();
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| unusable(&path, &format!("is not a tokenizer: {e}")))?;
        inner.with_padding(None);
        let digest = *blake3::hash(&bytes).as_bytes();
        Self { inner: Arc::new(inner), digest, max_tokens: 0 }.with_max_tokens(max_tokens)
    }

    /// The same with another longest sequence.
    ///
    /// # Errors
    /// When it is too short for the special tokens of a pair and a token of each text.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Result<Self> {
        if self.max_tokens == max_tokens {
            return Ok(self);
        }
        if max_tokens < 5 {
            return Err(Error::input(
                format!("--max-tokens {max_tokens}"),
                "leaves no room for text beside [CLS] and [SEP]",
                "use 5 or more; 128 suits most sentences",
            ));
        }
        let truncation = TruncationParams {
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        Arc::make_mut(&mut self.inner).with_truncation(Some(truncation)).map_err(internal)?;
        self.max_tokens = max_tokens;
        Ok(self)
    }

    /// The longest sequence, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// One more than the largest token id.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// A digest of everything that the tokens of a text depend on but the longest sequence.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Tokens of a sentence, or of a pair of them; of a pair that is too long, the longer text is cut first.
    ///
    /// # Errors
    /// When the tokenizer fails, which none of the BERT family does on text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        let encoding = match pair {
            Some(pair) => self.inner.encode_fast((text, pair), true),
            None => self.inner.encode_fast(text, true),
        }
        .map_err(internal)?;
        let first = encoding.get_type_ids().iter().take_while(|&&segment| segment == 0).count();
        Ok(Tokens { ids: encoding.get_ids().to_vec(), first })
    }
}

fn internal(error: tokenizers::Error) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("tokenizer: {error}")))
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::input(path.display(), reason, "fetch the model again, or take the file from where the model came from")
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|e| unusable(path, &format!("is not a JSON object: {e}")))
}

/// What `tokenizer_config.json` says about normalization, by the names that `tokenizer.json` has for it.
const NORMALIZATION: [(&str, &str); 3] = [
    ("do_lower_case", "lowercase"),
    ("strip_accents", "strip_accents"),
    ("tokenize_chinese_chars", "handle_chinese_chars"),
];

/// Lets the configuration override the tokenizer's normalization, as `transformers` does.
fn adjust(description: &mut Map<String, Value>, config: &Map<String, Value>) {
    let Some(normalizer) = description.get_mut("normalizer").and_then(Value::as_object_mut) else { return };
    if normalizer.get("type").and_then(Value::as_str) == Some("BertNormalizer") {
        for (theirs, ours) in NORMALIZATION {
            // No accents setting means "as lower-casing"; the others are either on or off.
            let speaks = |value: &&Value| value.is_boolean() || (value.is_null() && ours == "strip_accents");
            if let Some(value) = config.get(theirs).filter(speaks) {
                normalizer.insert(ours.into(), value.clone());
            }
        }
    }
}

/// A `tokenizer.json` for a `vocab.txt`: one token a line, its id the number of the line.
fn word_piece(vocabulary: &str, config: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let lines = vocabulary.strip_suffix('\n').unwrap_or(vocabulary).split('\n');
    let vocab: Map<String, Value> =
        lines.enumerate().map(|(id, token)| (token.trim_end_matches('\r').to_string(), json!(id))).collect();
    let special = |role: &str, default: &str| -> Result<(String, Value), String> {
        let named = config.get(role);
        let content = named.and_then(|v| v.as_str().or_else(|| v.get("content").and_then(Value::as_str)));
        let token = content.unwrap_or(default).to_string();
        let id = vocab.get(&token).cloned().ok_or(format!("lacks the token {token:?}"))?;
        Ok((token, id))
    };
    let roles = [("pad_token", "[PAD]"), ("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")];
    let mut specials =
        roles.into_iter().map(|(role, default)| special(role, default)).collect::<Result<Vec<_>, _>>()?;
    let (unknown, cls, sep) = (specials[1].0.clone(), specials[2].clone(), specials[3].clone());
    specials.extend(special("mask_token", "[MASK]"));
    let added: Vec<Value> = specials
        .iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let mut normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                                "strip_accents": null, "lowercase": true});
    let mut holder = Map::from_iter([("normalizer".to_string(), normalizer.take())]);
    adjust(&mut holder, config);
    let token =
        |(content, _): &(String, Value), segment: u32| json!({"SpecialToken": {"id": content, "type_id": segment}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let entry = |(content, id): &(String, Value)| json!({"id": content, "ids": [id], "tokens": [content]});
    let post = json!({
        "type": "TemplateProcessing",
        "single": [token(&cls, 0), text("A", 0), token(&sep, 0)],
        "pair": [token(&cls, 0), text("A", 0), token(&sep, 0), text("B", 1), token(&sep, 1)],
        "special_tokens": {&cls.0: entry(&cls), &sep.0: entry(&sep)},
    });
    let model = json!({"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                       "max_input_chars_per_word": 100, "vocab": vocab});
    holder.extend([
        ("version".to_string(), json!("1.0")),
        ("truncation".to_string(), Value::Null),
        ("padding".to_string(), Value::Null),
        ("added_tokens".to_string(), json!(added)),
        ("pre_tokenizer".to_string(), json!({"type": "BertPreTokenizer"})),
        ("post_processor".to_string(), post),
        ("decoder".to_string(), Value::Null),
        ("model".to_string(), model),
    ]);
    Ok(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
    }

    fn tokenizer(max_tokens: usize) -> TextTokenizer {
        TextTokenizer::open(&fixture(), max_tokens).unwrap()
    }

    /// Ids and segments of one stored case.
    fn expected(case: &Value) -> (Vec<u32>, Vec<u32>) {
        let list = |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        (list("ids"), list("types"))
    }

    #[test]
    fn hard_strings_have_the_tokens_of_the_python_library() {
        let stored = std::fs::read_to_string(fixture().join("expected.json")).unwrap();
        let stored: Value = serde_json::from_str(&stored).unwrap();
        let cases = stored["cases"].as_array().unwrap();
        assert!(cases.len() >= 60);
        for case in cases {
            let tokenizer = match case["cased"].as_bool().unwrap() {
                false => tokenizer(case["max"].as_u64().unwrap() as usize),
                true => cased(),
            };
            let text = case["text"].as_str().unwrap();
            let tokens = tokenizer.encode(text, case["pair"].as_str()).unwrap();
            let segments = (0..tokens.ids.len()).map(|i| u32::from(i >= tokens.first)).collect();
            assert_eq!((tokens.ids, segments), expected(case), "{text:?}");
        }
    }

    /// The same vocabulary with case kept.
    fn cased() -> TextTokenizer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixture().join("vocab.txt"), folder.path().join("vocab.txt")).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
        TextTokenizer::open(folder.path(), 64).unwrap()
    }

    #[test]
    fn a_tokenizer_file_and_its_vocabulary_give_the_same_tokens() {
        let from_vocabulary = tokenizer(64);
        let folder = tempfile::tempdir().unwrap();
        from_vocabulary.inner.save(folder.path().join("tokenizer.json"), false).unwrap();
        let from_file = TextTokenizer::open(folder.path(), 64).unwrap();
        let text = "Crème brûlée, 日本 — don't re-tokenize!";
        assert_eq!(from_file.encode(text, Some("b")).unwrap(), from_vocabulary.encode(text, Some("b")).unwrap());
    }

    #[test]
    fn an_empty_sentence_is_its_two_special_tokens() {
        let tokens = tokenizer(16).encode("", None).unwrap();
        assert_eq!((tokens.ids.len(), tokens.first), (2, 2));
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_not_obeyed() {
        let folder = tempfile::tempdir().unwrap();
        let mut inner = (*tokenizer(64).inner).clone();
        inner.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(40),
            ..Default::default()
        }));
        inner.save(folder.path().join("tokenizer.json"), false).unwrap();
        let tokens = TextTokenizer::open(folder.path(), 64).unwrap().encode("a b", None).unwrap();
        assert_eq!(tokens.ids.len(), 4);
    }

    #[test]
    fn of_a_pair_the_longer_text_is_cut() {
        let tokens = tokenizer(10).encode("a b", Some("a b a b a b a b a b")).unwrap();
        assert_eq!((tokens.ids.len(), tokens.first), (10, 4));
    }

    #[test]
    fn rows_of_a_sample_are_word_and_segment() {
        let sample = Tokens::sample(&[2, 9, 3, 8, 3], 3);
        assert_eq!((sample.rows, sample.shape.as_slice()), (5, &[2][..]));
        assert_eq!(sample.values, Values::U32(vec![2, 0, 9, 0, 3, 0, 8, 1, 3, 1]));
    }

    #[test]
    fn a_vocabulary_without_special_tokens_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.txt"), "a\nb\n").unwrap();
        let message = TextTokenizer::open(folder.path(), 64).err().unwrap().to_string();
        assert!(message.contains("vocab.txt") && message.contains("[PAD]"), "{message}");
    }

    #[test]
    fn a_folder_without_tokenizer_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let message = TextTokenizer::open(folder.path(), 64).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json") && message.contains("vocab.txt"), "{message}");
    }
}
