//! How good a model's answers are. Each kind of task has its scores, of which the first decides which of two models is better.
//!
//! Of classes: accuracy, F1, the confusion matrix, calibration. Of labels: F1, average precision, the area under the ROC
//! curve. Of values: the errors, R² and correlations. Of tokens: entities found, as seqeval counts them. Of spans: F1 and
//! exact matches of answers, which data sets judge. Of matches: how often a text finds its own among all. What is undefined
//! (a precision without predictions) is 0.

mod curves;
pub mod entities;
mod matches;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::data::Targets;
use crate::task::{BEGINS, Kind, Task};

use curves::{average_precision, pearson, ranks, roc_auc};
use entities::Scheme;
pub use matches::OfMatches;

/// Bins of confidence of the calibration error (Guo et al. 2017).
const BINS: usize = 15;

/// Everything reported about one pass over a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Samples judged.
    pub samples: u64,
    /// What training minimizes, without its extras: of classes the mean cross-entropy, of labels the mean over them of the binary
    /// one, natural logarithms; of values the mean squared error; of tokens the mean cross-entropy of words, of spans that of
    /// their first and last rows; of matches that of the right one among all, whatever a batch holds in training.
    pub loss: f64,
    /// By the kind of task.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The scores of a kind of task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scores {
    /// One class a sample.
    Classes(OfClasses),
    /// Any number of labels a sample.
    Labels(OfLabels),
    /// Numbers.
    Values(OfValues),
    /// A label for each word.
    Tokens(OfTokens),
    /// Passages.
    Spans(OfSpans),
    /// Couples.
    Matches(OfMatches),
}

/// How well classes are told apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfClasses {
    /// Share predicted correctly.
    pub accuracy: f64,
    /// Mean F1 over the classes that occur in targets or predictions (scikit-learn's `macro`).
    pub macro_f1: f64,
    /// Share whose class is among the five most probable, where there are more than five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_5_accuracy: Option<f64>,
    /// Mean distance of confidence and accuracy over bins of confidence (Guo et al. 2017, equation 3).
    #[serde(default)]
    pub calibration_error: f64,
    /// Area under the ROC curve of each class against the rest, the mean over those that occur beside others.
    #[serde(default)]
    pub roc_auc: f64,
    /// By class, in the order of the classes.
    pub classes: Vec<ClassScores>,
    /// `confusion[target][prediction]`: numbers of samples.
    pub confusion: Vec<Vec<u64>>,
}

/// The scores of one class, or of one label at a probability of ½.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassScores {
    /// The class.
    pub name: String,
    /// Share of the samples predicted to be of this class that are; 0 without any.
    pub precision: f64,
    /// Share of the samples of this class that were found; 0 without any.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Samples of this class.
    pub samples: u64,
}

/// How well labels are found, at a probability of ½ where one is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfLabels {
    /// Mean F1 over the labels that occur in targets or predictions.
    pub macro_f1: f64,
    /// F1 of all labels of all samples together.
    pub micro_f1: f64,
    /// Mean over the labels that occur of the average precision (scikit-learn's `average_precision_score`).
    pub mean_average_precision: f64,
    /// Area under the ROC curve, the mean over labels that some samples have and others have not.
    pub roc_auc: f64,
    /// Share of the samples with every label right.
    pub exact_match: f64,
    /// By label.
    pub labels: Vec<ClassScores>,
}

/// How well numbers are measured; means over them where there are several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfValues {
    /// 1 - squared error / variance of the targets.
    pub r2: f64,
    /// Mean absolute error.
    pub mean_absolute_error: f64,
    /// Root of the mean squared error.
    pub root_mean_squared_error: f64,
    /// Pearson's correlation.
    pub pearson: f64,
    /// Spearman's: of the ranks.
    pub spearman: f64,
}

