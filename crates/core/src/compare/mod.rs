//! Finished runs side by side: those that differ in nothing but their seed are one row, with mean and deviation of the score that
//! decides, and each row is tested against the best one.

mod difference;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::Value;

use crate::files::read_small_text;
use crate::metrics::Metrics;
use crate::train::EpochRecord;
use crate::{Error, Result};

pub use difference::{Difference, difference, moments};
pub use page::page;

/// What of `run.toml` is no setting: where a run is, how it was begun, and the plan, which follows from settings and data.
const ASIDE: [&str; 4] = ["out", "seed", "force", "plan"];
/// Settings that leave no trace in what a run becomes, by their dotted names: runs that differ in nothing else are the same, and
/// one that is gone on with may have others.
pub(crate) const TRACELESS: [&str; 5] =
    ["checkpoint-every", "recompute", "memory-limit", "machine.cache-limit", "machine.offline"];

/// A finished run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its folder.
    pub path: PathBuf,
    seed: u64,
    /// Settings by their dotted names.
    settings: BTreeMap<String, String>,
    /// A digest of its plan.
    plan: String,
    metrics: Metrics,
    seconds: f64,
    trained: u64,
    /// Its epochs.
    course: Vec<EpochRecord>,
}

/// Runs that differ in nothing but their seed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// What sets it apart from the other rows.
    pub settings: String,
    /// Folders of its runs, by seed.
    pub runs: Vec<PathBuf>,
    /// Seeds with the score that decides.
    pub scores: Vec<(u64, f64)>,
    /// Mean of the scores.
    pub mean: f64,
    /// Their sample standard deviation; `None` of a single one.
    pub deviation: Option<f64>,
    /// Mean seconds of a run.
    pub seconds: f64,
    /// Numbers that learned.
    pub parameters_trained: u64,
    /// Samples that a run was judged on.
    pub samples: u64,
    /// How it differs from the best row; `None` for that itself, and where one seed says nothing.
    pub difference: Option<Difference>,
    /// The epochs of each run.
    #[serde(skip)]
    courses: Vec<Vec<EpochRecord>>,
}

/// Rows, best first.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The score that decides.
    pub score: &'static str,
    /// Best mean first.
    pub rows: Vec<Row>,
}

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// When it is none, is not finished, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let read = |name: &str| {
            let file = path.join(name);
            read_small_text(&file).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                    let remedy = "finish it with `train --resume`, or name the --out folder of a finished run";
                    Error::input(path.display(), format!("it is no finished run: it has no {name}"), remedy)
                }
                _ => Error::io(&file)(e),
            })
        };
        let unusable = |name: &str, reason: String| {
            Error::input(
                path.join(name).display(),
                reason,
                "restore the file as the run wrote it, or leave the run out",
            )
        };
        let (settings, summary) = (read("run.toml")?, read("summary.json")?);
        let settings: toml::Table = toml::from_str(&settings).map_err(|e| unusable("run.toml", e.to_string()))?;
        let damaged = |e: serde_json::Error| unusable("summary.json", format!("is not what `train` writes: {e}"));
        let metrics: Metrics = serde_json::from_str(&summary).map_err(damaged)?;
        let summary: serde_json::Value = serde_json::from_str(&summary).map_err(damaged)?;
        let seed = settings.get("seed").and_then(Value::as_integer).unwrap_or(0) as u64;
        let plan = settings.get("plan").map(Value::to_string).unwrap_or_default();
        let mut flat = BTreeMap::new();
        settings.iter().filter(|(key, _)| !ASIDE.contains(&key.as_str())).for_each(|(k, v)| flatten(k, v, &mut flat));
        flat.retain(|name, _| !TRACELESS.contains(&name.as_str()));
        // Of the course, what can be read: it decides nothing here.
        let lines = read_small_text(&path.join("metrics.jsonl")).unwrap_or_default();
        let epoch = |line: &str| serde_json::from_str::<EpochRecord>(line).ok().filter(|record| record.kind == "epoch");
        Ok(Self {
            path: path.into(),
            seed,
            settings: flat,
            plan: blake3::hash(plan.as_bytes()).to_hex()[..8].to_string(),
            metrics,
            seconds: summary["seconds"]["total"].as_f64().unwrap_or(0.0),
            trained: summary["parameters_trained"].as_u64().unwrap_or(0),
            course: lines.lines().filter_map(epoch).collect(),
        })
    }
}

/// Puts the leaves of `value` under their dotted names.
fn flatten(name: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, out)),
        Value::String(text) => drop(out.insert(name.into(), text.clone())),
        other => drop(out.insert(name.into(), other.to_string())),
    }
}

