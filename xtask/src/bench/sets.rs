//! The long benchmark: all strategies on the bundled sets and on public ones that the user has.
//!
//! A public set is read from `DIR/NAME`, NAME being that of its manifest in `datasets/`: photos as `train/CLASS/…` and
//! `val/CLASS/…` or `test/CLASS/…`, sentences as `train.tsv` and `test.tsv`, plain or `.gz`. Of large sets a fixed part is
//! used, drawn evenly from the classes: seeds draw their labels from the pool, and the test part is the same for all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use topwork_core::data::{Budget, choose};
use topwork_core::seed::Seed;

use super::Contest;
use super::domains::{self, PHOTO_MODEL, Parts, TEXT_MODEL};
use super::recipes::{self, Kind, Length};

/// A data set of the comparison.
pub struct Set {
    /// Name of its manifest.
    pub name: &'static str,
    kind: Kind,
    bundled: bool,
    /// Labelled samples of each class that seeds draw from.
    pool: usize,
    /// Most test samples.
    test: usize,
    /// Pixels of a side, or tokens.
    extent: usize,
    lengths: &'static [Length],
    /// A file that is no sample.
    except: Option<&'static str>,
}

const fn length(per_class: usize, epochs: usize) -> Length {
    Length { per_class, epochs }
}

/// The sets, those whose runs are shorter first.
pub const SETS: [Set; 6] = [
    Set {
        name: "sst-2",
        kind: Kind::Sentences,
        bundled: false,
        pool: 1000,
        test: 1000,
        extent: 48,
        lengths: &[length(8, 20), length(64, 6)],
        except: None,
    },
    Set {
        name: "digits",
        kind: Kind::Photos,
        bundled: true,
        pool: 1000,
        test: 1000,
        extent: 64,
        lengths: &[length(8, 12), length(64, 3)],
        except: None,
    },
    Set {
        name: "hymenoptera",
        kind: Kind::Photos,
        bundled: false,
        pool: 1000,
        test: 1000,
        extent: 128,
        lengths: &[length(8, 20), length(64, 6)],
        except: Some("imageNotFound.gif"),
    },
    Set {
        name: "ag-news",
        kind: Kind::Sentences,
        bundled: false,
        pool: 500,
        test: 400,
        extent: 32,
        lengths: &[length(8, 10), length(64, 3)],
        except: None,
    },
    Set {
        name: "cifar-10",
        kind: Kind::Photos,
        bundled: false,
        pool: 500,
        test: 1000,
        extent: 64,
        lengths: &[length(100, 3)],
        except: None,
    },
    Set {
        name: "debian-sections",
        kind: Kind::Sentences,
        bundled: true,
        pool: 1000,
        test: 600,
        extent: 32,
        lengths: &[length(8, 4), length(64, 1)],
        except: None,
    },
];

/// What is compared.
pub struct Scope<'a> {
    /// Where public sets are.
    pub data: Option<&'a Path>,
    /// These strategies, or all.
    pub strategies: Option<&'a [String]>,
    /// These sets, or all.
    pub sets: Option<&'a [String]>,
    /// Seeds are 1 to this.
    pub seeds: u64,
}

/// Contests, and lines about those that cannot take place.
pub type Contests = (Vec<Box<dyn Contest>>, Vec<String>);

/// Contests on the sets that are there, and a line for each that is not.
pub fn contests(scope: &Scope<'_>, folder: &Path, say: &(dyn Fn(String) + Sync)) -> Result<Contests> {
    let names = SETS.map(|set| set.name);
    if let Some(unknown) = scope.sets.into_iter().flatten().find(|name| !names.contains(&name.as_str())) {
        bail!("--sets {unknown}: no such set\n  use some of {}", names.join(","));
    }
    let known: Vec<&str> = topwork_core::strategy::all().iter().map(|strategy| strategy.name()).collect();
    if let Some(unknown) = scope.strategies.into_iter().flatten().find(|name| !known.contains(&name.as_str())) {
        bail!("--strategies {unknown}: no such strategy\n  use all, or some of {}", known.join(","));
    }
    let (mut contests, mut absent) = (Vec::new(), Vec::new());
    for set in SETS.iter().filter(|set| scope.sets.is_none_or(|sets| sets.iter().any(|name| name == set.name))) {
        let place = scope.data.map(|data| data.join(set.name));
        if !set.bundled && !place.as_ref().is_some_and(|place| place.is_dir()) {
            let name = set.name;
            absent.push(format!(
                "{name} is left out: it is not in --data-dir as a folder {name} (`dataset show {name}`)"
            ));
            continue;
        }
        contests.push(set.contest(&place.unwrap_or_default(), scope, folder, say)?);
    }
    Ok((contests, absent))
}

