//! Malformed input as data: what is made, which command reads it, what is said of it. Each case runs as a process of its own,
//! whose time and memory are measured.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BINARY, Home};

/// Longest time of a case, and most memory, in bytes.
const TIME: Duration = Duration::from_secs(60);
const MEMORY: u64 = 2_000_000_000;
/// What a case can reserve at most, mapped files included: a defect shall not take the machine with it.
const ADDRESSES: u64 = 16_000_000_000;

/// One malformed input.
pub struct Case {
    /// What is wrong.
    pub name: &'static str,
    /// Makes the files.
    pub make: Box<dyn Fn(&Home)>,
    /// The command; `MODEL` in it is the folder of a sound one.
    pub command: String,
    /// What the message must say; nothing where the input is to be taken as it is.
    pub says: Vec<&'static str>,
}

/// A case that is refused with a message of these parts.
pub fn case(name: &'static str, make: impl Fn(&Home) + 'static, command: &str, says: &[&'static str]) -> Case {
    Case { name, make: Box::new(make), command: command.into(), says: says.to_vec() }
}

/// A case of one file.
pub fn file(
    name: &'static str,
    path: &'static str,
    bytes: impl AsRef<[u8]>,
    command: &str,
    says: &[&'static str],
) -> Case {
    let bytes = bytes.as_ref().to_vec();
    case(name, move |home| drop(home.write(path, &bytes)), command, says)
}

/// Runs every case, and tells of each one what it was and what was said, as a row of a table.
pub fn check(home: impl Fn() -> Home, model: &str, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        let home = home();
        (case.make)(&home);
        let before = listed(&home);
        let args: Vec<&str> = case.command.split(' ').map(|arg| if arg == "MODEL" { model } else { arg }).collect();
        let ran = measured(&mut home.command(&args));
        let of_file = case.says.first().and_then(|first| ran.err.lines().find(|line| line.contains(first)));
        let said = of_file.or_else(|| ran.err.lines().find(|line| line.contains("topwork-"))).unwrap_or_default();
        println!("| {} | {} | {} ms, {} MB |", case.name, row(said, &home), ran.time.as_millis(), ran.peak / 1_000_000);
        let left: Vec<_> = listed(&home).into_iter().filter(|path| !before.contains(path)).collect();
        let refused = !case.says.is_empty();
        let mut fail = |what: String| wrong.push(format!("{}: {what}\n{}{}", case.name, ran.out, ran.err));
        if ran.code != Some(if refused { 2 } else { 0 }) {
            fail(format!("exit code {:?}", ran.code));
        }
        if ran.err.contains("panicked") || ran.err.contains("overflowed its stack") {
            fail("it panicked".into());
        }
        if let Some(part) = case.says.iter().find(|part| !ran.err.contains(**part)) {
            fail(format!("{part:?} is not said"));
        }
        if refused && ran.err.trim().lines().count() < 2 {
            fail("no remedy".into());
        }
        if ran.err.len() > 10_000 {
            fail(format!("a message of {} bytes", ran.err.len()));
        }
        if ran.time >= TIME || ran.peak > MEMORY {
            fail(format!("{:?} and {} MB", ran.time, ran.peak / 1_000_000));
        }
        if refused && !left.is_empty() {
            fail(format!("left behind: {left:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// A message as a cell of a table.
fn row(said: &str, home: &Home) -> String {
    let said = said.strip_prefix(&format!("{}: ", BINARY.rsplit('/').next().unwrap())).unwrap_or(said);
    said.replace(&format!("{}/", home.path("").display().to_string().trim_end_matches('/')), "").replace('|', "\\|")
}

/// Everything in a home but the cache, by path and length: contents may be long.
fn listed(home: &Home) -> Vec<(PathBuf, u64)> {
    let (mut found, mut pending) = (Vec::new(), vec![home.path("")]);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, about) = (entry.path(), entry.metadata().unwrap());
            if about.is_dir() && !path.ends_with(".cache") {
                pending.push(path.clone());
            }
            // The lock of a run that was there before stays where it is.
            if !path.ends_with(".cache") && !path.ends_with(".lock") {
                found.push((path, if about.is_dir() { 0 } else { about.len() }));
            }
        }
    }
    found
}

/// What a process left, and what it took.
pub struct Measured {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub time: Duration,
    /// The largest resident set, in bytes.
    pub peak: u64,
}

/// Runs a command for at most [`TIME`].
#[allow(clippy::zombie_processes)] // wait4 does, which tells the memory, too.
pub fn measured(command: &mut Command) -> Measured {
    let [out, err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    // SAFETY: setrlimit may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: ADDRESSES, rlim_max: ADDRESSES };
            libc::setrlimit(libc::RLIMIT_AS, &limit);
            Ok(())
        });
    }
    let start = Instant::now();
    let child = command.spawn().unwrap();
    let (pid, mut status) = (child.id() as libc::pid_t, 0);
    // SAFETY: plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the process is a child that nobody else waits for, and both places live throughout.
    while unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage) } == 0 {
        if start.elapsed() > TIME {
            // SAFETY: the child has not been waited for, so that the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = |mut file: File| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Measured {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        out: text(out),
        err: text(err),
        time: start.elapsed(),
        peak: usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 },
    }
}

/// A safetensors file with this header and so many zero bytes behind it.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// A state dictionary as the newer `torch.save` writes it, with this pickle.
pub fn torch_zip(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("archive/data.pkl", options).unwrap();
    archive.write_all(pickle).unwrap();
    for (key, bytes) in storages {
        archive.start_file(format!("archive/data/{key}"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A pickle that runs a command when Python loads it.
pub fn payload(command: &str) -> Vec<u8> {
    let mut pickle = b"\x80\x02cos\nsystem\nX".to_vec();
    pickle.extend((command.len() as u32).to_le_bytes());
    pickle.extend(command.as_bytes());
    pickle.extend(b"\x85R.");
    pickle
}

/// A pickle `{"w": tensor of float}` with this shape and stride, and a storage of so many elements.
pub fn tensor_pickle(shape: &[i64], stride: &[i64], len: i64) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let number = |n: i64| [&[0x8a, 8][..], &n.to_le_bytes()].concat();
    let tuple = |items: &[i64]| [&b"("[..], &items.iter().flat_map(|&n| number(n)).collect::<Vec<u8>>(), b"t"].concat();
    [
        &b"\x80\x02}"[..],
        &text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &number(len),
        b"tQ",
        &number(0),
        &tuple(shape),
        &tuple(stride),
        b"\x89}tRs.",
    ]
    .concat()
}
