//! Labels for words: names of people and places, parts of speech.
//!
//! A word has the label of its first token, its other tokens have none, as in `transformers`. A text that is longer than a
//! sequence is read in [`windows`]: a sample is a window, and its numbers are a label for each row.

mod answer;
mod mistakes;
mod read;
mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use topwork_core::data::{Dataset, Sample, Splits, View, hold_out};
use topwork_core::outputs::Mistake;
use topwork_core::seed::Seed;
use topwork_core::task::{BEGINS, Kind, Task, UNLABELLED, strata};
use topwork_core::{Error, Result};

use crate::dataset::{DataArgs, held_share, no_train};
use crate::pipeline::Pipeline;
use crate::table::place;
use crate::tokenizer::{Frame, TextTokenizer, Tokens};
pub(crate) use answer::answers;
pub use answer::{Entity, entities};
pub use windows::{Window, windows};

/// How texts are cut for a model.
#[derive(Clone)]
pub(crate) struct Cutting {
    tokenizer: TextTokenizer,
    frame: Frame,
    /// Tokens of a window.
    room: usize,
    /// Tokens that two of them share.
    shared: usize,
}

/// A text in windows.
pub(crate) struct Cut {
    /// Tokens of the text, nothing around them.
    pub ids: Vec<u32>,
    /// Number of tokens before each word.
    pub starts: Vec<usize>,
    pub windows: Vec<Window>,
}

impl Cutting {
    /// For a model, with its longest sequence; `stride` tokens are shared.
    pub(crate) fn of(pipeline: &Pipeline, stride: Option<usize>) -> Result<Self> {
        let frame = pipeline.tokenizer.frame(false)?;
        let room = pipeline.max_tokens().saturating_sub(frame.len());
        let shared = stride.or(pipeline.stride).unwrap_or(room / 4);
        if shared >= room {
            let reason =
                format!("windows have {room} tokens beside those around them, and the next one must bring new ones");
            return Err(Error::input(format!("--stride {shared}"), reason, "use a smaller number"));
        }
        Ok(Self { tokenizer: pipeline.tokenizer.whole()?, frame, room, shared })
    }

    pub(crate) fn cut(&self, words: &[&str]) -> Result<Cut> {
        let (ids, starts) = self.tokenizer.words(words)?;
        let windows = windows(&starts, ids.len(), self.room, self.shared);
        Ok(Cut { ids, starts, windows })
    }

    /// The sequence of a window.
    pub(crate) fn tokens(&self, cut: &Cut, window: &Window) -> Tokens {
        self.frame.single(&cut.ids[window.tokens.clone()])
    }

    /// The row of the first token of a word in a window; `None` where it has none there.
    pub(crate) fn row(&self, cut: &Cut, window: &Window, word: usize) -> Option<usize> {
        let (first, next) = (cut.starts[word], cut.starts.get(word + 1).copied().unwrap_or(cut.ids.len()));
        (first < next).then(|| self.frame.start(None) + first - window.tokens.start)
    }
}

/// Labelled words of one file.
struct TokenData {
    file: Arc<str>,
    /// The sequences of all windows behind each other, and the label of each row.
    ids: Vec<u32>,
    numbers: Vec<f32>,
    /// Where each window ends.
    ends: Vec<usize>,
    /// The sentence of each window, and the line of each sentence.
    sentences: Vec<u32>,
    lines: Vec<u32>,
    /// The group of each sentence.
    groups: Vec<u32>,
    /// Its words, for people to read.
    words: Words,
}

/// The words of sentences.
#[derive(Default)]
struct Words {
    /// All of them behind each other, those of a sentence with spaces between.
    texts: String,
    /// Where each sentence ends there.
    ends: Vec<usize>,
    /// Where each word with a row of its own is: these rows come in the same order.
    places: Vec<(u32, u32)>,
}

impl Words {
    /// A sentence more; `judged` tells of its words which have a row.
    fn push(&mut self, words: &[&str], judged: impl Fn(usize) -> bool) {
        for (i, word) in words.iter().enumerate() {
            if i > 0 {
                self.texts.push(' ');
            }
            let start = self.texts.len();
            self.texts += word;
            if judged(i) {
                self.places.push((start as u32, self.texts.len() as u32));
            }
        }
        self.ends.push(self.texts.len());
    }
}

/// The same before labels have their numbers in the task: numbers are those of `names`.
struct Raw {
    data: TokenData,
    names: BTreeMap<String, u32>,
    /// Where labels were first seen.
    seen: Vec<u32>,
}