/// How well words are labelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfTokens {
    /// Share of the words labelled correctly.
    pub token_accuracy: f64,
    /// Mean F1 over the types of entities that occur in targets or predictions; of labels that name no entities, over these.
    pub macro_f1: f64,
    /// Where labels name entities (`B-…`, `I-…`, `E-…`, `S-…`, `O`).
    #[serde(flatten, default)]
    pub entities: Option<OfEntities>,
    /// By type of entity; of labels that name none, by label.
    pub types: Vec<ClassScores>,
}

/// How well entities are found: right is one of the same type, first and last word.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OfEntities {
    /// Harmonic mean of the two below, over entities of all types together.
    pub f1: f64,
    /// Share of those found that are right.
    pub precision: f64,
    /// Share of those there are that were found.
    pub recall: f64,
}

/// How well questions are answered, as the script of SQuAD 2.0 scores it (Rajpurkar et al. 2018), each score a share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfSpans {
    /// Mean over questions of the F1 of the words of the answer.
    pub f1: f64,
    /// Share of the questions whose answer is one of the right ones, case, articles and punctuation aside.
    pub exact_match: f64,
    /// F1 over the questions that have an answer, where others have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerable_f1: Option<f64>,
    /// Exact matches of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerable_exact_match: Option<f64>,
    /// Share of the questions without an answer that got none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswerable_accuracy: Option<f64>,
    /// The threshold by which no answer was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_answer_threshold: Option<f64>,
}

impl fmt::Display for OfSpans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("F1 where there is an answer", self.answerable_f1),
            ("exact match there", self.answerable_exact_match),
            ("none given where there is none", self.unanswerable_accuracy),
            ("no-answer threshold", self.no_answer_threshold),
        ];
        let said = named.into_iter().filter_map(|(name, value)| Some(format!("{name} {:.4}", value?)));
        f.write_str(&said.collect::<Vec<_>>().join(", "))
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Hits, samples and predictions of one class.
fn class_scores(name: &str, hits: u64, samples: u64, predicted: u64) -> ClassScores {
    let (precision, recall, f1) = (ratio(hits, predicted), ratio(hits, samples), ratio(2 * hits, samples + predicted));
    ClassScores { name: name.into(), precision, recall, f1, samples }
}

/// JSON has no infinity, and a loss without bound is still to be compared.
fn bounded(sum: f64, count: usize) -> f64 {
    if sum.is_finite() { sum / count.max(1) as f64 } else { f64::MAX }
}

impl Metrics {
    /// Judges the outputs of a head, `[samples × outputs]` row-major.
    pub fn of(task: &Task, targets: &Targets, outputs: &[f32]) -> Self {
        let mut samples = targets.classes.len();
        let (loss, scores) = match task.kind {
            Kind::Classes => of_classes(task, &targets.classes, outputs),
            Kind::Labels => of_labels(task, &targets.numbers, outputs, samples),
            Kind::Values => of_values(task.len(), &targets.numbers, outputs, samples),
            Kind::Tokens => {
                // A long text is several samples.
                samples = targets.numbers.iter().filter(|number| **number == BEGINS).count();
                of_tokens(task, &targets.numbers, outputs)
            }
            Kind::Spans => of_rows(&targets.numbers),
            Kind::Matches => {
                let (couples, loss, scores) = matches::of_matches(targets, outputs);
                samples = couples;
                (loss, Scores::Matches(scores))
            }
        };
        Self { samples: samples as u64, loss, scores }
    }

    /// The score that decides; larger is better.
    pub fn score(&self) -> f64 {
        self.headline()[0].1
    }

