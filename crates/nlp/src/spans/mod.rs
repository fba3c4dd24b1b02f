//! Passages of texts that answer questions (extractive question answering).
//!
//! A sample is a window: the question, and as much of the text as a sequence has room for; neighbouring windows share some
//! tokens. Its numbers are the rows where the answer begins and ends; where it is not in the window, row 0 for both, as in
//! Devlin et al. 2019. Data sets judge answers themselves ([`scores`]), over all windows of a question.

mod answer;
mod judge;
mod mistakes;
mod read;
pub mod scores;
mod search;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use topwork_core::data::{Dataset, Sample, Splits, View, hold_out};
use topwork_core::metrics::Metrics;
use topwork_core::outputs::Mistake;
use topwork_core::seed::Seed;
use topwork_core::task::{Kind, Task};
use topwork_core::{Error, Result};

use crate::dataset::{DataArgs, held_share, no_train};
use crate::pipeline::Pipeline;
use crate::tokenizer::{Frame, Piece, TextTokenizer, Tokens};
pub(crate) use answer::answers;
pub use answer::{Answered, answer};
use read::Asked;

/// Tokens of the longest question; what is longer is cut (Devlin et al. 2019).
const LONGEST_QUESTION: usize = 64;
/// Tokens that two windows share.
const USUAL_STRIDE: usize = 128;

/// The task: where an answer begins, and where it ends.
pub fn task() -> Task {
    Task { kind: Kind::Spans, outputs: vec!["start".into(), "end".into()] }
}

/// How questions and texts are put together for a model.
#[derive(Clone)]
pub(crate) struct Reading {
    tokenizer: TextTokenizer,
    frame: Frame,
    /// Tokens of both texts.
    room: usize,
    shared: usize,
}

impl Reading {
    /// For a model, with its longest sequence; `stride` tokens are shared by windows.
    pub(crate) fn of(pipeline: &Pipeline, stride: Option<usize>) -> Result<Self> {
        let frame = pipeline.tokenizer.frame(true)?;
        let room = pipeline.max_tokens().saturating_sub(frame.len());
        let least = room - room.min(LONGEST_QUESTION).min(room / 2);
        let shared = stride.or(pipeline.stride).unwrap_or(USUAL_STRIDE.min(least / 2));
        if shared >= least {
            let reason = format!(
                "beside a question, windows may have only {least} tokens, and the next one must bring new ones"
            );
            return Err(Error::input(
                format!("--stride {shared}"),
                reason,
                "use a smaller number, or more --max-tokens",
            ));
        }
        Ok(Self { tokenizer: pipeline.tokenizer.whole()?, frame, room, shared })
    }

    pub(crate) fn question(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.tokenizer.placed(text.trim_start())?.into_iter().map(|piece| piece.id).collect();
        ids.truncate(LONGEST_QUESTION.min(self.room / 2));
        Ok(ids)
    }

    pub(crate) fn text(&self, text: &str) -> Result<Vec<Piece>> {
        self.tokenizer.placed(text)
    }

    /// The windows of a text of `total` tokens beside a question.
    pub(crate) fn windows(&self, question: &[u32], total: usize) -> Vec<Range<usize>> {
        let room = self.room - question.len();
        let mut found = Vec::new();
        let mut first = 0;
        loop {
            let last = total.min(first + room);
            found.push(first..last);
            if last == total {
                return found;
            }
            first = last - self.shared;
        }
    }

    pub(crate) fn tokens(&self, question: &[u32], text: &[u32]) -> Tokens {
        self.frame.pair(question, text)
    }

    /// The row of the first token of a text behind a question.
    pub(crate) fn row(&self, question: &[u32]) -> usize {
        self.frame.start(Some(question.len()))
    }
}

/// The tokens that an answer covers, as far as they are whole: the last that begins at or before its start, the first that
/// ends at or behind its end.
fn covered(pieces: &[Piece], start: usize, end: usize) -> Option<(usize, usize)> {
    let first = pieces.partition_point(|piece| piece.start <= start).checked_sub(1)?;
    let last = pieces.partition_point(|piece| piece.end < end);
    (first <= last && last < pieces.len()).then_some((first, last))
}

struct Context {
    text: Arc<str>,
    pieces: Vec<Piece>,
}

struct Question {
    name: String,
    text: String,
    context: usize,
    ids: Vec<u32>,
    /// The right answers.
    answers: Vec<String>,
    /// The tokens of the first of them.
    span: Option<(usize, usize)>,
}

