//! A `tokenizer.json` for the files of older models: a `vocab.txt` of WordPiece (Schuster & Nakajima 2012), or the
//! `vocab.json` and `merges.txt` of byte-level BPE (Radford et al. 2019).

use serde_json::{Map, Value, json};

use super::adjust;
use crate::models::bert::family::Marks;

/// A token with a meaning of its own, and its id.
type Special = (String, Value);

/// The marks in a vocabulary.
struct Specials {
    unk: Special,
    cls: Special,
    sep: Special,
    /// All of them, as `added_tokens`.
    added: Value,
}

impl Specials {
    /// By the names of `tokenizer_config.json`, else the family's; the mask may be missing.
    fn find(vocab: &Map<String, Value>, config: &Map<String, Value>, marks: &Marks) -> Result<Self, String> {
        let mut added: Vec<(u64, Value)> = Vec::new();
        let mut special = |role: &str, default: &str| -> Result<Special, String> {
            let named = config.get(role);
            let content = named.and_then(|v| v.as_str().or_else(|| v.get("content").and_then(Value::as_str)));
            let token = content.unwrap_or(default).to_string();
            let id = vocab.get(&token).cloned().ok_or(format!("lacks the token {token:?}"))?;
            let says =
                |key: &str, default: bool| named.and_then(|v| v.get(key)).and_then(Value::as_bool).unwrap_or(default);
            // A mask stands for the space in front of it, too, where spaces are parts of tokens.
            let lstrip = says("lstrip", role == "mask_token" && marks.doubled);
            let entry = json!({"id": id, "content": token, "single_word": says("single_word", false),
                "lstrip": lstrip, "rstrip": says("rstrip", false), "normalized": says("normalized", false),
                "special": true});
            let number = id.as_u64().unwrap_or_default();
            if added.iter().all(|(other, _)| *other != number) {
                added.push((number, entry));
            }
            Ok((token, id))
        };
        special("pad_token", marks.pad)?;
        let unk = special("unk_token", marks.unk)?;
        let (cls, sep) = (special("cls_token", marks.cls)?, special("sep_token", marks.sep)?);
        let _ = special("mask_token", marks.mask);
        Ok(Self { unk, cls, sep, added: added.into_iter().map(|(_, entry)| entry).collect() })
    }

    /// How sequences are put together.
    fn post_processor(&self, marks: &Marks, add_prefix_space: bool) -> Value {
        if marks.doubled {
            return json!({"type": "RobertaProcessing", "sep": self.sep, "cls": self.cls, "trim_offsets": true,
                "add_prefix_space": add_prefix_space});
        }
        let token = |(content, _): &Special, segment: u32| json!({"SpecialToken": {"id": content, "type_id": segment}});
        let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
        let entry = |(content, id): &Special| json!({"id": content, "ids": [id], "tokens": [content]});
        let (cls, sep) = (&self.cls, &self.sep);
        json!({
            "type": "TemplateProcessing",
            "single": [token(cls, 0), text("A", 0), token(sep, 0)],
            "pair": [token(cls, 0), text("A", 0), token(sep, 0), text("B", 1), token(sep, 1)],
            "special_tokens": {&cls.0: entry(cls), &sep.0: entry(sep)},
        })
    }
}

fn assembled(parts: [(&str, Value); 4]) -> Map<String, Value> {
    let fixed = [("version", json!("1.0")), ("truncation", Value::Null), ("padding", Value::Null)];
    fixed.into_iter().chain(parts).map(|(key, value)| (key.to_string(), value)).collect()
}

/// Of a `vocab.txt`: one token a line, its id the number of the line.
pub(super) fn word_piece(
    vocabulary: &str,
    config: &Map<String, Value>,
    marks: &Marks,
) -> Result<Map<String, Value>, String> {
    let lines = vocabulary.strip_suffix('\n').unwrap_or(vocabulary).split('\n');
    let vocab: Map<String, Value> =
        lines.enumerate().map(|(id, token)| (token.trim_end_matches('\r').to_string(), json!(id))).collect();
    let specials = Specials::find(&vocab, config, marks)?;
    let mut description = assembled([
        ("added_tokens", specials.added.clone()),
        ("pre_tokenizer", json!({"type": "BertPreTokenizer"})),
        ("post_processor", specials.post_processor(marks, false)),
        (
            "model",
            json!({"type": "WordPiece", "unk_token": specials.unk.0, "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": vocab}),
        ),
    ]);
    description.insert("decoder".into(), Value::Null);
    description.insert(
        "normalizer".into(),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
               "strip_accents": null, "lowercase": true}),
    );
    adjust(&mut description, config);
    Ok(description)
}

/// Of a `vocab.json`, an object of ids, and a `merges.txt`, a pair of pieces a line in the order in which they merge.
pub(super) fn byte_level(
    vocabulary: &str,
    merges: &str,
    config: &Map<String, Value>,
    marks: &Marks,
) -> Result<Map<String, Value>, String> {
    let vocab: Map<String, Value> =
        serde_json::from_str(vocabulary).map_err(|e| format!("is not a JSON object of ids: {e}"))?;
    let specials = Specials::find(&vocab, config, marks)?;
    let lines = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let add_prefix_space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
        "use_regex": true});
    let mut description = assembled([
        ("added_tokens", specials.added.clone()),
        ("pre_tokenizer", byte_level.clone()),
        ("post_processor", specials.post_processor(marks, add_prefix_space)),
        (
            "model",
            json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                   "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                   "merges": lines.collect::<Vec<_>>()}),
        ),
    ]);
    description.insert("normalizer".into(), Value::Null);
    description.insert("decoder".into(), byte_level);
    Ok(description)
}
