//! Pairs of texts with some tokens hidden, made of chunks: what one step of pre-training learns from (Devlin et al. 2019,
//! §3.1 and appendix A.1).
//!
//! An example is a function of its chunk and a seed. Another seed cuts elsewhere, follows with another text and hides
//! other tokens, so that no epoch repeats the one before (dynamic masking, Liu et al. 2019).

use topwork_core::Result;
use topwork_core::data::Sample;
use topwork_core::seed::{Seed, Stream};

use super::corpus::{Chunk, Corpus, Part, WORD};
use crate::tokenizer::Tokens;

/// How examples are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Making {
    /// `[CLS]`, `[SEP]`, `[MASK]`.
    pub marks: [u32; 3],
    /// Rows of the word table.
    pub words: usize,
    /// Most tokens, marks included.
    pub longest: usize,
    /// Share of the tokens that are to be guessed.
    pub share: f64,
    /// Hide words with all their pieces.
    pub whole_words: bool,
}

/// A pair with some tokens hidden.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Rows `[word, segment]`.
    pub sample: Sample,
    /// Rows whose token is to be guessed, ascending, and the tokens.
    pub hidden: Vec<(usize, u32)>,
    /// Whether the second text follows the first.
    pub follows: bool,
}

/// An order of `0..n` in which nothing is stored: a Feistel network over the next power of four, walked until it is back
/// in range (Black & Rogaway 2002).
pub fn permuted(i: u64, n: u64, seed: Seed) -> u64 {
    let half = (64 - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut x = i;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..6 {
            (left, right) = (right, left ^ (seed.child(round).child(right).0 & mask));
        }
        x = left << half | right;
        if x < n {
            return x;
        }
    }
}

impl Making {
    /// The example that `seed` makes of chunk `i`.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn example(&self, corpus: &Corpus, part: Part, i: u64, seed: Seed) -> Result<Example> {
        let chunk = corpus.chunk(part, i)?;
        let document = chunk.document;
        let mut stream = seed.named("pair").stream();
        let (first, rest) = cut(chunk, &mut stream);
        let follows = stream.uniform() < 0.5;
        let second = if follows { rest } else { self.other(corpus, part, document, first.len(), &mut stream)? };
        Ok(self.hide(&first, &second, follows, seed.named("mask")))
    }

    /// Tokens of another document, from the beginning of one of its sentences on.
    fn other(&self, corpus: &Corpus, part: Part, document: u64, taken: usize, stream: &mut Stream) -> Result<Vec<u32>> {
        let all = corpus.len(part);
        let first = stream.below(all as usize) as u64;
        // From a random place on, the first chunk of another document; there is one, as was seen to.
        for i in 0..all {
            let chunk = corpus.chunk(part, (first + i) % all)?;
            if chunk.document != document {
                let start = stream.below(chunk.sentences.len());
                let mut tokens: Vec<u32> = chunk.sentences.into_iter().skip(start).flatten().collect();
                tokens.truncate(self.longest.saturating_sub(3 + taken).max(1));
                return Ok(tokens);
            }
        }
        Ok(vec![self.marks[1]])
    }

    /// Puts marks around the texts and hides some of their tokens: of ten, eight become `[MASK]`, one is a random word and
    /// one stays.
    pub fn hide(&self, first: &[u32], second: &[u32], follows: bool, seed: Seed) -> Example {
        let [cls, sep, mask] = self.marks;
        let mut ids = vec![cls];
        ids.extend(first.iter().map(|token| token & !WORD));
        ids.push(sep);
        let middle = ids.len();
        ids.extend(second.iter().map(|token| token & !WORD));
        ids.push(sep);
        let rows = (1..=first.len()).chain(middle..middle + second.len());
        // What is hidden together.
        let mut units: Vec<Vec<usize>> = Vec::new();
        for (row, token) in rows.zip(first.iter().chain(second)) {
            match units.last_mut() {
                Some(unit) if self.whole_words && token & WORD == 0 => unit.push(row),
                _ => units.push(vec![row]),
            }
        }
        let count = first.len() + second.len();
        let wanted = ((count as f64 * self.share).round() as usize).clamp(1, count.max(1));
        let mut stream = seed.stream();
        stream.shuffle(&mut units);
        let mut chosen: Vec<usize> = Vec::new();
        for unit in units {
            // A first word is taken however long it is, so that none goes without.
            if chosen.is_empty() || chosen.len() + unit.len() <= wanted {
                chosen.extend(unit);
            }
            if chosen.len() >= wanted {
                break;
            }
        }
        chosen.sort_unstable();
        let mut hidden = Vec::with_capacity(chosen.len());
        for row in chosen {
            hidden.push((row, ids[row]));
            let draw = stream.uniform();
            if draw < 0.8 {
                ids[row] = mask;
            } else if draw < 0.9 {
                ids[row] = stream.below(self.words) as u32;
            }
        }
        Example { sample: Tokens::sample(&ids, middle), hidden, follows }
    }
}

/// Cuts a chunk between two of its sentences; a single sentence, in front of one of its words.
fn cut(chunk: Chunk, stream: &mut Stream) -> (Vec<u32>, Vec<u32>) {
    let mut sentences = chunk.sentences;
    if sentences.len() > 1 {
        let rest = sentences.split_off(1 + stream.below(sentences.len() - 1));
        return (sentences.concat(), rest.concat());
    }
    let mut first = sentences.pop().unwrap_or_default();
    let starts: Vec<usize> = (1..first.len()).filter(|&i| first[i] & WORD != 0).collect();
    let at = match starts.len() {
        0 => first.len().div_ceil(2),
        n => starts[stream.below(n)],
    };
    let rest = first.split_off(at);
    (first, rest)
}

