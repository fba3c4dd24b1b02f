//! A WordPiece vocabulary learned from text (Schuster & Nakajima 2012), as BERT's: `vocab.txt`, one token a line.
//!
//! The merges are found by the `tokenizers` crate. It numbers the pieces of single characters in the order of a hash map;
//! giving them to it as tokens that are there already makes the vocabulary a function of the text.

use std::collections::BTreeMap;

use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::tokenizer::{AddedToken, Model, NormalizedString, Normalizer, Trainer};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
use topwork_core::{Error, Result};

use super::corpus::Reader;
use crate::models::bert::family::BERT;

/// Characters that get a piece; words with rarer ones are `[UNK]`.
const ALPHABET: usize = 1000;
/// What is seen less often gets no piece of its own.
const LEAST: u64 = 2;
/// About how many bytes of text are looked at, spread over all of it: a word table does not stop growing.
const BYTES: u64 = 1 << 28;

/// Most different words that are counted at a time; beyond, the rarest are forgotten.
const WORDS: usize = 1 << 20;

/// Words of a line, as BERT splits it.
fn words(line: &str, lower: bool) -> Result<Vec<String>, tokenizers::Error> {
    let mut text = NormalizedString::from(line);
    BertNormalizer::new(true, true, None, lower).normalize(&mut text)?;
    let mut text = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut text)?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_string()).collect())
}

fn internal(error: tokenizers::Error) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("vocabulary: {error}")))
}

/// How often words occur, in one line of every so many.
fn count(corpus: &mut Reader<'_>, every: u64, lower: bool) -> Result<BTreeMap<String, u64>> {
    let (mut rare, mut counts) = (0, BTreeMap::<String, u64>::new());
    let of_line = |number: u64, line: &str| match number.is_multiple_of(every) {
        true => words(line, lower).map_err(internal),
        false => Ok(Vec::new()),
    };
    corpus.each(of_line, |words| {
        for word in words.into_iter().flatten() {
            *counts.entry(word).or_default() += 1;
        }
        while counts.len() > WORDS {
            rare += 1;
            counts.retain(|_, count| *count > rare);
        }
        Ok(())
    })?;
    Ok(counts)
}

/// Learns a vocabulary of about `size` tokens from `corpus`, which is read once and holds `bytes` bytes; the text of a
/// `vocab.txt`.
///
/// # Errors
/// When the text cannot be read, or `size` has no room for its characters.
pub fn learn(corpus: &mut Reader<'_>, bytes: u64, size: usize, lower: bool) -> Result<String> {
    let counts = count(corpus, bytes.div_ceil(BYTES).max(1), lower)?;
    let mut letters = BTreeMap::<char, u64>::new();
    for (word, count) in &counts {
        word.chars().for_each(|c| *letters.entry(c).or_default() += count);
    }
    let mut letters: Vec<(char, u64)> = letters.into_iter().filter(|(_, count)| *count >= LEAST).collect();
    letters.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    letters.truncate(ALPHABET);
    let mut letters: Vec<char> = letters.into_iter().map(|(c, _)| c).collect();
    letters.sort_unstable();
    let marks = BERT.marks;
    let known = [marks.pad, marks.unk, marks.cls, marks.sep, marks.mask].map(String::from);
    let pieces = letters.iter().map(|c| c.to_string()).chain(letters.iter().map(|c| format!("##{c}")));
    let first: Vec<AddedToken> = known.into_iter().chain(pieces).map(|token| AddedToken::from(token, true)).collect();
    if first.len() >= size {
        return Err(Error::input(
            format!("--vocabulary {size}"),
            format!("the characters of the text alone take {}", first.len()),
            "choose a larger vocabulary; 8000 and more are usual",
        ));
    }
    let mut trainer: WordPieceTrainer = WordPieceTrainer::builder()
        .vocab_size(size)
        .min_frequency(LEAST)
        .special_tokens(first)
        .show_progress(false)
        .build();
    // A word as often as it was counted, without the text in memory.
    let spelt = |word: &&(String, u64)| word.0.chars().all(|c| letters.binary_search(&c).is_ok());
    let counts: Vec<(String, u64)> = counts.into_iter().collect();
    let all = counts.iter().filter(spelt).flat_map(|(word, count)| (0..*count).map(move |_| word.as_str()));
    trainer.feed(all, |word| Ok(vec![word.to_string()])).map_err(internal)?;
    let mut model = WordPiece::default();
    trainer.train(&mut model).map_err(internal)?;
    let mut tokens: Vec<(u32, String)> = model.get_vocab().into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    Ok(tokens.into_iter().map(|(_, token)| token + "\n").collect())
}

#[cfg(test)]
mod tests {
    use topwork_core::observe::Silent;

    use super::*;

    fn learned(text: &str, size: usize, lower: bool) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, text).unwrap();
        let words = learn(&mut Reader::new(vec![path], &Silent), text.len() as u64, size, lower)?;
        Ok(words.lines().map(String::from).collect())
    }

    const TEXT: &str = "The lower the newer, the newest\nlower lower LOW widest\n\nnewest widest Straße\n";

    #[test]
    fn frequent_words_become_tokens_behind_marks_and_characters() {
        let found = learned(TEXT, 90, true).unwrap();
        assert_eq!(found[..5], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
        for word in ["the", "lower", "newest", "##e", "w"] {
            assert!(found.iter().any(|token| token == word), "{word}: {found:?}");
        }
        assert!(!found.iter().any(|token| token.contains(char::is_uppercase) && !token.starts_with('[')));
    }

    #[test]
    fn of_a_text_without_documents_lines_are_counted_all_over_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        let lines: String = (0..60).map(|i| format!("line of third{}\n", i / 20)).collect();
        std::fs::write(&path, lines).unwrap();
        let counts = count(&mut Reader::new(vec![path], &Silent), 6, true).unwrap();
        assert_eq!(counts["line"], 10);
        assert_eq!(["third0", "third1", "third2"].map(|word| counts[word]), [4, 3, 3]);
    }

    #[test]
    fn the_same_text_gives_the_same_vocabulary() {
        let text: String = (0..400).map(|i| format!("word{} is number{}\n", i % 37, i * i % 91)).collect();
        let first = learned(&text, 200, true).unwrap();
        for _ in 0..3 {
            assert_eq!(learned(&text, 200, true).unwrap(), first);
        }
    }

    #[test]
    fn case_is_kept_where_asked_for() {
        // A character that occurs once is none of the vocabulary.
        let text = TEXT.replace("LOW", "LOW LOW");
        assert!(learned(&text, 90, false).unwrap().iter().any(|token| token == "L"));
    }

    #[test]
    fn a_size_without_room_for_the_characters_names_the_flag() {
        let message = learned(TEXT, 20, true).unwrap_err().to_string();
        assert!(message.contains("--vocabulary 20"), "{message}");
    }
}