impl Comparison {
    /// Compares runs.
    ///
    /// # Errors
    /// When there are fewer than two, or they were judged by different scores.
    pub fn of(runs: Vec<Run>) -> Result<Self> {
        let [first, rest @ ..] = &runs[..] else { return Err(few()) };
        if rest.is_empty() {
            return Err(few());
        }
        let name = |run: &Run| run.metrics.headline()[0].0;
        if let Some(other) = rest.iter().find(|run| name(run) != name(first)) {
            let reason = format!("it is judged by {}, {} by {}", name(other), first.path.display(), name(first));
            return Err(Error::input(other.path.display(), reason, "compare runs of one kind of task"));
        }
        let score = name(first);
        let names: BTreeSet<String> = runs.iter().flat_map(|run| run.settings.keys().cloned()).collect();
        let mut differing = names;
        differing.retain(|key| runs.iter().any(|run| run.settings.get(key) != runs[0].settings.get(key)));
        let mut groups: Vec<Vec<Run>> = Vec::new();
        for run in runs {
            let same = |group: &Vec<Run>| {
                (&group[0].settings, &group[0].plan) == (&run.settings, &run.plan)
                    && group.iter().all(|other| other.seed != run.seed)
            };
            match groups.iter_mut().find(|group| same(group)) {
                Some(group) => group.push(run),
                None => groups.push(vec![run]),
            }
        }
        let alone = groups.len() == 1;
        let mut rows: Vec<Row> = groups.into_iter().map(|group| Row::of(group, &differing)).collect();
        rows.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        // Rows that nothing tells apart by their settings are told apart by their folders.
        for i in 0..rows.len() {
            let clashes = rows.iter().filter(|row| row.settings == rows[i].settings).count() > 1;
            if (clashes || rows[i].settings.is_empty()) && !alone {
                let folder = rows[i].runs[0].display().to_string();
                rows[i].settings = [rows[i].settings.clone(), folder].join(" ").trim().into();
            }
        }
        let best = rows[0].scores.clone();
        rows.iter_mut().skip(1).for_each(|row| row.difference = difference(&row.scores, &best));
        Ok(Self { score, rows })
    }
}

fn few() -> Error {
    Error::input("compare", "there is nothing to put beside it", "name two runs or more")
}

impl Row {
    fn of(mut group: Vec<Run>, differing: &BTreeSet<String>) -> Self {
        group.sort_by_key(|run| run.seed);
        let settings = differing.iter().filter_map(|key| {
            let value = group[0].settings.get(key)?;
            // The word that a flag has.
            Some(format!("{} {value}", key.rsplit('.').next().unwrap_or(key)))
        });
        let mut settings = settings.collect::<Vec<_>>().join(", ");
        if settings.is_empty() {
            let unset = differing.iter().map(|key| format!("{} as usual", key.rsplit('.').next().unwrap_or(key)));
            settings = unset.collect::<Vec<_>>().join(", ");
        }
        let scores: Vec<(u64, f64)> = group.iter().map(|run| (run.seed, run.metrics.score())).collect();
        let (mean, variance) = moments(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>());
        Self {
            settings,
            runs: group.iter().map(|run| run.path.clone()).collect(),
            mean,
            deviation: (scores.len() > 1).then(|| variance.sqrt()),
            scores,
            seconds: group.iter().map(|run| run.seconds).sum::<f64>() / group.len() as f64,
            parameters_trained: group[0].trained,
            samples: group[0].metrics.samples,
            difference: None,
            courses: group.into_iter().map(|run| run.course).collect(),
        }
    }
}

/// Cells of the table, the header first.
pub fn cells(comparison: &Comparison) -> Vec<Vec<String>> {
    let name = crate::metrics::spoken(comparison.score);
    let header = ["settings", "runs", &name, "against the best", "p", "seconds", "trained", "judged on"];
    let row = |(i, row): (usize, &Row)| {
        let deviation = row.deviation.map_or(String::new(), |deviation| format!(" ± {deviation:.4}"));
        let [against, p] = match row.difference {
            Some(found) => [
                format!("{:+.4} ± {:.4}", found.mean, found.margin),
                if found.p < 0.001 { "< 0.001".into() } else { format!("{:.3}", found.p) },
            ],
            None if i == 0 => [String::new(), String::new()],
            None => [format!("{:+.4}", row.mean - comparison.rows[0].mean), "–".into()],
        };
        vec![
            row.settings.clone(),
            row.runs.len().to_string(),
            format!("{:.4}{deviation}", row.mean),
            against,
            p,
            format!("{:.1}", row.seconds),
            row.parameters_trained.to_string(),
            row.samples.to_string(),
        ]
    };
    [header.map(String::from).to_vec()].into_iter().chain(comparison.rows.iter().enumerate().map(row)).collect()
}

