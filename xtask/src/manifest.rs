//! What is known of a data set, as `datasets/<name>.toml` says it: one schema, checked when read.
//!
//! A manifest describes; it fetches nothing.

use std::fmt::{self, Display};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One `datasets/<name>.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The file's name without `.toml`.
    pub name: String,
    /// The name people use.
    pub title: String,
    /// Which binary it is for.
    pub task: Task,
    /// The page that describes it.
    pub source: String,
    /// SPDX identifier, or what the source says in words.
    pub licence: String,
    /// Authors, title, where, year.
    pub citation: String,
    /// Number of classes.
    pub class_count: usize,
    /// Their names, in the order of the labels; empty when there are too many to list.
    #[serde(default)]
    pub classes: Vec<String>,
    /// How to lay it out on disk so that topwork reads it.
    pub layout: String,
    /// What else one should know.
    #[serde(default)]
    pub notes: String,
    /// What to download; empty for a bundled set.
    #[serde(default)]
    pub files: Vec<File>,
    /// The parts it comes in.
    pub splits: Vec<Split>,
}

/// What a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Photos: `topwork-cv`.
    ImageClassification,
    /// Sentences: `topwork-nlp`.
    TextClassification,
}

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name; for a bundled set, relative to `datasets/<name>/`.
    pub name: String,
    /// Where it is.
    pub url: Option<String>,
    /// SHA-256, hexadecimal.
    pub sha256: Option<String>,
    /// MD5 where the source publishes no better: it guards against damage, not against forgery.
    pub md5: Option<String>,
}

/// One part of a data set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// `train`, `validation`, `test`, …
    pub name: String,
    /// Number of samples.
    pub count: usize,
}

impl Manifest {
    /// Reads a manifest and checks that it agrees with itself.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&text, &stem).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, stem: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text)?;
        ensure!(manifest.name == stem, "the name is {:?}, the file is {stem}.toml: make them equal", manifest.name);
        ensure!(!manifest.splits.is_empty(), "no splits");
        ensure!(
            manifest.classes.is_empty() || manifest.classes.len() == manifest.class_count,
            "class_count is {}, but {} classes are listed",
            manifest.class_count,
            manifest.classes.len()
        );
        for file in &manifest.files {
            for (sum, digits) in [(&file.sha256, 64), (&file.md5, 32)] {
                let fine = |s: &String| s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit());
                ensure!(sum.as_ref().is_none_or(fine), "{}: a checksum is not {digits} hexadecimal digits", file.name);
            }
        }
        Ok(manifest)
    }

    /// All manifests of a folder, by name.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

impl Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImageClassification => "image-classification",
            Self::TextClassification => "text-classification",
        })
    }
}

impl Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.title, self.name)?;
        writeln!(f, "task      {}", self.task)?;
        writeln!(f, "source    {}", self.source)?;
        writeln!(f, "licence   {}", self.licence)?;
        writeln!(f, "citation  {}", self.citation)?;
        let splits: Vec<String> = self.splits.iter().map(|s| format!("{} {}", s.name, s.count)).collect();
        writeln!(f, "splits    {}", splits.join(", "))?;
        writeln!(
            f,
            "classes   {}: {}",
            self.class_count,
            if self.classes.is_empty() { "see the source".into() } else { self.classes.join(", ") }
        )?;
        for file in &self.files {
            writeln!(f, "file      {}", file.url.as_ref().unwrap_or(&file.name))?;
            for (kind, sum) in [("sha256", &file.sha256), ("md5", &file.md5)] {
                if let Some(sum) = sum {
                    writeln!(f, "          {kind} {sum}")?;
                }
            }
        }
        writeln!(f, "layout    {}", self.layout.trim())?;
        if !self.notes.is_empty() {
            writeln!(f, "notes     {}", self.notes.trim())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_of_the_repository_is_sound() {
        let all = Manifest::all(&crate::root().join("datasets")).unwrap();
        assert!(all.len() >= 10, "{}", all.len());
        for manifest in all {
            assert!(manifest.to_string().contains(&manifest.licence));
        }
    }

    #[test]
    fn bundled_files_are_those_of_their_manifests() {
        let folder = crate::root().join("datasets");
        let mut checked = 0;
        for manifest in Manifest::all(&folder).unwrap() {
            for file in manifest.files.iter().filter(|f| f.url.is_none()) {
                let bytes = std::fs::read(folder.join(&manifest.name).join(&file.name)).unwrap();
                assert_eq!(Some(crate::digits::sha256(&bytes)), file.sha256, "{}/{}", manifest.name, file.name);
                checked += 1;
            }
        }
        assert_eq!(checked, 4);
    }

    const TEXT: &str = "name = 'a'\ntitle = 'A'\ntask = 'text-classification'\nsource = 's'\nlicence = 'l'\ncitation = 'c'\n\
        class_count = 2\nclasses = ['x', 'y']\nlayout = 'l'\n[[splits]]\nname = 'train'\ncount = 3\n";

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        assert_eq!(Manifest::parse(TEXT, "a").unwrap().classes, ["x", "y"]);
        assert!(Manifest::parse(TEXT, "b").is_err());
        assert!(Manifest::parse(&TEXT.replace("count = 2", "count = 3"), "a").is_err());
        let short = format!("{TEXT}[[files]]\nname = 'f'\nsha256 = 'abc'\n");
        assert!(Manifest::parse(&short, "a").unwrap_err().to_string().contains("64 hexadecimal"));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(Manifest::parse(&TEXT.replace("licence", "license"), "a").is_err());
    }
}