    /// The scores that are told in a line, by their names in JSON: the one that decides first, the loss last.
    pub fn headline(&self) -> Vec<(&'static str, f64)> {
        let mut named = match &self.scores {
            Scores::Classes(s) => vec![("accuracy", s.accuracy), ("macro_f1", s.macro_f1)],
            Scores::Labels(s) => vec![
                ("macro_f1", s.macro_f1),
                ("mean_average_precision", s.mean_average_precision),
                ("exact_match", s.exact_match),
            ],
            Scores::Values(s) => {
                vec![("r2", s.r2), ("mean_absolute_error", s.mean_absolute_error), ("spearman", s.spearman)]
            }
            Scores::Tokens(s) => match s.entities {
                Some(OfEntities { f1, precision, recall }) => {
                    let accuracy = ("token_accuracy", s.token_accuracy);
                    vec![("f1", f1), ("precision", precision), ("recall", recall), accuracy]
                }
                None => vec![("token_accuracy", s.token_accuracy), ("macro_f1", s.macro_f1)],
            },
            Scores::Spans(s) => vec![("f1", s.f1), ("exact_match", s.exact_match)],
            Scores::Matches(s) => vec![
                ("mean_reciprocal_rank", s.mean_reciprocal_rank),
                ("recall_at_1", s.recall_at_1),
                ("recall_at_10", s.recall_at_10),
            ],
        };
        named.push(("loss", self.loss));
        named
    }

    /// The scores by class or label, or by type of entity; empty of values, spans and matches.
    pub fn by_class(&self) -> &[ClassScores] {
        match &self.scores {
            Scores::Classes(scores) => &scores.classes,
            Scores::Labels(scores) => &scores.labels,
            Scores::Tokens(scores) => &scores.types,
            Scores::Values(_) | Scores::Spans(_) | Scores::Matches(_) => &[],
        }
    }

    /// Whether these are better than `other`: a higher score, or the same one with a lower loss.
    pub fn beats(&self, other: &Self) -> bool {
        self.score() > other.score() || (self.score() == other.score() && self.loss < other.loss)
    }
}

/// The name of a score as it is said: `macro_f1` is macro-F1.
pub fn spoken(name: &str) -> String {
    match name {
        "f1" => "F1".into(),
        "macro_f1" => "macro-F1".into(),
        "micro_f1" => "micro-F1".into(),
        "r2" => "R²".into(),
        other => other.replace('_', " "),
    }
}

/// The headline: `accuracy 0.9400, macro-F1 0.9398, loss 0.1203`.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.samples == 0 {
            return f.write_str("not judged");
        }
        let parts: Vec<String> =
            self.headline().into_iter().map(|(name, value)| format!("{} {value:.4}", spoken(name))).collect();
        f.write_str(&parts.join(", "))
    }
}

fn of_classes(names: &[String], targets: &[u32], logits: &[f32]) -> (f64, Scores) {
    let k = names.len();
    let mut confusion = vec![vec![0u64; k]; k];
    let (mut loss, mut among_five) = (0.0, 0u64);
    let mut bins = vec![(0u64, 0.0, 0u64); BINS];
    let mut shares = vec![Vec::with_capacity(targets.len()); k];
    for (row, &target) in logits.chunks_exact(k.max(1)).zip(targets) {
        let best = (1..k).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        confusion[target as usize][best] += 1;
        let max = f64::from(row[best]);
        let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        loss += max + sum.ln() - f64::from(row[target as usize]);
        among_five += u64::from(row.iter().filter(|&&x| x > row[target as usize]).count() < 5);
        let confidence = 1.0 / sum;
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        *bin = (bin.0 + 1, bin.1 + confidence, bin.2 + u64::from(best as u32 == target));
        shares.iter_mut().zip(&powers).for_each(|(shares, power)| shares.push(power / sum));
    }
    let all = targets.len() as u64;
    let of_class = |c: usize| {
        let predicted: u64 = confusion.iter().map(|row| row[c]).sum();
        (class_scores(&names[c], confusion[c][c], confusion[c].iter().sum(), predicted), predicted)
    };
    let scores: Vec<(ClassScores, u64)> = (0..k).map(of_class).collect();
    let seen: Vec<f64> = scores.iter().filter(|(s, predicted)| s.samples + predicted > 0).map(|(s, _)| s.f1).collect();
    let distance = |&(count, confidence, right): &(u64, f64, u64)| {
        (confidence - right as f64).abs() * ratio(count, all) / count.max(1) as f64
    };
    let area = |c: usize| roc_auc(&shares[c], |i| targets[i] as usize == c);
    let areas: Vec<f64> = (0..k).filter_map(area).collect();
    let scores = OfClasses {
        accuracy: ratio((0..k).map(|c| confusion[c][c]).sum(), all),
        macro_f1: mean(&seen),
        top_5_accuracy: (k > 5).then(|| ratio(among_five, all)),
        calibration_error: bins.iter().map(distance).sum(),
        roc_auc: mean(&areas),
        classes: scores.into_iter().map(|(scores, _)| scores).collect(),
        confusion,
    };
    (bounded(loss, targets.len()), Scores::Classes(scores))
}

