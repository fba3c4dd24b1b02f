//! The jobs that are disturbed: small ones of both binaries, on data made here, so that nothing is fetched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use image::{Rgb, RgbImage};
use topwork_core::seed::Seed;

/// The binary for photos.
pub const PHOTOS: &str = "topwork-cv";
/// The binary for text.
pub const TEXTS: &str = "topwork-nlp";

/// A run whose end is known.
pub struct Job {
    /// What to call it.
    pub name: &'static str,
    /// The binary.
    pub binary: PathBuf,
    /// The verb and all flags but `--out`, relative to a folder with the data.
    pub args: Vec<String>,
    /// Where the data are that every trial gets a copy of.
    pub data: PathBuf,
    /// The bytes of the final weights.
    pub weights: Vec<u8>,
    /// How long it takes, undisturbed.
    pub seconds: f64,
    /// Whether activations are kept on disk.
    pub caches: bool,
}

impl Job {
    /// The command in `folder`, with `more` flags and a cache of its own there.
    pub fn command(&self, folder: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args).args(more);
        Self::settle(&mut command, folder);
        command
    }

    /// What goes on with the run at `out`.
    pub fn resume(&self, folder: &Path, out: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args([self.args[0].as_str(), "--resume", "--quiet", "--out", out]);
        Self::settle(&mut command, folder);
        command
    }

    /// Where and how a command of a trial runs.
    pub fn settle(command: &mut Command, folder: &Path) {
        command.current_dir(folder).env("TOPWORK_CACHE", folder.join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    }
}

/// Where a finished run has its weights.
pub fn weights(run: &Path) -> PathBuf {
    run.join("model/model.safetensors")
}

/// All jobs, with what they end in when nothing happens; their data lie below `folder`.
pub fn all(binaries: &Path, folder: &Path) -> Result<Vec<Job>> {
    let (photos, texts) = (folder.join("photos"), folder.join("texts"));
    pictures(&photos)?;
    sentences(&texts)?;
    let [cv, nlp] = [PHOTOS, TEXTS].map(|name| binaries.join(name));
    // The encoder that texts are fitted with.
    let small = "--layers 1 --width 32 --heads 2 --inner 64 --vocabulary 200 --max-tokens 32 --batch-size 8";
    let made = format!("pretrain --corpus corpus.txt --steps 3 {small} --seed 1 --quiet --out encoder");
    let mut first = Command::new(&nlp);
    Job::settle(first.args(made.split(' ')), &texts);
    finish(&mut first)?;
    std::fs::remove_dir_all(texts.join("cache")).ok();

    let descent = "--epochs 3 --batch-size 4 --checkpoint-every 2 --seed 5 --quiet";
    let photos_of = "--data data --model tiny-resnet";
    let of_texts = "--train train.tsv --model encoder";
    let plans = [
        (
            "photos, fine-tuning",
            &cv,
            &photos,
            false,
            format!("train {photos_of} --strategy fine-tuning --augment {descent}"),
        ),
        ("photos, last stage", &cv, &photos, true, format!("train {photos_of} --strategy partial {descent}")),
        ("photos, folds", &cv, &photos, true, format!("train {photos_of} --strategy lp-ft --folds 3 {descent}")),
        ("texts, lora", &nlp, &texts, false, format!("train {of_texts} --strategy lora {descent}")),
        (
            "texts, pre-training",
            &nlp,
            &texts,
            false,
            format!("pretrain --corpus corpus.txt --steps 24 --checkpoint-every 4 {small} --seed 2 --quiet"),
        ),
    ];
    plans
        .into_iter()
        .map(|(name, binary, data, caches, args)| {
            let args = args.split(' ').map(String::from).collect();
            let mut job = Job {
                name,
                binary: binary.clone(),
                args,
                data: data.clone(),
                weights: Vec::new(),
                seconds: 0.0,
                caches,
            };
            let place = folder.join(name.replace([',', ' '], ""));
            copy(data, &place)?;
            let start = Instant::now();
            finish(&mut job.command(&place, &["--out", "run"])).context(name)?;
            job.seconds = start.elapsed().as_secs_f64();
            job.weights = std::fs::read(weights(&place.join("run")))?;
            Ok(job)
        })
        .collect()
}

fn finish(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Copies the folder `from` to `to`, which is not there yet.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), &place).with_context(|| place.display().to_string())?;
        }
    }
    Ok(())
}

/// Thirty noisy pictures of three colours.
fn pictures(folder: &Path) -> Result<()> {
    let colours = [("red", [200, 60, 60]), ("green", [60, 200, 60]), ("blue", [60, 60, 200])];
    for (name, colour) in colours {
        let class = folder.join("data").join(name);
        std::fs::create_dir_all(&class)?;
        for number in 0..10 {
            let mut noise = Seed(7).named(name).child(number).stream();
            let mut pixel = || Rgb(colour.map(|value: u8| value.saturating_add_signed(noise.below(100) as i8 - 50)));
            RgbImage::from_fn(40, 36, |_, _| pixel()).save(class.join(format!("{number}.png")))?;
        }
    }
    Ok(())
}

/// A table of sentences of two kinds, and a text to pre-train on.
fn sentences(folder: &Path) -> Result<()> {
    const GOOD: [&str; 5] = ["lovely", "great", "warm", "bright", "fine"];
    const BAD: [&str; 5] = ["awful", "dull", "cold", "dark", "poor"];
    const THINGS: [&str; 6] = ["film", "plot", "actor", "scene", "song", "end"];
    std::fs::create_dir_all(folder)?;
    let mut stream = Seed(8).named("sentences").stream();
    let mut sentence = |words: [&str; 5]| {
        let (thing, word) = (THINGS[stream.below(THINGS.len())], words[stream.below(words.len())]);
        format!("the {thing} is {word} and the {} too", THINGS[stream.below(THINGS.len())])
    };
    let mut table = String::from("sentence\tlabel\n");
    let mut corpus = String::new();
    for _ in 0..24 {
        table += &format!("{}\tgood\n{}\tbad\n", sentence(GOOD), sentence(BAD));
    }
    for _ in 0..60 {
        corpus += &format!("{}\n{}\n{}\n\n", sentence(GOOD), sentence(BAD), sentence(GOOD));
    }
    std::fs::write(folder.join("train.tsv"), table)?;
    std::fs::write(folder.join("corpus.txt"), corpus)?;
    Ok(())
}
