//! Sentences to token ids: the model's own `tokenizer.json`, or a tokenizer made from its vocabulary files.
//!
//! Sequences are truncated and never padded. The tokenization itself is that of the `tokenizers` crate.

mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::PostProcessor;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy};
use topwork_core::data::{Sample, Values};
use topwork_core::guard::caught;
use topwork_core::{Error, Result, files};

use crate::models::bert::family::{Family, Segments};

/// A tokenizer with the longest sequence that it gives.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// The file that it comes from.
    file: Arc<str>,
    /// The effective `tokenizer.json`, of which results are a function.
    digest: [u8; 32],
    /// Whether the model tells the two texts of a pair apart by segment.
    segments: bool,
    /// Whether a word that is given apart needs a space in front, to be the same tokens as within a text.
    spaced: bool,
    max_tokens: usize,
    /// How a single text is read that is longer, where it is not cut.
    reading: Option<Arc<Reading>>,
}

/// What reading in windows takes, for every text.
struct Reading {
    windows: Windows,
    /// The tokenizer without a longest sequence.
    whole: TextTokenizer,
    /// What stands around a window.
    frame: Frame,
}

/// A long text as several sequences behind each other, all but the last of the longest kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// At most so many; what is behind them is cut.
    pub most: usize,
    /// Tokens that each shares with the next.
    pub shared: usize,
}

/// What stands around the texts of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// In front of the first text, between the two, and behind the last; `between` is empty around one text.
    before: Vec<u32>,
    between: Vec<u32>,
    after: Vec<u32>,
    /// How many tokens of `between` are of the first segment; `None` where there is one segment only.
    first: Option<usize>,
}

impl Frame {
    /// How many tokens they are.
    pub fn len(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Whether nothing stands around texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of the first token of a text alone, or of the second of a pair behind `first` tokens.
    pub fn start(&self, first: Option<usize>) -> usize {
        self.before.len() + first.map_or(0, |first| first + self.between.len())
    }

    /// A sequence of one text.
    pub fn single(&self, text: &[u32]) -> Tokens {
        let ids = [&self.before[..], text, &self.after].concat();
        Tokens { first: ids.len(), ids }
    }

    /// A sequence of two.
    pub fn pair(&self, text: &[u32], pair: &[u32]) -> Tokens {
        let ids = [&self.before[..], text, &self.between, pair, &self.after].concat();
        let first = self.first.map_or(ids.len(), |of_between| self.before.len() + text.len() + of_between);
        Tokens { ids, first }
    }
}

/// A token of a text, and the bytes that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Row of the word table.
    pub id: u32,
    /// First byte.
    pub start: usize,
    /// Behind the last one.
    pub end: usize,
}