fn of_labels(names: &[String], targets: &[f32], logits: &[f32], samples: usize) -> (f64, Scores) {
    let k = names.len();
    let has = |i: usize, c: usize| targets[i * k + c] > 0.5;
    let said = |i: usize, c: usize| logits[i * k + c] > 0.0;
    let mut loss = 0.0;
    for (&x, &y) in logits.iter().zip(targets) {
        let (x, y) = (f64::from(x), f64::from(y));
        loss += x.max(0.0) - x * y + (-x.abs()).exp().ln_1p();
    }
    let (mut labels, mut seen, mut precisions, mut areas) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut together = (0, 0, 0);
    for (c, name) in names.iter().enumerate() {
        let count = |keep: &dyn Fn(usize) -> bool| (0..samples).filter(|&i| keep(i)).count() as u64;
        let (hits, had, predicted) =
            (count(&|i| has(i, c) && said(i, c)), count(&|i| has(i, c)), count(&|i| said(i, c)));
        together = (together.0 + hits, together.1 + had, together.2 + predicted);
        let scores = class_scores(name, hits, had, predicted);
        if had + predicted > 0 {
            seen.push(scores.f1);
        }
        labels.push(scores);
        let column: Vec<f64> = (0..samples).map(|i| f64::from(logits[i * k + c])).collect();
        precisions.extend(average_precision(&column, |i| has(i, c)));
        areas.extend(roc_auc(&column, |i| has(i, c)));
    }
    let exact = (0..samples).filter(|&i| (0..k).all(|c| has(i, c) == said(i, c))).count();
    let scores = OfLabels {
        macro_f1: mean(&seen),
        micro_f1: ratio(2 * together.0, together.1 + together.2),
        mean_average_precision: mean(&precisions),
        roc_auc: mean(&areas),
        exact_match: ratio(exact as u64, samples as u64),
        labels,
    };
    (bounded(loss, samples * k), Scores::Labels(scores))
}

/// Pearson's and Spearman's correlation of what was said with what is true; 0 where either is all the same.
pub fn correlations(truth: &[f64], said: &[f64]) -> (f64, f64) {
    (pearson(truth, said), pearson(&ranks(truth), &ranks(said)))
}

fn of_values(k: usize, targets: &[f32], outputs: &[f32], samples: usize) -> (f64, Scores) {
    let column = |values: &[f32], c: usize| -> Vec<f64> {
        values.iter().skip(c).step_by(k.max(1)).map(|&v| f64::from(v)).collect()
    };
    let mut of_each = [const { Vec::new() }; 5];
    let mut squares = 0.0;
    for c in 0..k {
        let (truth, said) = (column(targets, c), column(outputs, c));
        let centre = mean(&truth);
        let square: f64 = truth.iter().zip(&said).map(|(t, s)| (t - s).powi(2)).sum();
        let variance: f64 = truth.iter().map(|t| (t - centre).powi(2)).sum();
        let absolute: f64 = truth.iter().zip(&said).map(|(t, s)| (t - s).abs()).sum();
        squares += square;
        let (pearson, spearman) = correlations(&truth, &said);
        let scores = [
            if variance > 0.0 { 1.0 - square / variance } else { 0.0 },
            absolute / samples.max(1) as f64,
            (square / samples.max(1) as f64).sqrt(),
            pearson,
            spearman,
        ];
        // Without a bound, it is still to be compared.
        of_each.iter_mut().zip(scores).for_each(|(all, score)| all.push(score.clamp(f64::MIN, f64::MAX)));
    }
    let [r2, mean_absolute_error, root_mean_squared_error, pearson, spearman] = of_each.map(|all| mean(&all));
    let scores = OfValues { r2, mean_absolute_error, root_mean_squared_error, pearson, spearman };
    (bounded(squares, samples * k), Scores::Values(scores))
}