impl Raw {
    fn read(path: &Path, args: &DataArgs, cutting: &Cutting) -> Result<Self> {
        let mut data = TokenData {
            file: path.display().to_string().into(),
            ids: Vec::new(),
            numbers: Vec::new(),
            ends: Vec::new(),
            sentences: Vec::new(),
            lines: Vec::new(),
            groups: Vec::new(),
            words: Words::default(),
        };
        let (mut names, mut seen) = (BTreeMap::new(), Vec::new());
        read::sentences(path, args, |sentence| {
            let words: Vec<&str> = sentence.words.iter().map(String::as_str).collect();
            let cut = cutting.cut(&words)?;
            let mut labels = Vec::with_capacity(words.len());
            for label in sentence.labels {
                let next = names.len() as u32;
                labels.push(*names.entry(label).or_insert_with(|| {
                    seen.push(sentence.line as u32);
                    next
                }));
            }
            let tokens = |word: usize| cut.starts.get(word + 1).copied().unwrap_or(cut.ids.len()) - cut.starts[word];
            data.words.push(&words, |word| tokens(word) > 0);
            let number = data.lines.len() as u32;
            data.lines.push(sentence.line as u32);
            for (i, window) in cut.windows.iter().enumerate() {
                let tokens = cutting.tokens(&cut, window);
                let first = data.numbers.len();
                data.numbers.resize(first + tokens.ids.len(), UNLABELLED);
                if i == 0 {
                    data.numbers[first] = BEGINS;
                }
                for word in window.judged.clone() {
                    if let Some(row) = cutting.row(&cut, window, word) {
                        data.numbers[first + row] = labels[word] as f32;
                    }
                }
                data.ids.extend(tokens.ids);
                data.ends.push(data.ids.len());
                data.sentences.push(number);
            }
            Ok(())
        })?;
        Ok(Self { data, names, seen })
    }

    /// Gives labels their numbers in `task`.
    fn labelled(self, task: &Task) -> Result<TokenData> {
        let Self { mut data, names, seen } = self;
        let mut numbers = vec![0f32; names.len()];
        for (name, local) in names {
            let known = task.iter().position(|known| *known == name).ok_or_else(|| {
                let shown: Vec<String> = task.iter().take(20).map(|name| format!("{name:?}")).collect();
                let subject = format!("the sentence at {}", place(&data.file, seen[local as usize] as usize));
                let reason = format!("has the label {name:?}, which is none of {}", shown.join(", "));
                Error::input(subject, reason, "correct the label, or add sentences with it to the training file")
            })?;
            numbers[local as usize] = known as f32;
        }
        let labels = data.numbers.iter_mut().filter(|number| **number >= 0.0);
        labels.for_each(|number| *number = numbers[*number as usize]);
        // By the rarest label of each sentence.
        let mut rows = vec![vec![0f32; task.len()]; data.lines.len()];
        for (window, &sentence) in data.sentences.iter().enumerate() {
            let labels = data.window(window).1.iter().filter(|label| **label >= 0.0);
            labels.for_each(|&label| rows[sentence as usize][label as usize] = 1.0);
        }
        data.groups = strata(Kind::Labels, &rows);
        Ok(data)
    }
}

impl TokenData {
    /// The sequence of a window and the label of each row.
    fn window(&self, i: usize) -> (&[u32], &[f32]) {
        let rows = if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i];
        (&self.ids[rows.clone()], &self.numbers[rows])
    }

    /// The windows of these sentences.
    fn of_sentences(&self, sentences: &[usize]) -> Vec<usize> {
        let mut wanted = vec![false; self.lines.len()];
        sentences.iter().for_each(|&sentence| wanted[sentence] = true);
        (0..self.ends.len()).filter(|&window| wanted[self.sentences[window] as usize]).collect()
    }
}

impl Dataset for TokenData {
    fn len(&self) -> usize {
        self.ends.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.groups[self.sentences[i] as usize]
    }
    fn numbers(&self, i: usize) -> &[f32] {
        self.window(i).1
    }
    fn name(&self, i: usize) -> String {
        place(&self.file, self.lines[self.sentences[i] as usize] as usize)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tokens");
        self.window(i).0.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
        Ok(*hasher.finalize().as_bytes())
    }
    fn rows(&self, i: usize) -> usize {
        self.window(i).0.len()
    }
    fn load(&self, i: usize, _view: View) -> Result<Sample> {
        let ids = self.window(i).0;
        Ok(Tokens::sample(ids, ids.len()))
    }
    fn mistakes(&self, task: &Task, samples: &[usize], outputs: &[f32], most: usize) -> Option<Vec<Mistake>> {
        Some(mistakes::mistakes(self, task, samples, outputs, most))
    }
}