/// The tokens of a sentence or a pair: the first `first` of `ids` are of segment 0, the others of segment 1. Where the
/// model has no segments, all are of segment 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Rows of the word table, `[CLS]` and `[SEP]` or their like included.
    pub ids: Vec<u32>,
    /// How many of them are of the first segment.
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
    /// Reads `tokenizer.json`, else `vocab.txt`, else `vocab.json` and `merges.txt`, in `folder`; `tokenizer_config.json`
    /// decides about lower-casing, accents, Chinese characters and a space in front where it speaks of them, as in
    /// `transformers`. With `lower`, letters become small ones first (sentence-transformers' `do_lower_case`).
    ///
    /// # Errors
    /// When there is none of them, or the file is no tokenizer.
    pub fn open(folder: &Path, family: &Family, lower: bool, max_tokens: usize) -> Result<Self> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match read(&config_path)? {
            Some(text) => parse(&config_path, text.as_bytes())?,
            None => Map::new(),
        };
        let (path, mut description) = Self::described(folder, family, &config)?;
        if lower {
            lower_first(&mut description);
        }
        let spaced = of_kind(&mut description, "pre_tokenizer", "ByteLevel")
            .is_some_and(|pre| pre.get("add_prefix_space").and_then(Value::as_bool) != Some(true));
        let bytes = Value::Object(description).to_string().into_bytes();
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .unwrap_or_else(|| Err("its parts do not fit each other".into()))
            .map_err(|e| unusable(&path, &format!("is not a tokenizer: {e}")))?;
        inner.with_padding(None);
        let digest = *blake3::hash(&bytes).as_bytes();
        let segments = family.segments == Segments::Two;
        let file = path.display().to_string().into();
        let inner = Arc::new(inner);
        Self { inner, file, digest, segments, spaced, max_tokens: usize::MAX, reading: None }
            .with_max_tokens(max_tokens)
    }

    /// The effective `tokenizer.json`, and the file that it comes from.
    fn described(folder: &Path, family: &Family, config: &Map<String, Value>) -> Result<(PathBuf, Map<String, Value>)> {
        let [whole, words, pieces, merges] =
            ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"].map(|name| folder.join(name));
        if let Some(text) = read(&whole)? {
            let mut description = parse(&whole, text.as_bytes())?;
            adjust(&mut description, config);
            return Ok((whole, description));
        }
        if let Some(text) = read(&words)? {
            let made = vocabulary::word_piece(&text, config, &family.marks);
            return made.map(|made| (words.clone(), made)).map_err(|reason| unusable(&words, &reason));
        }
        if let (Some(text), Some(merges)) = (read(&pieces)?, read(&merges)?) {
            let made = vocabulary::byte_level(&text, &merges, config, &family.marks);
            return made.map(|made| (pieces.clone(), made)).map_err(|reason| unusable(&pieces, &reason));
        }
        let sentence_piece = ["sentencepiece.bpe.model", "spiece.model"].map(|name| folder.join(name));
        if let Some(path) = sentence_piece.iter().find(|path| path.exists()) {
            return Err(Error::input(
                path.display(),
                "is a SentencePiece model, which is read only as a tokenizer.json",
                "write one with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
            ));
        }
        Err(Error::input(
            folder.display(),
            "holds no tokenizer",
            "put the model's tokenizer.json, its vocab.txt, or its vocab.json and merges.txt there",
        ))
    }

    /// The same with another longest sequence.
    ///
    /// # Errors
    /// When it is too short for the special tokens of a pair and a token of each text.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Result<Self> {
        if self.max_tokens == max_tokens {
            return Ok(self);
        }
        let least = 2 + self.inner.get_post_processor().map_or(0, |post| post.added_tokens(true));
        if max_tokens < least {
            return Err(Error::input(
                format!("--max-tokens {max_tokens}"),
                "leaves no room for text beside the tokens that stand around it",
                format!("use {least} or more; 128 suits most sentences"),
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

    /// The same with long texts in windows, or cut.
    ///
    /// # Errors
    /// When neighbours would share all that they have room for.
    pub fn with_windows(mut self, windows: Option<Windows>) -> Result<Self> {
        self.reading = None;
        let Some(windows) = windows else { return Ok(self) };
        let (Windows { most, shared }, frame) = (windows, self.frame(false)?);
        let room = self.max_tokens - frame.len();
        if most == 0 {
            return Err(Error::input("--windows 0", "nothing of a text would be read", "use 1 or more"));
        }
        if shared >= room {
            let reason = format!("a window has room for {room} tokens of a text");
            return Err(Error::input(format!("--stride {shared}"), reason, format!("use {} or less", room - 1)));
        }
        if most > 1 {
            self.reading = Some(Arc::new(Reading { windows, whole: self.whole()?, frame }));
        }
        Ok(self)
    }

    /// How long texts are read; `None` where they are cut.
    pub fn windows(&self) -> Option<Windows> {
        self.reading.as_ref().map(|reading| reading.windows)
    }

    /// The longest sequence, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// One more than the largest token id, those that stand around texts included.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn vocabulary(&self) -> Result<usize> {
        let around = [self.frame(false)?, self.frame(true)?];
        let around = around.iter().flat_map(|frame| [&frame.before, &frame.between, &frame.after]).flatten().copied();
        Ok(self.inner.get_vocab(true).into_values().chain(around).max().map_or(0, |id| id as usize + 1))
    }

    /// What `work` makes with the tokenizer `inner`, a variant of this one's.
    fn with<T>(
        &self,
        inner: &tokenizers::Tokenizer,
        work: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<T>,
    ) -> Result<T> {
        let refused = |reason: String| unusable(Path::new(&*self.file), &reason);
        let outcome = caught(|| work(inner)).ok_or_else(|| refused("is a tokenizer that gives up on a text".into()))?;
        outcome.map_err(|e| refused(format!("is a tokenizer that fails on a text: {e}")))
    }

    /// A digest of everything that the tokens of a text depend on but the longest sequence.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Tokens of a text without any around them, and whether each begins a word; of a longer one than the longest sequence those
    /// of its beginning, unless the tokenizer is [`Self::whole`].
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn pieces(&self, text: &str) -> Result<Vec<(u32, bool)>> {
        let encoding = self.with(&self.inner, |inner| inner.encode(text, false))?;
        let words = encoding.get_word_ids();
        let begins = |i: usize| i == 0 || words[i].is_none() || words[i] != words[i - 1];
        Ok(encoding.get_ids().iter().enumerate().map(|(i, &id)| (id, begins(i))).collect())
    }

    /// A token as text: without the mark of the space in front.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn word(&self, id: u32) -> Result<String> {
        let decoded = self.with(&self.inner, |inner| inner.decode(&[id], false))?;
        let plain = decoded.trim().trim_start_matches(['Ġ', '▁']);
        Ok(if plain.is_empty() { self.inner.id_to_token(id).unwrap_or_default() } else { plain.to_string() })
    }

    /// The same without a longest sequence: for texts that are cut by other rules.
    ///
    /// # Errors
    /// When the tokenizer refuses.
    pub fn whole(&self) -> Result<Self> {
        let mut inner = (*self.inner).clone();
        inner.with_truncation(None).map_err(internal)?;
        Ok(Self { inner: Arc::new(inner), ..self.clone() })
    }

    /// What stands around a text, or around a pair.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn frame(&self, pair: bool) -> Result<Frame> {
        let whole = self.whole()?.inner;
        let around = |inner: &tokenizers::Tokenizer| match pair {
            true => inner.encode(("a", "a"), true),
            false => inner.encode("a", true),
        };
        let found = self.with(&whole, around)?;
        let (mut parts, mut first, mut at) = (vec![Vec::new()], 0, None);
        for ((&id, sequence), &segment) in
            found.get_ids().iter().zip(found.get_sequence_ids()).zip(found.get_type_ids())
        {
            match sequence {
                Some(_) if at != sequence => parts.push(Vec::new()),
                Some(_) => {}
                None => {
                    let part = parts.len() - 1;
                    parts[part].push(id);
                    first += usize::from(part == 1 && segment == 0);
                }
            }
            at = sequence.or(at);
        }
        let after = parts.pop().unwrap_or_default();
        let mut rest = parts.into_iter();
        let (before, between) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
        Ok(Frame { before, between, after, first: (self.segments && pair).then_some(first) })
    }

    /// The tokens of words that are given apart, nothing around them, and for each word the number of tokens before it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn words(&self, words: &[&str]) -> Result<(Vec<u32>, Vec<usize>)> {
        let spaced: Vec<String> =
            words.iter().map(|word| if self.spaced { format!(" {word}") } else { (*word).to_string() }).collect();
        let encoding = self.with(&self.inner, |inner| inner.encode(spaced, false))?;
        let of_tokens = encoding.get_word_ids();
        let before = |word: usize| of_tokens.partition_point(|of| of.is_some_and(|of| (of as usize) < word));
        Ok((encoding.get_ids().to_vec(), (0..words.len()).map(before).collect()))
    }

    /// The tokens of a text, nothing around them.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn placed(&self, text: &str) -> Result<Vec<Piece>> {
        let encoding = self.with(&self.inner, |inner| inner.encode(text, false))?;
        let placed = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(placed.map(|(&id, &(start, end))| Piece { id, start, end }).collect())
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens of a text in windows.
    fn in_windows(&self, text: &str, reading: &Reading) -> Result<Tokens> {
        let Reading { windows: Windows { most, shared }, whole, frame } = reading;
        let room = self.max_tokens.saturating_sub(frame.len());
        let text: Vec<u32> = whole.pieces(text)?.into_iter().map(|(id, _)| id).collect();
        let mut ids = Vec::new();
        for start in (0..text.len().max(1)).step_by(room.saturating_sub(*shared).max(1)).take(*most) {
            let end = text.len().min(start + room);
            ids.extend(frame.single(&text[start..end]).ids);
            if end == text.len() {
                break;
            }
        }
        Ok(Tokens { first: ids.len(), ids })
    }

    /// Tokens of a sentence, or of a pair of them; of a pair that is too long, the longer text is cut first. A single text that
    /// is too long is cut, or several windows behind each other.
    ///
    /// # Errors
    /// When the tokenizer fails, which none of the BERT family does on text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        if let (Some(reading), None) = (&self.reading, pair) {
            return self.in_windows(text, reading);
        }
        let encoding = self.with(&self.inner, |inner| match pair {
            Some(pair) => inner.encode_fast((text, pair), true),
            None => inner.encode_fast(text, true),
        })?;
        let ids = encoding.get_ids().to_vec();
        let first = match self.segments {
            true => encoding.get_type_ids().iter().take_while(|&&segment| segment == 0).count(),
            false => ids.len(),
        };
        Ok(Tokens { ids, first })
    }
}