/// What a reader of the table has to know.
pub fn notes(comparison: &Comparison) -> Vec<String> {
    let rows = &comparison.rows;
    let mut notes = vec!["settings: what differs; ± behind a score: standard deviation over seeds".to_string()];
    if rows.iter().any(|row| row.difference.is_some()) {
        notes
            .push("against the best: difference of the means with its 95 % interval, and p of Student's t-test".into());
        let (paired, all) =
            rows.iter().filter_map(|row| row.difference).fold((0, 0), |(p, n), d| (p + usize::from(d.paired), n + 1));
        notes.push(match paired {
            0 => "the test is Welch's: the runs have no two seeds in common".into(),
            n if n == all => "the test is paired by seed".into(),
            _ => "the test is paired by seed where rows have two seeds in common, else Welch's".into(),
        });
    }
    if rows.iter().skip(1).any(|row| row.difference.is_none()) {
        notes.push("p is unknown where there is one seed only: train with --seed 1, 2, …".into());
    }
    if comparison.score == "accuracy" && rows[0].samples > 0 {
        let (share, samples) = (rows[0].mean, rows[0].samples);
        let error = (share * (1.0 - share) / samples as f64).sqrt();
        notes.push(format!(
            "seeds tell how much training varies; that these were the {samples} samples to judge by is an uncertainty of its own \
             (one standard error: {error:.4})"
        ));
    }
    if rows.iter().any(|row| row.samples != rows[0].samples) {
        notes.push("warning: not all were judged on as many samples, so scores may not be comparable".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Targets;
    use crate::task::Task;

    fn run(strategy: &str, seed: u64, right: usize) -> Run {
        let logits: Vec<f32> = (0..10).flat_map(|i| if i < right { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
        let task = Task::classes(vec!["a".into(), "b".into()]);
        let metrics = Metrics::of(&task, &Targets { classes: vec![0; 10], numbers: vec![] }, &logits);
        let settings = [("strategy", strategy), ("data.data", "photos")].map(|(k, v)| (k.to_string(), v.to_string()));
        Run {
            path: format!("runs/{strategy}-{seed}").into(),
            seed,
            settings: settings.into(),
            plan: strategy.into(),
            metrics,
            seconds: 2.0,
            trained: 7,
            course: vec![],
        }
    }

    #[test]
    fn runs_of_other_seeds_are_one_row_and_the_best_comes_first() {
        let runs =
            [("lora", 1, 5), ("partial", 2, 8), ("lora", 2, 6), ("partial", 1, 9), ("lora", 3, 5), ("partial", 3, 9)];
        let found = Comparison::of(runs.map(|(name, seed, right)| run(name, seed, right)).into()).unwrap();
        let [best, other] = &found.rows[..] else { panic!("{found:?}") };
        assert_eq!((best.settings.as_str(), other.settings.as_str()), ("strategy partial", "strategy lora"));
        assert_eq!(other.scores, [(1, 0.5), (2, 0.6), (3, 0.5)]);
        let difference = other.difference.unwrap();
        assert!(difference.paired && (difference.mean + 1.0 / 3.0).abs() < 1e-12 && difference.p < 0.05);
        let cells = cells(&found);
        assert_eq!(cells[1][..5], ["strategy partial", "3", "0.8667 ± 0.0577", "", ""]);
        assert_eq!(cells[2][1..3], ["3", "0.5333 ± 0.0577"]);
        assert!(notes(&found).iter().any(|note| note.contains("paired by seed")));
    }

    #[test]
    fn a_row_without_the_settings_of_others_says_so() {
        let mut other = run("lora", 1, 7);
        other.settings.insert("options.l2".into(), "0.1".into());
        let found = Comparison::of(vec![run("lora", 1, 5), other]).unwrap();
        let names: Vec<&str> = found.rows.iter().map(|row| row.settings.as_str()).collect();
        assert_eq!(names, ["l2 0.1", "l2 as usual"]);
    }

    #[test]
    fn what_leaves_no_trace_makes_no_row_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let read = |name: &str, settings: &str| {
            let folder = home.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let summary = serde_json::to_string(&run("lora", 1, 5).metrics).unwrap();
            std::fs::write(folder.join("summary.json"), summary).unwrap();
            std::fs::write(folder.join("run.toml"), format!("strategy = \"lora\"\n{settings}")).unwrap();
            Run::read(&folder).unwrap()
        };
        let free = "checkpoint-every = 5\nrecompute = true\nmemory-limit = 2.0\n[machine]\ncache-limit = 1.0\noffline = true\n";
        let runs = vec![read("a", "seed = 1\nrecompute = false\n"), read("b", &format!("seed = 2\n{free}"))];
        assert_eq!(Comparison::of(runs).unwrap().rows.len(), 1);
        let runs = vec![read("c", "seed = 1\n"), read("d", "seed = 2\n[machine]\nprecision = \"bf16\"\n")];
        assert_eq!(Comparison::of(runs).unwrap().rows.len(), 2);
    }

    #[test]
    fn one_seed_has_no_p_and_runs_without_a_difference_are_called_by_their_folders() {
        let mut again = run("lora", 1, 7);
        again.path = "elsewhere".into();
        let found = Comparison::of(vec![run("lora", 1, 5), again]).unwrap();
        assert_eq!(
            found.rows.iter().map(|row| row.settings.as_str()).collect::<Vec<_>>(),
            ["elsewhere", "runs/lora-1"]
        );
        assert_eq!(cells(&found)[2][3..5], ["-0.2000", "–"]);
        assert!(Comparison::of(vec![run("lora", 1, 5)]).is_err());
    }
}