/// See [`topwork_core::domain::Domain::splits`]; of words.
pub(crate) fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
    let share = held_share(args)?;
    let cutting = Cutting::of(&pipeline.clone().for_training(args.max_tokens)?, args.stride)?;
    let read = |path: &PathBuf| Raw::read(path, args, &cutting);
    let train = args.train.as_ref().map(read).transpose()?;
    let validation = args.validation.as_ref().map(read).transpose()?;
    let task = match (known, &train) {
        (Some(task), _) => task.clone(),
        (None, Some(raw)) => {
            let outputs = read::label_names(args.label_names.as_deref(), &raw.names);
            if let [only] = &outputs[..] {
                let reason = format!("all words have the label {only:?}");
                return Err(Error::input(&*raw.data.file, reason, "training needs words of two labels or more"));
            }
            Task { kind: Kind::Tokens, outputs }
        }
        (None, None) => return Err(no_train()),
    };
    let labelled = |raw: Option<Raw>| raw.map(|raw| raw.labelled(&task)).transpose();
    Splits::of(task.clone(), labelled(train)?, labelled(validation)?, |all| {
        let (kept, held) = hold_out(&all.groups, share, seed);
        if held.is_empty() {
            let remedy = "add sentences, or give a validation file with --validation";
            return Err(Error::input(&*all.file, "has too few sentences to hold some out", remedy));
        }
        Ok((all.of_sentences(&kept), all.of_sentences(&held)))
    })
}

#[cfg(test)]
mod tests {
    use topwork_core::data::{Excerpt, Mark, Values};
    use topwork_core::outputs::Slip;

    use super::*;
    use crate::folder::tests::pipeline;