#[cfg(test)]
mod tests {
    use topwork_core::data::Values;

    use super::super::corpus::{Chunking, Reader};
    use super::*;
    use crate::models::bert::family::BERT;
    use crate::tokenizer::TextTokenizer;

    const WORDS: usize = 1000;

    fn making(whole_words: bool) -> Making {
        Making { marks: [2, 3, 4], words: WORDS, longest: 128, share: 0.15, whole_words }
    }

    /// `n` tokens; every third begins a word if they are pieces.
    fn tokens(n: usize, pieces: bool) -> Vec<u32> {
        (0..n as u32).map(|i| (10 + i) | if !pieces || i % 3 == 0 { WORD } else { 0 }).collect()
    }

    fn ids(example: &Example) -> Vec<u32> {
        let Values::U32(values) = &example.sample.values else { panic!("indices") };
        values.chunks(2).map(|row| row[0]).collect()
    }

    #[test]
    fn of_hidden_tokens_eight_in_ten_are_masked_one_is_random_and_one_stays() {
        let (first, second) = (tokens(60, false), tokens(40, false));
        let (mut hidden, mut masked, mut stayed) = (0f64, 0f64, 0f64);
        for seed in 0..2000 {
            let example = making(false).hide(&first, &second, true, Seed(seed));
            assert_eq!(example.hidden.len(), 15);
            let ids = ids(&example);
            for &(row, word) in &example.hidden {
                hidden += 1.0;
                masked += f64::from(u8::from(ids[row] == 4));
                stayed += f64::from(u8::from(ids[row] == word));
            }
        }
        // 30,000 draws: three deviations are 0.007 and less.
        assert!((masked / hidden - 0.8).abs() < 0.008, "{}", masked / hidden);
        assert!((stayed / hidden - 0.1).abs() < 0.008, "{}", stayed / hidden);
    }

    #[test]
    fn every_place_is_hidden_as_often_and_marks_never() {
        let mut counts = vec![0usize; 103];
        for seed in 0..4000 {
            for (row, _) in making(false).hide(&tokens(60, false), &tokens(40, false), true, Seed(seed)).hidden {
                counts[row] += 1;
            }
        }
        assert_eq!([counts[0], counts[61], counts[102]], [0, 0, 0]);
        let texts = counts.iter().enumerate().filter(|(row, _)| ![0, 61, 102].contains(row));
        assert!(texts.clone().all(|(_, &n)| (480..=720).contains(&n)), "{:?}", texts.collect::<Vec<_>>());
    }

    #[test]
    fn whole_words_are_hidden_with_all_their_pieces() {
        let (first, second) = (tokens(60, true), tokens(39, true));
        for seed in 0..100 {
            let rows: Vec<usize> =
                making(true).hide(&first, &second, true, Seed(seed)).hidden.iter().map(|(row, _)| *row).collect();
            assert_eq!(rows.len(), 15);
            // Words begin in rows 1, 4, … and, behind the mark, in 62, 65, ….
            assert!(rows.chunks(3).all(|word| word[0] % 3 == if word[0] < 61 { 1 } else { 2 }
                && word[1] == word[0] + 1
                && word[2] == word[0] + 2));
        }
    }

    #[test]
    fn an_order_has_each_number_once_and_another_seed_another_order() {
        for n in [1u64, 2, 5, 64, 1000] {
            let mut all: Vec<u64> = (0..n).map(|i| permuted(i, n, Seed(7))).collect();
            if n == 1000 {
                assert_ne!(all, (0..n).map(|i| permuted(i, n, Seed(8))).collect::<Vec<_>>());
                assert!(all.iter().zip(0..).filter(|(a, b)| *a == b).count() < 10);
            }
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    /// A corpus of `documents` documents of three sentences with words of their own; some have one sentence.
    fn corpus(folder: &std::path::Path, documents: usize) -> Corpus {
        let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let tokenizer = TextTokenizer::open(&fixture, &BERT, false, 128).unwrap();
        let text: String = (0..documents)
            .map(|i| (0..1 + 2 * (i % 3).min(1)).map(|j| format!("a b {i} c {j}\n")).collect::<String>() + "\n")
            .collect();
        let path = folder.join("text");
        std::fs::write(&path, text).unwrap();
        let chunking = Chunking { tokenizer: &tokenizer, longest: 125, hold_out: 0.0, seed: Seed(0) };
        let silent = topwork_core::observe::Silent;
        Corpus::build(&folder.join("corpus"), &mut Reader::new(vec![path], &silent), &chunking).unwrap()
    }

    #[test]
    fn half_of_the_pairs_belong_together_and_the_others_are_of_two_documents() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = corpus(folder.path(), 60);
        let mut follow = 0;
        for seed in 0..40 {
            for i in 0..60 {
                let seed = Seed(seed).child(i);
                let example = making(false).example(&corpus, Part::Train, i, seed).unwrap();
                follow += usize::from(example.follows);
                // What was hidden is put back.
                let mut ids = ids(&example);
                example.hidden.iter().for_each(|&(row, word)| ids[row] = word);
                ids.retain(|id| ![2, 3].contains(id));
                let whole: Vec<u32> =
                    corpus.chunk(Part::Train, i).unwrap().sentences.concat().iter().map(|t| t & !WORD).collect();
                assert_eq!(ids == whole, example.follows, "{i}");
            }
        }
        // 2400 draws: three deviations are 73.
        assert!((1127..=1273).contains(&follow), "{follow}");
    }
}