impl Set {
    fn contest(
        &self,
        place: &Path,
        scope: &Scope<'_>,
        folder: &Path,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<Box<dyn Contest>> {
        let entries = |model: &str, classes: usize| {
            recipes::entries(self.kind, model, self.lengths, classes, scope.seeds, scope.strategies)
        };
        let (name, extent, setting) = (self.name, self.extent, self.setting());
        match self.kind {
            Kind::Photos => {
                let mut all = if self.bundled { domains::digits(folder)? } else { photos_in(place)? };
                let sample =
                    |(path, _): &(PathBuf, String)| path.file_name().and_then(|name| name.to_str()) != self.except;
                all.0.retain(sample);
                let parts = self.part(all)?;
                let entries = entries(PHOTO_MODEL, classes(&parts.0).len());
                Ok(Box::new(domains::photos(name, parts, (PHOTO_MODEL, Some(extent)), entries, setting, folder, say)?))
            }
            Kind::Sentences => {
                let all = if self.bundled { domains::debian_sections()? } else { sentences_in(place)? };
                let parts = self.part(all)?;
                let entries = entries(TEXT_MODEL, classes(&parts.0).len());
                Ok(Box::new(domains::sentences(name, parts, (TEXT_MODEL, extent), entries, setting, folder, say)?))
            }
        }
    }

    /// The pool and the test part.
    fn part<I: Clone>(&self, (train, test): Parts<I>) -> Result<Parts<I>> {
        let fewest = classes(&train).into_values().min().unwrap_or(0);
        let pool = draw(&train, Budget::PerClass(self.pool.min(fewest)))?;
        let test = draw(&test, Budget::Total(self.test.min(test.len())))?;
        Ok((pool, test))
    }

    /// What a reader must know.
    pub fn setting(&self) -> String {
        let (model, extent) = match self.kind {
            Kind::Photos => (PHOTO_MODEL, format!("{0} × {0} pixels, plain views", self.extent)),
            Kind::Sentences => (TEXT_MODEL, format!("the first {} tokens", self.extent)),
        };
        let lengths = self.lengths.iter().map(|l| format!("{} epochs at {} labels a class", l.epochs, l.per_class));
        let lengths: Vec<String> = lengths.collect();
        let (pool, test) = (self.pool, self.test);
        format!(
            "{}: {model}, {extent}; labels drawn from {pool} a class or what there is, at most {test} test samples; {}",
            self.name,
            lengths.join(", ")
        )
    }
}

fn classes<I>(samples: &[(I, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, label) in samples {
        *counts.entry(label.as_str()).or_default() += 1;
    }
    counts
}

/// A fixed draw from `samples`, even over the classes.
fn draw<I: Clone>(samples: &[(I, String)], budget: Budget) -> Result<Vec<(I, String)>> {
    let names: Vec<String> = classes(samples).into_keys().map(String::from).collect();
    let target = |(_, label): &(I, String)| names.binary_search(label).unwrap_or_default() as u32;
    let targets: Vec<u32> = samples.iter().map(target).collect();
    Ok(choose(&targets, &names, budget, Seed(0))?.into_iter().map(|i| samples[i].clone()).collect())
}

fn photos_in(place: &Path) -> Result<Parts<PathBuf>> {
    let test = ["val", "test"].map(|name| place.join(name)).into_iter().find(|path| path.is_dir());
    let test = test.with_context(|| format!("{}: no folder val or test is in it", place.display()))?;
    Ok((domains::class_folders(&place.join("train"))?, domains::class_folders(&test)?))
}

fn sentences_in(place: &Path) -> Result<Parts<String>> {
    let part = |part: &str| {
        let files = [format!("{part}.tsv"), format!("{part}.tsv.gz")].map(|name| place.join(name));
        let file = files.iter().find(|file| file.is_file());
        domains::rows(file.with_context(|| format!("{} is not there, nor its .gz", files[0].display()))?)
    };
    Ok((part("train")?, part("test")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_a_manifest_and_its_kind() {
        for set in &SETS {
            let path = crate::root().join("datasets").join(format!("{}.toml", set.name));
            let photos =
                crate::manifest::Manifest::read(&path).unwrap().task == crate::manifest::Task::ImageClassification;
            assert_eq!(photos, set.kind == Kind::Photos, "{}", set.name);
        }
    }

    #[test]
    fn a_draw_is_even_and_the_same_every_time() {
        let samples: Vec<(usize, String)> = (0..90).map(|i| (i, if i % 3 == 0 { "a" } else { "b" }.into())).collect();
        let drawn = draw(&samples, Budget::PerClass(10)).unwrap();
        assert_eq!(classes(&drawn), BTreeMap::from([("a", 10), ("b", 10)]));
        assert_eq!(drawn, draw(&samples, Budget::PerClass(10)).unwrap());
    }

    #[test]
    fn sets_that_are_not_there_are_told_and_wrong_names_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sets = |name: &str| {
            let (sets, nothing) = ([name.to_string()], ["nothing".to_string()]);
            let scope = Scope {
                data: None,
                strategies: (name == "digits").then_some(&nothing[..]),
                sets: Some(&sets),
                seeds: 1,
            };
            contests(&scope, folder.path(), &|_| {}).map(|(contests, absent)| (contests.len(), absent))
        };
        let (count, absent) = sets("sst-2").unwrap();
        assert!(count == 0 && absent.len() == 1 && absent[0].contains("--data-dir"), "{absent:?}");
        assert!(sets("sst-3").unwrap_err().to_string().contains("--sets sst-3"));
        assert!(sets("digits").unwrap_err().to_string().contains("--strategies nothing"));
    }
}