struct Window {
    question: usize,
    tokens: Range<usize>,
    /// Rows of its answer.
    ends: [f32; 2],
}

/// How it is decided that a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Nothing {
    /// It always has one.
    Never,
    /// By this threshold.
    Above(f64),
    /// By the one that suits the judged questions best.
    Chosen,
}

/// Questions of one file.
struct SpanData {
    reading: Reading,
    contexts: Vec<Context>,
    questions: Vec<Question>,
    windows: Vec<Window>,
    nothing: Nothing,
}

impl SpanData {
    fn read(path: &Path, reading: &Reading) -> Result<Self> {
        let mut data = Self {
            reading: reading.clone(),
            contexts: Vec::new(),
            questions: Vec::new(),
            windows: Vec::new(),
            nothing: Nothing::Never,
        };
        // Many questions have one text.
        let mut known: HashMap<Arc<str>, usize> = HashMap::new();
        read::questions(path, |asked| {
            let Asked { name, question, context, answers } = asked;
            let at = match known.get(&context) {
                Some(&at) => at,
                None => {
                    let pieces = reading.text(&context)?;
                    data.contexts.push(Context { text: context.clone(), pieces });
                    known.insert(context, data.contexts.len() - 1);
                    data.contexts.len() - 1
                }
            };
            let pieces = &data.contexts[at].pieces;
            let ids = reading.question(&question)?;
            let span = answers.first().and_then(|(text, start)| covered(pieces, *start, start + text.len()));
            let (number, row) = (data.questions.len(), reading.row(&ids));
            for tokens in reading.windows(&ids, pieces.len()) {
                let within = span.filter(|(first, last)| tokens.start <= *first && *last < tokens.end);
                let ends = within
                    .map_or([0.0; 2], |(first, last)| [first, last].map(|token| (row + token - tokens.start) as f32));
                data.windows.push(Window { question: number, tokens, ends });
            }
            let answers = answers.into_iter().map(|(text, _)| text).collect();
            data.questions.push(Question { name, text: question, context: at, ids, answers, span });
            Ok(())
        })?;
        Ok(data)
    }

    /// Whether some question has no answer.
    fn has_unanswerable(&self) -> bool {
        self.questions.iter().any(|question| question.answers.is_empty())
    }

    fn sequence(&self, i: usize) -> Tokens {
        let window = &self.windows[i];
        let question = &self.questions[window.question];
        let pieces = &self.contexts[question.context].pieces[window.tokens.clone()];
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        self.reading.tokens(&question.ids, &ids)
    }

    /// The windows of questions about these texts.
    fn of_contexts(&self, contexts: &[usize]) -> Vec<usize> {
        let mut wanted = vec![false; self.contexts.len()];
        contexts.iter().for_each(|&context| wanted[context] = true);
        let of = |window: &Window| self.questions[window.question].context;
        (0..self.windows.len()).filter(|&i| wanted[of(&self.windows[i])]).collect()
    }
}

impl Dataset for SpanData {
    fn len(&self) -> usize {
        self.windows.len()
    }
    /// Whether the answer is not in the window.
    fn target(&self, i: usize) -> u32 {
        u32::from(self.windows[i].ends == [0.0; 2])
    }
    fn numbers(&self, i: usize) -> &[f32] {
        &self.windows[i].ends
    }
    fn name(&self, i: usize) -> String {
        format!("question {}", self.questions[self.windows[i].question].name)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let Tokens { ids, first } = self.sequence(i);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"spans").update(&(first as u64).to_le_bytes());
        ids.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
        Ok(*hasher.finalize().as_bytes())
    }
    fn rows(&self, i: usize) -> usize {
        let window = &self.windows[i];
        self.reading.frame.len() + self.questions[window.question].ids.len() + window.tokens.len()
    }
    fn load(&self, i: usize, _view: View) -> Result<Sample> {
        let tokens = self.sequence(i);
        Ok(Tokens::sample(&tokens.ids, tokens.first))
    }

    fn judge(&self, samples: &[usize], outputs: &[f32]) -> Option<Metrics> {
        Some(judge::metrics(self, samples, outputs))
    }
    fn mistakes(&self, _: &Task, samples: &[usize], outputs: &[f32], most: usize) -> Option<Vec<Mistake>> {
        Some(mistakes::mistakes(self, samples, outputs, most))
    }
}

