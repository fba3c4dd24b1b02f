//! One trial: what is done to a run, and how its end is judged.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use topwork_core::run::REPORT;
use topwork_core::seed::Stream;

use super::jobs::{self, Job};

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    KillOften,
    Interrupt,
    SmallFiles,
    FullDisk,
    Truncate,
    Corrupt,
    Remove,
    CorruptCache,
    VanishedData,
    ChangedData,
    TwoOnOneRun,
    TwoOnOneCache,
    ReadOnly,
    Clock,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::KillOften,
        Self::Interrupt,
        Self::SmallFiles,
        Self::FullDisk,
        Self::Truncate,
        Self::Corrupt,
        Self::Remove,
        Self::CorruptCache,
        Self::VanishedData,
        Self::ChangedData,
        Self::TwoOnOneRun,
        Self::TwoOnOneCache,
        Self::ReadOnly,
        Self::Clock,
    ];

    /// Whether it can happen to `job`.
    pub fn suits(self, job: &Job) -> bool {
        match self {
            Self::CorruptCache | Self::TwoOnOneCache => job.caches,
            // Text that is not yet cut is read anew, whatever it has become.
            Self::ChangedData => job.args[0] != "pretrain",
            _ => true,
        }
    }

    /// Whether it takes something away that the run cannot do without.
    fn may_end_in_refusal(self) -> bool {
        self.concerns_data() || matches!(self, Self::Truncate | Self::Corrupt | Self::Remove | Self::ReadOnly)
    }

    fn concerns_data(self) -> bool {
        matches!(self, Self::VanishedData | Self::ChangedData)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "killed once",
            Self::KillOften => "killed up to four times",
            Self::Interrupt => "Ctrl-C",
            Self::SmallFiles => "files may not grow beyond a limit, then may",
            Self::FullDisk => "the disk is full, then has room",
            Self::Truncate => "killed, a file of the run cut short",
            Self::Corrupt => "killed, a byte of the run changed",
            Self::Remove => "killed, a file of the run removed",
            Self::CorruptCache => "a byte of the kept features changed",
            Self::VanishedData => "killed, a file of the data removed",
            Self::ChangedData => "killed, a byte of the data changed",
            Self::TwoOnOneRun => "two processes on one run directory",
            Self::TwoOnOneCache => "two processes on one cache",
            Self::ReadOnly => "a folder that cannot be written to",
            Self::Clock => "killed, the times of files jump by decades",
        })
    }
}

/// What became of a trial.
pub enum Outcome {
    /// The weights of an undisturbed run.
    Same,
    /// A clear error, and the run starts anew with `--force`.
    Refused,
    /// The system does not let us do this, or there was no run to do it to: none yet, or one that had ended.
    Impossible,
    /// Anything else.
    Failed(String),
}

/// No job takes as long.
const MOST: Duration = Duration::from_secs(300);

/// How far the times of files jump at most, in seconds.
const DECADES: f64 = 40.0 * 365.0 * 86_400.0;

/// Does `fault` to `job` in the empty `folder`; also tells what was done.
pub fn run(job: &Job, fault: Fault, folder: &Path, stream: &mut Stream) -> Result<(Outcome, Vec<String>)> {
    let mut trial = Trial { job, folder, stream, story: Vec::new() };
    jobs::copy(&job.data, folder)?;
    let outcome = match trial.disturb(fault)? {
        Some(outcome) => outcome,
        None => trial.end(fault)?,
    };
    Ok((outcome, trial.story))
}

struct Trial<'a> {
    job: &'a Job,
    folder: &'a Path,
    stream: &'a mut Stream,
    story: Vec<String>,
}