/// Labels of words in texts that each begin with a row marked so.
fn of_tokens(names: &[String], numbers: &[f32], logits: &[f32]) -> (f64, Scores) {
    let k = names.len();
    let (mut truth, mut said) = (vec![vec![]], vec![vec![]]);
    let (mut loss, mut words, mut right) = (0.0, 0u64, 0u64);
    for (row, &number) in logits.chunks_exact(k.max(1)).zip(numbers) {
        if number == BEGINS {
            truth.push(vec![]);
            said.push(vec![]);
        }
        if number < 0.0 {
            continue;
        }
        let target = number as usize;
        let best = (1..k).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        let max = f64::from(row[best]);
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        loss += max + sum.ln() - f64::from(row[target]);
        words += 1;
        right += u64::from(best == target);
        truth.last_mut().into_iter().for_each(|labels: &mut Vec<usize>| labels.push(target));
        said.last_mut().into_iter().for_each(|labels: &mut Vec<usize>| labels.push(best));
    }
    let scheme = Scheme::of(names);
    // Hits, those there are and those found, of each type.
    let counts = match &scheme {
        Some(scheme) => scheme.counts(&truth, &said),
        None => {
            let mut counts = vec![[0u64; 3]; k];
            for (&target, &best) in truth.iter().flatten().zip(said.iter().flatten()) {
                counts[target][0] += u64::from(target == best);
                counts[target][1] += 1;
                counts[best][2] += 1;
            }
            counts
        }
    };
    let types = scheme.as_ref().map_or(names, Scheme::types);
    let scores = |name: &str, [hits, there, found]: [u64; 3]| class_scores(name, hits, there, found);
    let all = counts.iter().fold([0; 3], |sum: [u64; 3], each| std::array::from_fn(|i| sum[i] + each[i]));
    let of_types: Vec<ClassScores> = types.iter().zip(&counts).map(|(name, &counts)| scores(name, counts)).collect();
    let seen: Vec<f64> =
        of_types.iter().zip(&counts).filter(|(_, [_, there, found])| there + found > 0).map(|(s, _)| s.f1).collect();
    let entities = scheme.is_some().then(|| {
        let ClassScores { precision, recall, f1, .. } = scores("", all);
        OfEntities { f1, precision, recall }
    });
    let scores = OfTokens { token_accuracy: ratio(right, words), macro_f1: mean(&seen), entities, types: of_types };
    (bounded(loss, words as usize), Scores::Tokens(scores))
}