/// See [`topwork_core::domain::Domain::splits`]; of questions.
pub(crate) fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
    let share = held_share(args)?;
    let pipeline = pipeline.clone().for_training(args.max_tokens)?;
    let reading = Reading::of(&pipeline, args.stride)?;
    let read = |path: &PathBuf| SpanData::read(path, &reading);
    let train = args.train.as_ref().map(read).transpose()?;
    let mut validation = args.validation.as_ref().map(read).transpose()?;
    let nothing = match (args.no_answer_threshold, known, &train) {
        (Some(threshold), ..) => Nothing::Above(threshold),
        (None, Some(_), _) => pipeline.no_answer_threshold.map_or(Nothing::Never, Nothing::Above),
        (None, None, Some(train)) if train.has_unanswerable() => Nothing::Chosen,
        (None, None, _) => Nothing::Never,
    };
    let train = train.map(|train| SpanData { nothing, ..train });
    validation.iter_mut().for_each(|data| data.nothing = nothing);
    if let (None, Some(data), Some(path)) = (known, &train, &args.train)
        && data.questions.iter().all(|question| question.span.is_none())
    {
        let reason = "no question in it has an answer";
        return Err(Error::input(path.display(), reason, "add questions with answers to learn from"));
    }
    if known.is_none() && train.is_none() {
        return Err(no_train());
    }
    Splits::of(task(), train, validation, |all| {
        // The questions about a text stay together.
        let (kept, held) = hold_out(&vec![0; all.contexts.len()], share, seed);
        if held.is_empty() {
            let file = args.train.as_deref().unwrap_or(Path::new("--train"));
            let remedy = "add texts, or give a validation file with --validation";
            return Err(Error::input(file.display(), "has too few texts to hold some out", remedy));
        }
        Ok((all.of_contexts(&kept), all.of_contexts(&held)))
    })
}

#[cfg(test)]
mod tests {
    use topwork_core::data::{Excerpt, Mark};
    use topwork_core::metrics::Scores;
    use topwork_core::outputs::Slip;

    use super::*;
    use crate::folder::tests::pipeline;