impl Trial<'_> {
    /// Does it; with an outcome where there is nothing to go on with.
    fn disturb(&mut self, fault: Fault) -> Result<Option<Outcome>> {
        match fault {
            Fault::Kill => self.kill(1)?,
            Fault::KillOften => {
                let times = 2 + self.stream.below(3);
                self.kill(times)?;
            }
            Fault::Interrupt => {
                let mut child = self.next_command().spawn()?;
                self.wait_a_while(&mut child);
                signal(&child, "INT")?;
                let output = output(child)?;
                self.tell("after Ctrl-C", &output);
                if !matches!(output.status.code(), Some(0 | 130)) && output.status.signal() != Some(2) {
                    return Ok(Some(Outcome::Failed("Ctrl-C ended it otherwise".into())));
                }
            }
            Fault::SmallFiles => {
                let blocks = 1 + self.stream.below(2 * self.job.weights.len() / 512);
                let output = output(self.shell(&format!("trap '' XFSZ; ulimit -f {blocks} || exit 77")).spawn()?)?;
                self.tell(&format!("files of at most {blocks} blocks"), &output);
                if !matches!(output.status.code(), Some(0 | 2)) {
                    return Ok(Some(Outcome::Failed("exit code".into())));
                }
            }
            Fault::FullDisk => return self.full_disk().map(Some),
            Fault::ReadOnly => return self.read_only().map(Some),
            Fault::Truncate | Fault::Corrupt | Fault::Remove => {
                self.kill(1)?;
                if self.ended() {
                    self.story.push("it had ended already".into());
                    return Ok(Some(Outcome::Impossible));
                }
                self.damage(fault, &self.folder.join("run"))?;
            }
            Fault::CorruptCache => {
                self.complete()?;
                std::fs::remove_dir_all(self.folder.join("run"))?;
                self.damage(Fault::Corrupt, &self.folder.join("cache"))?;
            }
            Fault::VanishedData | Fault::ChangedData => {
                self.kill(1)?;
                if !self.folder.join("run/run.toml").is_file() {
                    self.story.push("it had not begun yet".into());
                    return Ok(Some(Outcome::Impossible));
                }
                let data = if self.folder.join("data").is_dir() { "data" } else { "" };
                let mut all = files(&self.folder.join(data))?;
                let of_run = [self.folder.join("run"), self.folder.join("cache"), self.folder.join("encoder")];
                all.retain(|path| !of_run.iter().any(|folder| path.starts_with(folder)));
                let chosen = &all[self.stream.below(all.len())];
                let what = if fault == Fault::VanishedData { Fault::Remove } else { Fault::Corrupt };
                self.damage_file(what, chosen)?;
            }
            Fault::Clock => {
                self.kill(1)?;
                self.jump()?;
            }
            Fault::TwoOnOneRun => {
                let first = self.next_command().spawn()?;
                std::thread::sleep(self.some_time());
                let second = output(self.job.command(self.folder, &["--out", "run"]).spawn()?)?;
                self.tell("the second", &second);
                let first = output(first)?;
                self.tell("the first", &first);
                let (a, b) = (first.status.code(), second.status.code());
                if !matches!((a, b), (Some(0), Some(2)) | (Some(2), Some(0))) {
                    return Ok(Some(Outcome::Failed("not exactly one went through".into())));
                }
                let refused = if a == Some(2) { &first } else { &second };
                if !clear(refused) || !said(refused).contains("run") {
                    return Ok(Some(Outcome::Failed("the refusal is not clear".into())));
                }
            }
            Fault::TwoOnOneCache => {
                let other = self.job.command(self.folder, &["--out", "other"]).spawn()?;
                std::thread::sleep(self.some_time());
                let own = output(self.next_command().spawn()?)?;
                self.tell("one", &own);
                let other = output(other)?;
                self.tell("the other", &other);
                let same =
                    std::fs::read(jobs::weights(&self.folder.join("other"))).is_ok_and(|w| w == self.job.weights);
                if !same {
                    return Ok(Some(Outcome::Failed("the other's weights are not the same".into())));
                }
            }
        }
        Ok(None)
    }

    /// Goes on as a user would, and judges the end.
    fn end(&mut self, fault: Fault) -> Result<Outcome> {
        if !self.ended() {
            let output = output(self.next_command().spawn()?)?;
            self.tell("going on", &output);
            if output.status.code() == Some(2) && clear(&output) && fault.may_end_in_refusal() {
                if fault.concerns_data() {
                    return Ok(Outcome::Refused);
                }
                let output = self::output(self.job.command(self.folder, &["--out", "run", "--force"]).spawn()?)?;
                self.tell("anew", &output);
                return Ok(if self.same() {
                    Outcome::Refused
                } else {
                    Outcome::Failed("it does not start anew".into())
                });
            }
            if !output.status.success() {
                return Ok(Outcome::Failed("it does not go on".into()));
            }
        }
        Ok(if self.same() { Outcome::Same } else { Outcome::Failed("the weights are not the same".into()) })
    }

    /// Whether the run came to its end.
    fn ended(&self) -> bool {
        self.folder.join("run").join(REPORT).is_file()
    }

    fn same(&self) -> bool {
        std::fs::read(jobs::weights(&self.folder.join("run"))).is_ok_and(|weights| weights == self.job.weights)
    }

    /// What a user would do now: begin, or go on.
    fn next_command(&self) -> Command {
        match self.folder.join("run/run.toml").is_file() {
            true => self.job.resume(self.folder, "run"),
            false => self.job.command(self.folder, &["--out", "run"]),
        }
    }

    fn some_time(&mut self) -> Duration {
        Duration::from_secs_f64(self.job.seconds * self.stream.uniform())
    }

    /// Waits a random time, at most until `child` has ended.
    fn wait_a_while(&mut self, child: &mut Child) {
        let until = Instant::now() + self.some_time();
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills the run so many times, each after a random time, unless it comes to its end before.
    fn kill(&mut self, times: usize) -> Result<()> {
        for _ in 0..times {
            let run = self.folder.join("run");
            if jobs::weights(&run).is_file() {
                break;
            }
            let start = Instant::now();
            let mut child = self.next_command().spawn()?;
            self.wait_a_while(&mut child);
            child.kill().ok();
            let output = output(child)?;
            self.tell(&format!("killed after {:.3} s", start.elapsed().as_secs_f64()), &output);
        }
        Ok(())
    }

    /// Leaves what a clock leaves that is set forwards and back: each file is as old, or as much ahead, as chance has it.
    fn jump(&mut self) -> Result<()> {
        for path in files(self.folder)? {
            let by = Duration::from_secs_f64(DECADES * self.stream.uniform());
            let now = SystemTime::now();
            let time = if self.stream.uniform() < 0.5 { now - by } else { now + by };
            std::fs::File::open(&path)?.set_modified(time).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// An undisturbed run.
    fn complete(&mut self) -> Result<()> {
        let output = output(self.next_command().spawn()?)?;
        if !output.status.success() {
            bail!("{}: {}", self.job.name, said(&output));
        }
        Ok(())
    }

    /// Damages a random file below `folder`, if there is one.
    fn damage(&mut self, fault: Fault, folder: &Path) -> Result<()> {
        let mut all = if folder.is_dir() { files(folder)? } else { Vec::new() };
        all.retain(|path| std::fs::metadata(path).is_ok_and(|found| found.len() > 0));
        if all.is_empty() {
            self.story.push("there is nothing to damage yet".into());
            return Ok(());
        }
        let path = &all[self.stream.below(all.len())];
        self.damage_file(fault, path)
    }

    fn damage_file(&mut self, fault: Fault, path: &Path) -> Result<()> {
        let mut bytes = std::fs::read(path)?;
        let at = self.stream.below(bytes.len());
        self.story.push(format!("{fault:?} {} at {at} of {}", path.display(), bytes.len()));
        match fault {
            Fault::Remove => return Ok(std::fs::remove_file(path)?),
            Fault::Truncate => bytes.truncate(at),
            _ => bytes[at] ^= 1 << self.stream.below(8),
        }
        Ok(std::fs::write(path, bytes)?)
    }

    /// A shell that runs `before` and then the next command.
    fn shell(&self, before: &str) -> Command {
        let next = self.next_command();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$@\""), "sh"]).arg(next.get_program()).args(next.get_args());
        Job::settle(&mut shell, self.folder);
        shell
    }

    /// In a mount namespace of its own, with a small disk at `disk`.
    fn on_a_disk(&self, kilobytes: usize, script: &str) -> Command {
        let mount = format!("mkdir -p disk && mount -t tmpfs -o size={kilobytes}k none disk || exit 77; {script}");
        let begin = self.job.command(self.folder, &["--out", "disk/run"]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", &mount, "sh"]);
        command.arg(begin.get_program()).args(begin.get_args());
        Job::settle(&mut command, self.folder);
        command
    }

    fn full_disk(&mut self) -> Result<Outcome> {
        let kilobytes = 4 + self.stream.below(4 * self.job.weights.len() / 1024);
        let verb = &self.job.args[0];
        let script = format!(
            "\"$@\"; first=$?; mount -o remount,size=1g disk; \
             if [ $first = 0 ]; then :; \
             elif [ -f disk/run/run.toml ]; then \"$1\" {verb} --resume --quiet --out disk/run; \
             else \"$@\"; fi; second=$?; \
             cp -r disk/run run; echo first $first second $second >&2; [ $second = 0 ] || exit 66; \
             [ $first = 0 ] || [ $first = 2 ] || exit 67"
        );
        let output = output(self.on_a_disk(kilobytes, &script).spawn()?)?;
        self.tell(&format!("a disk of {kilobytes} kB"), &output);
        Ok(match output.status.code() {
            Some(0) if self.same() => Outcome::Same,
            Some(0) => Outcome::Failed("the weights are not the same".into()),
            Some(66) => Outcome::Failed("with room it does not go on".into()),
            Some(67) => Outcome::Failed("the full disk is not told".into()),
            _ => Outcome::Impossible,
        })
    }

    fn read_only(&mut self) -> Result<Outcome> {
        let output = output(self.on_a_disk(1024, "mount -o remount,ro disk || exit 77; exec \"$@\"").spawn()?)?;
        self.tell("a read-only folder", &output);
        Ok(match output.status.code() {
            Some(2) if clear(&output) && said(&output).contains("disk") => Outcome::Refused,
            Some(0..=2) => Outcome::Failed("it is not refused clearly".into()),
            _ => Outcome::Impossible,
        })
    }

    fn tell(&mut self, what: &str, output: &Output) {
        self.story.push(format!("{what}: {}: {}", output.status, said(output).trim()));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is wrong, and on another line what to do.
fn clear(output: &Output) -> bool {
    let said = said(output);
    !said.contains("panicked") && said.trim().lines().count() >= 2
}

fn signal(child: &Child, name: &str) -> Result<()> {
    // Where it has ended already, there is nobody to tell.
    Command::new("kill").args([format!("-{name}"), child.id().to_string()]).output().context("kill")?;
    Ok(())
}

/// Waits for the end, which must come.
fn output(mut child: Child) -> Result<Output> {
    let begun = Instant::now();
    // The messages are few: they fit the pipe.
    while child.try_wait()?.is_none() {
        if begun.elapsed() > MOST {
            child.kill().ok();
            bail!("a process did not end within {} s", MOST.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(child.wait_with_output()?)
}

/// All files below `folder`, in a fixed order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => pending.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