fn internal(error: tokenizers::Error) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("tokenizer: {error}")))
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::input(path.display(), reason, "fetch the model again, or take the file from where the model came from")
}

/// A text file, if there is one.
fn read(path: &Path) -> Result<Option<String>> {
    match files::read_small(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| unusable(path, "is not UTF-8 text")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
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

/// Lets the configuration override the tokenizer's normalization, and whether words at the start have a space in front,
/// as `transformers` does.
fn adjust(description: &mut Map<String, Value>, config: &Map<String, Value>) {
    if let Some(normalizer) = of_kind(description, "normalizer", "BertNormalizer") {
        for (theirs, ours) in NORMALIZATION {
            // No accents setting means "as lower-casing"; the others are either on or off.
            let speaks = |value: &&Value| value.is_boolean() || (value.is_null() && ours == "strip_accents");
            if let Some(value) = config.get(theirs).filter(speaks) {
                normalizer.insert(ours.into(), value.clone());
            }
        }
    }
    let space = config.get("add_prefix_space").filter(|value| value.is_boolean());
    if let (Some(pre), Some(space)) = (of_kind(description, "pre_tokenizer", "ByteLevel"), space) {
        pre.insert("add_prefix_space".into(), space.clone());
    }
}

/// Puts lower-casing in front of the other normalizations, unless one of them does that.
fn lower_first(description: &mut Map<String, Value>) {
    let old = description.remove("normalizer").unwrap_or(Value::Null);
    let steps = match old.get("normalizers").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None if old.is_null() => vec![],
        None => vec![old.clone()],
    };
    let lowers = |step: &Value| step["type"] == "Lowercase" || step["lowercase"] == true;
    let new = match steps.iter().any(lowers) {
        true => old,
        false => {
            let steps: Vec<Value> = [json!({"type": "Lowercase"})].into_iter().chain(steps).collect();
            json!({"type": "Sequence", "normalizers": steps})
        }
    };
    description.insert("normalizer".into(), new);
}

/// A part of a `tokenizer.json`, if it is of this kind.
fn of_kind<'d>(description: &'d mut Map<String, Value>, part: &str, kind: &str) -> Option<&'d mut Map<String, Value>> {
    let part = description.get_mut(part).and_then(Value::as_object_mut)?;
    (part.get("type").and_then(Value::as_str) == Some(kind)).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::bert::family::BERT;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
    }

    fn tokenizer(max_tokens: usize) -> TextTokenizer {
        TextTokenizer::open(&fixture(), &BERT, false, max_tokens).unwrap()
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
                true => cased(&fixture(), 64),
            };
            let text = case["text"].as_str().unwrap();
            let tokens = tokenizer.encode(text, case["pair"].as_str()).unwrap();
            let segments = (0..tokens.ids.len()).map(|i| u32::from(i >= tokens.first)).collect();
            assert_eq!((tokens.ids, segments), expected(case), "{text:?}");
        }
    }

    /// Byte-level BPE, WordPiece that knows other alphabets, the same with case kept, and SentencePiece's Unigram of two kinds.
    fn others() -> [TextTokenizer; 5] {
        let open = |name: &str, family: &str| {
            TextTokenizer::open(&fixture().join(name), Family::named(family).unwrap(), false, 512).unwrap()
        };
        let cased = cased(&fixture().join("wide"), 512);
        let albert = open("albert", "albert");
        [open("bpe", "roberta"), open("wide", "bert"), cased, albert, open("xlm-roberta", "xlm-roberta")]
    }

    fn ids(listed: &str) -> Vec<u32> {
        listed.split(' ').map(|id| id.parse().unwrap()).collect()
    }

    /// Five hundred strings, a JSON string a line, with their tokens by the small WordPiece and by the others.
    #[test]
    fn five_hundred_hard_strings_have_the_tokens_of_the_python_library() {
        let (bert, others) = (tokenizer(512), others());
        let stored = std::fs::read_to_string(fixture().join("hard.tsv")).unwrap();
        assert_eq!(stored.lines().count(), 500);
        for line in stored.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!(columns.len(), 7);
            let text: String = serde_json::from_str(columns[0]).unwrap();
            for (i, (tokenizer, expected)) in [&bert].into_iter().chain(&others).zip(&columns[1..]).enumerate() {
                assert_eq!(tokenizer.encode(&text, None).unwrap().ids, ids(expected), "{i}: {text:?}");
            }
        }
    }

    /// Pairs of them, with the longest sequence and the number of tokens of the first segment in front of the tokens.
    #[test]
    fn pairs_of_hard_strings_have_the_tokens_of_the_python_library() {
        let others = others();
        let stored = std::fs::read_to_string(fixture().join("pairs.tsv")).unwrap();
        assert_eq!(stored.lines().count(), 80);
        for line in stored.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!(columns.len(), 6);
            let [text, pair]: [String; 2] = serde_json::from_str(columns[0]).unwrap();
            for (i, (tokenizer, expected)) in others.iter().zip(&columns[1..]).enumerate() {
                let [longest, first, expected @ ..] = &ids(expected)[..] else { panic!() };
                let tokenizer = tokenizer.clone().with_max_tokens(*longest as usize).unwrap();
                let Tokens { ids, first: found } = tokenizer.encode(&text, Some(&pair)).unwrap();
                assert_eq!((found, &ids[..]), (*first as usize, expected), "{i}: {text:?} {pair:?}");
            }
        }
    }

    fn roberta() -> &'static Family {
        Family::named("roberta").unwrap()
    }

    #[test]
    fn a_pair_without_segments_has_two_separators_between() {
        let tokenizer = TextTokenizer::open(&fixture().join("bpe"), roberta(), false, 64).unwrap();
        let [a, b, both] = [("one", None), ("two", None), ("one", Some("two"))]
            .map(|(text, pair)| tokenizer.encode(text, pair).unwrap());
        let joined = [&a.ids[..], &[2], &b.ids[1..]].concat();
        assert_eq!((both.first, both.ids), (joined.len(), joined));
    }

    #[test]
    fn lower_casing_may_come_first() {
        let folder = fixture().join("bpe");
        let [plain, lower] = [false, true].map(|lower| TextTokenizer::open(&folder, roberta(), lower, 64).unwrap());
        let of = |tokenizer: &TextTokenizer, text| tokenizer.encode(text, None).unwrap();
        assert_eq!(of(&lower, "A Photo"), of(&plain, "a photo"));
        assert_ne!(of(&plain, "A Photo"), of(&plain, "a photo"));
        assert_ne!(lower.digest(), plain.digest());
    }

    #[test]
    fn a_sentence_piece_model_alone_says_how_to_convert_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("spiece.model"), [10, 3]).unwrap();
        let message = TextTokenizer::open(folder.path(), &BERT, false, 64).err().unwrap().to_string();
        assert!(message.contains("spiece.model") && message.contains("save_pretrained"), "{message}");
    }

    /// The vocabulary of a folder with case kept.
    fn cased(vocabulary: &Path, max_tokens: usize) -> TextTokenizer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(vocabulary.join("vocab.txt"), folder.path().join("vocab.txt")).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
        TextTokenizer::open(folder.path(), &BERT, false, max_tokens).unwrap()
    }

    #[test]
    fn a_tokenizer_file_and_its_vocabulary_give_the_same_tokens() {
        let from_vocabulary = tokenizer(64);
        let folder = tempfile::tempdir().unwrap();
        from_vocabulary.inner.save(folder.path().join("tokenizer.json"), false).unwrap();
        let from_file = TextTokenizer::open(folder.path(), &BERT, false, 64).unwrap();
        let text = "Crème brûlée, 日本 — don't re-tokenize!";
        assert_eq!(from_file.encode(text, Some("b")).unwrap(), from_vocabulary.encode(text, Some("b")).unwrap());
    }

    #[test]
    fn a_frame_puts_texts_together_as_the_tokenizer_does() {
        for tokenizer in [tokenizer(64), TextTokenizer::open(&fixture().join("bpe"), roberta(), false, 64).unwrap()] {
            let ids = |text: &str| -> Vec<u32> { tokenizer.pieces(text).unwrap().iter().map(|(id, _)| *id).collect() };
            let (a, b) = ("a photo of", "two more");
            assert_eq!(tokenizer.frame(false).unwrap().single(&ids(a)), tokenizer.encode(a, None).unwrap());
            let frame = tokenizer.frame(true).unwrap();
            let both = frame.pair(&ids(a), &ids(b));
            assert_eq!(both, tokenizer.encode(a, Some(b)).unwrap());
            let start = frame.start(Some(ids(a).len()));
            assert_eq!(both.ids[start..start + ids(b).len()], ids(b));
        }
    }

    #[test]
    fn words_given_apart_are_the_tokens_of_the_text_and_know_their_first_one() {
        let words = ["the", "unbelievable", "photo"];
        for tokenizer in [tokenizer(64), TextTokenizer::open(&fixture().join("bpe"), roberta(), false, 64).unwrap()] {
            let (ids, starts) = tokenizer.words(&words).unwrap();
            let pieces = tokenizer.pieces(&format!(" {}", words.join(" "))).unwrap();
            assert_eq!(ids, pieces.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            let begins: Vec<usize> = (0..pieces.len()).filter(|&i| pieces[i].1).collect();
            assert_eq!(starts, begins);
            assert!(ids.len() > 3);
        }
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
        let tokens = TextTokenizer::open(folder.path(), &BERT, false, 64).unwrap().encode("a b", None).unwrap();
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
        let message = TextTokenizer::open(folder.path(), &BERT, false, 64).err().unwrap().to_string();
        assert!(message.contains("vocab.txt") && message.contains("[PAD]"), "{message}");
    }

    #[test]
    fn a_folder_without_tokenizer_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let message = TextTokenizer::open(folder.path(), &BERT, false, 64).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json") && message.contains("vocab.txt"), "{message}");
    }
}