    fn data(text: &str, args: &DataArgs) -> Result<Splits> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conll");
        std::fs::write(&path, text).unwrap();
        splits(
            &DataArgs { train: Some(path.clone()), validation: Some(path), ..args.clone() },
            &pipeline(),
            None,
            Seed(1),
        )
    }

    #[test]
    fn the_first_token_of_a_word_has_its_label_and_the_others_have_none() {
        let found = data("unbelievable B-X\nfilm O\n\nbad O\n", &DataArgs::default()).unwrap();
        assert_eq!(found.task.outputs, ["B-X", "O"]);
        let tokens = pipeline().tokenizer.encode("unbelievable film", None).unwrap();
        let pieces = tokens.ids.len() - 3;
        assert!(pieces > 1);
        let mut expected = vec![BEGINS, 0.0];
        expected.extend(vec![UNLABELLED; pieces - 1]);
        expected.extend([1.0, UNLABELLED]);
        assert_eq!(found.train.numbers(0), expected);
        assert_eq!(found.train.load(0, View::Plain).unwrap(), Tokens::sample(&tokens.ids, tokens.first));
        assert!(found.train.name(1).ends_with("a.conll, line 4"));
    }

    #[test]
    fn a_long_sentence_is_several_samples_which_label_each_word_once() {
        let text: String = (0..50).map(|i| format!("film {}\n", if i % 7 == 0 { "B-X" } else { "O" })).collect();
        let args = DataArgs { max_tokens: Some(12), stride: Some(4), ..DataArgs::default() };
        let found = data(&format!("{text}\nbad O\n"), &args).unwrap().train;
        let labels: Vec<f32> =
            (0..found.len() - 1).flat_map(|i| found.numbers(i).iter().copied().filter(|n| *n >= 0.0)).collect();
        let expected: Vec<f32> = (0..50).map(|i| if i % 7 == 0 { 0.0 } else { 1.0 }).collect();
        assert_eq!(labels, expected);
        assert!((0..found.len()).all(|i| found.rows(i) <= 12));
        let begins = (0..found.len()).filter(|&i| found.numbers(i)[0] == BEGINS).count();
        assert_eq!(begins, 2);
        let Values::U32(values) = found.load(1, View::Plain).unwrap().values else { panic!() };
        assert_eq!(values.len(), 24);
    }

    #[test]
    fn a_held_out_part_keeps_the_windows_of_a_sentence_together() {
        let sentence: String = "film O\nbad B-X\n".repeat(20);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conll");
        std::fs::write(&path, format!("{sentence}\n").repeat(20)).unwrap();
        let args = DataArgs { train: Some(path), max_tokens: Some(16), ..DataArgs::default() };
        let found = splits(&args, &pipeline(), None, Seed(1)).unwrap();
        for part in [&found.train, &found.validation] {
            let begins = (0..part.len()).filter(|&i| part.numbers(i)[0] == BEGINS).count();
            let words: usize = (0..part.len()).map(|i| part.numbers(i).iter().filter(|n| **n >= 0.0).count()).sum();
            assert_eq!(words, 40 * begins);
        }
        assert!(!found.validation.is_empty());
    }

    #[test]
    fn the_surest_wrong_word_comes_first_and_words_are_marked_in_their_sentences() {
        let text = "a film\tB-X\nbad\tO\nthe\tO\n\nbad\tO\nmovie\tB-X\n";
        let found = data(text, &DataArgs::default()).unwrap();
        let data = found.train;
        // Says O of every row, of the sentence's rows more surely or less.
        let logits = |i: usize, sure: f32| [0.0, sure].repeat(data.rows(i));
        let outputs = [logits(0, 1.0), logits(1, 2.0)].concat();
        let mistakes = data.mistakes(&found.task, &[0, 1], &outputs, 9).unwrap();
        assert_eq!(mistakes.iter().map(|m| m.sample).collect::<Vec<_>>(), [1, 0]);
        let Slip::Words(words) = &mistakes[1].slip else { panic!("{mistakes:?}") };
        let [word] = &words[..] else { panic!("{words:?}") };
        assert_eq!((word.text.as_str(), word.truth.as_str(), word.said.as_str()), ("a film", "B-X", "O"));
        assert!((word.probability - 1f32.exp() / (1f32.exp() + 1.0)).abs() < 1e-6);
        let marks = vec![(0..6, Mark::Wrong)];
        assert_eq!(mistakes[1].excerpt, Excerpt::Marked { text: "a film bad the".into(), marks });
        let marks = vec![(4..9, Mark::Wrong)];
        assert_eq!(mistakes[0].excerpt, Excerpt::Marked { text: "bad movie".into(), marks });
        assert_eq!(data.mistakes(&found.task, &[0, 1], &outputs, 1).unwrap().len(), 1);
        // Of a part, samples have its numbers.
        let part = topwork_core::data::Subset::new(data.clone(), vec![1]);
        let mistakes = part.mistakes(&found.task, &[0], &logits(1, 2.0), 9).unwrap();
        assert_eq!((mistakes.len(), mistakes[0].sample), (1, 0));
        assert!(mistakes[0].name.ends_with("line 5"), "{mistakes:?}");
    }

    #[test]
    fn words_of_later_windows_are_marked_where_they_stand() {
        let text: String = (0..50).map(|i| format!("film {}\n", if i == 33 { "B-X" } else { "O" })).collect();
        let args = DataArgs { max_tokens: Some(12), stride: Some(4), ..DataArgs::default() };
        let found = data(&text, &args).unwrap();
        let data = found.train;
        let all: Vec<usize> = (0..data.len()).collect();
        let outputs: Vec<f32> = all.iter().flat_map(|&i| [0.0, 1.0].repeat(data.rows(i))).collect();
        let mistakes = data.mistakes(&found.task, &all, &outputs, 9).unwrap();
        let [mistake] = &mistakes[..] else { panic!("{mistakes:?}") };
        let Excerpt::Marked { text, marks } = &mistake.excerpt else { panic!("{mistake:?}") };
        assert_eq!((text.len(), marks), (249, &vec![(33 * 5..33 * 5 + 4, Mark::Wrong)]));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let refused = |text: &str, args: &DataArgs| data(text, args).err().unwrap().to_string();
        assert!(refused("a O\nb O\n", &DataArgs::default()).contains("all words have the label \"O\""));
        let args = DataArgs { max_tokens: Some(12), stride: Some(10), ..DataArgs::default() };
        assert!(refused("a O\nb B-X\n", &args).contains("--stride 10"));
        let args = DataArgs { label_names: Some(vec!["O".into(), "B-X".into()]), ..DataArgs::default() };
        let message = refused("a O\nb B-Y\n", &args);
        assert!(message.contains("a.conll, line 1") && message.contains("\"B-Y\""), "{message}");
    }
}