/// What can be said of spans without their texts, where no data set judges them: nothing.
fn of_rows(_ends: &[f32]) -> (f64, Scores) {
    let none = OfSpans {
        f1: 0.0,
        exact_match: 0.0,
        answerable_f1: None,
        answerable_exact_match: None,
        unanswerable_accuracy: None,
        no_answer_threshold: None,
    };
    (0.0, Scores::Spans(none))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(kind: Kind) -> Task {
        Task { kind, outputs: ["a", "b", "c"].map(String::from).to_vec() }
    }

    /// Logits that say these classes.
    fn saying(classes: &[usize]) -> Vec<f32> {
        classes.iter().flat_map(|&c| (0..3).map(move |i| if i == c { 1.0 } else { 0.0 })).collect()
    }

    fn judged(targets: &[u32], logits: &[f32]) -> (Metrics, OfClasses) {
        let targets = Targets { classes: targets.to_vec(), numbers: vec![] };
        let metrics = Metrics::of(&task(Kind::Classes), &targets, logits);
        let Scores::Classes(scores) = metrics.scores.clone() else { panic!() };
        (metrics, scores)
    }

    #[test]
    fn scores_agree_with_a_count_by_hand() {
        let (metrics, scores) = judged(&[0, 0, 0, 1, 1], &saying(&[0, 0, 1, 1, 0]));
        assert_eq!((metrics.score(), scores.accuracy), (0.6, 0.6));
        assert_eq!(scores.confusion, [[2, 1, 0], [1, 1, 0], [0, 0, 0]]);
        let a = &metrics.by_class()[0];
        assert_eq!((a.precision, a.recall, a.samples), (2.0 / 3.0, 2.0 / 3.0, 3));
        // Class c occurs nowhere and does not count.
        assert!((scores.macro_f1 - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
        // All are as confident, e / (e + 2), and three of five right.
        let confidence = 1f64.exp() / (1f64.exp() + 2.0);
        assert!((scores.calibration_error - (confidence - 0.6).abs()).abs() < 1e-12);
        // Of class a against b: of the six pairs of one each, two rightly ordered, three tied, one wrong.
        assert!((scores.roc_auc - (3.5 / 6.0)).abs() < 1e-12, "{}", scores.roc_auc);
    }

    #[test]
    fn the_loss_of_logits_is_their_cross_entropy() {
        let (metrics, scores) = judged(&[1, 0], &[0.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
        let expected = (3f64.ln() + (2f64.exp() + 2.0).ln() - 2.0) / 2.0;
        assert!((metrics.loss - expected).abs() < 1e-12, "{}", metrics.loss);
        assert_eq!((scores.accuracy, scores.top_5_accuracy), (0.5, None));
    }

    #[test]
    fn labels_are_judged_one_by_one() {
        let numbers = vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let logits = [2.0, -1.0, -1.0, -1.0, 3.0, -2.0, -3.0, 1.0, -4.0];
        let metrics = Metrics::of(&task(Kind::Labels), &Targets { classes: vec![0; 3], numbers }, &logits);
        let Scores::Labels(scores) = &metrics.scores else { panic!() };
        // a: one of two found; b: one of one, and one too many; c: never.
        assert!((scores.macro_f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!((scores.micro_f1 - 4.0 / 6.0).abs() < 1e-12);
        assert!((scores.exact_match - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((scores.mean_average_precision, scores.roc_auc), (1.0, 1.0));
        let log = |x: f64| (1.0 + (-x).exp()).ln();
        let expected = [2.0, 1.0, 1.0, -1.0, 3.0, 2.0, 3.0, -1.0, 4.0].map(log).iter().sum::<f64>() / 9.0;
        assert!((metrics.loss - expected).abs() < 1e-7, "{}", metrics.loss);
    }

    #[test]
    fn values_are_judged_by_their_errors_and_correlation() {
        let task = Task { kind: Kind::Values, outputs: vec!["age".into()] };
        let targets = Targets { classes: vec![0; 4], numbers: vec![1.0, 2.0, 3.0, 4.0] };
        let metrics = Metrics::of(&task, &targets, &[1.0, 2.0, 4.0, 8.0]);
        let Scores::Values(scores) = &metrics.scores else { panic!() };
        assert_eq!((scores.mean_absolute_error, metrics.loss), (1.25, 17.0 / 4.0));
        assert!((scores.r2 - (1.0 - 17.0 / 5.0)).abs() < 1e-12);
        assert_eq!(scores.spearman, 1.0);
        assert!((scores.pearson - 11.5 / (5.0 * 28.75f64).sqrt()).abs() < 1e-12, "{}", scores.pearson);
    }

    #[test]
    fn scores_come_back_from_json() {
        for (kind, numbers) in [
            (Kind::Classes, vec![]),
            (Kind::Labels, vec![1.0, 0.0, 1.0]),
            (Kind::Values, vec![0.5; 3]),
            (Kind::Tokens, vec![2.0]),
            (Kind::Spans, vec![0.0, 1.0]),
            (Kind::Matches, vec![0.0]),
        ] {
            let metrics = Metrics::of(&task(kind), &Targets { classes: vec![1], numbers }, &[0.1, 0.7, -0.3]);
            let text = serde_json::to_string(&metrics).unwrap();
            assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), metrics, "{text}");
        }
    }
}