    fn data(text: &str, args: &DataArgs) -> Result<Splits> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, text).unwrap();
        splits(
            &DataArgs { train: Some(path.clone()), validation: Some(path), ..args.clone() },
            &pipeline(),
            None,
            Seed(1),
        )
    }

    fn line(question: &str, context: &str, answer: &str) -> String {
        serde_json::json!({ "question": question, "context": context, "answer": answer }).to_string() + "\n"
    }

    /// Logits that say these rows of a window of `rows`.
    fn saying(rows: usize, ends: [usize; 2], how: f32) -> Vec<f32> {
        (0..rows).flat_map(|row| ends.map(|end| if row == end { how } else { 0.0 })).collect()
    }

    #[test]
    fn rows_of_the_answer_are_those_of_its_tokens() {
        let found = data(&line("the film", "bad, good movie", "good movie"), &DataArgs::default()).unwrap().train;
        let whole = pipeline().tokenizer.encode("the film", Some("bad, good movie")).unwrap();
        assert_eq!(found.load(0, View::Plain).unwrap(), Tokens::sample(&whole.ids, whole.first));
        // [CLS] the film [SEP] bad , good movie [SEP]
        assert_eq!((found.rows(0), found.numbers(0)), (9, &[6.0, 7.0][..]));
    }

    #[test]
    fn a_long_text_is_read_in_windows_and_the_answer_found_in_those_that_hold_it() {
        let context = "the film ".repeat(20) + "good " + &"bad movie ".repeat(20);
        let args = DataArgs { max_tokens: Some(24), stride: Some(8), ..DataArgs::default() };
        let found = data(&line("film", &context, "good"), &args).unwrap().train;
        assert!(found.len() > 4 && (0..found.len()).all(|i| found.rows(i) <= 24));
        let with: Vec<usize> = (0..found.len()).filter(|&i| found.target(i) == 0).collect();
        assert!((1..=2).contains(&with.len()), "{with:?}");
        // A model that says so, in the last of them most, is right; elsewhere it says none.
        let mut outputs = Vec::new();
        for i in 0..found.len() {
            let ends = [0, 1].map(|side| found.numbers(i)[side] as usize);
            outputs.extend(saying(found.rows(i), ends, if with.contains(&i) { 9.0 } else { 5.0 }));
        }
        let metrics = found.judge(&(0..found.len()).collect::<Vec<_>>(), &outputs).unwrap();
        assert_eq!((metrics.samples, metrics.score()), (1, 1.0));
        assert!(metrics.loss < 0.3, "{}", metrics.loss);
    }

    #[test]
    fn a_threshold_is_chosen_where_some_questions_have_no_answer() {
        let text =
            line("film", "good movie", "good") + &line("film", "bad movie", "") + &line("the", "good film", "film");
        let found = data(&text, &DataArgs::default()).unwrap().validation;
        // Rows: [CLS] q [SEP] w w [SEP]. The second question's best answer is none.
        let none = |how| saying(6, [0, 0], how);
        let outputs = [saying(6, [3, 3], 5.0), none(2.0), saying(6, [4, 4], 5.0)].concat();
        let Scores::Spans(scores) = found.judge(&[0, 1, 2], &outputs).unwrap().scores else { panic!() };
        assert_eq!((scores.f1, scores.exact_match, scores.unanswerable_accuracy), (1.0, 1.0, Some(1.0)));
        assert_eq!((scores.answerable_f1, scores.no_answer_threshold), (Some(1.0), Some(-3.0)));
        let args = DataArgs { no_answer_threshold: Some(100.0), ..DataArgs::default() };
        let found = data(&text, &args).unwrap().validation;
        let Scores::Spans(scores) = found.judge(&[0, 1, 2], &outputs).unwrap().scores else { panic!() };
        assert_eq!(scores.unanswerable_accuracy, Some(0.0));
    }

    #[test]
    fn wrong_answers_are_shown_in_their_texts_beside_the_right_ones() {
        let text = line("film", "good bad movie", "good bad")
            + &line("film", "bad movie", "")
            + &line("the", "good film", "film")
            + &line("the", "bad film", "film");
        let found =
            data(&text, &DataArgs { no_answer_threshold: Some(0.0), ..DataArgs::default() }).unwrap().validation;
        // Rows: [CLS] q [SEP] w w … [SEP]. Partly right; one where there is none; none where there is one; right.
        let outputs =
            [saying(7, [4, 5], 5.0), saying(6, [3, 3], 5.0), saying(6, [0, 0], 5.0), saying(6, [4, 4], 5.0)].concat();
        let mistakes = found.mistakes(&task(), &[0, 1, 2, 3], &outputs, 9).unwrap();
        // The surest of those without a word in common, then what has some.
        assert_eq!(mistakes.iter().map(|m| m.sample).collect::<Vec<_>>(), [2, 1, 0]);
        let said = |right: Option<&str>, said: Option<&str>, slip: &Slip| {
            let Slip::Passage { right: r, said: s, probability } = slip else { panic!("{slip:?}") };
            assert!((r.as_deref(), s.as_deref()) == (right, said) && (0.5..1.0).contains(probability), "{slip:?}");
        };
        said(Some("film"), None, &mistakes[0].slip);
        said(None, Some("bad"), &mistakes[1].slip);
        said(Some("good bad"), Some("bad movie"), &mistakes[2].slip);
        let text = "film\n\ngood bad movie".to_string();
        let marks = vec![(6..14, Mark::Right), (11..20, Mark::Wrong)];
        assert_eq!(mistakes[2].excerpt, Excerpt::Marked { text, marks });
        assert_eq!(found.mistakes(&task(), &[0, 1, 2, 3], &outputs, 2).unwrap().len(), 2);
    }

    #[test]
    fn answers_that_end_inside_a_token_take_it_whole() {
        let piece = |start, end| Piece { id: 0, start, end };
        let pieces = [piece(0, 4), piece(5, 9), piece(10, 14)];
        assert_eq!(covered(&pieces, 5, 9), Some((1, 1)));
        assert_eq!(covered(&pieces, 6, 12), Some((1, 2)));
        assert_eq!(covered(&pieces, 0, 15), None);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let refused = |text: &str, args: &DataArgs| data(text, args).err().unwrap().to_string();
        assert!(refused(&line("q", "a", ""), &DataArgs::default()).contains("no question in it has an answer"));
        let args = DataArgs { stride: Some(60), max_tokens: Some(64), ..DataArgs::default() };
        assert!(refused(&line("q", "a", "a"), &args).contains("--stride 60"));
    }
}
