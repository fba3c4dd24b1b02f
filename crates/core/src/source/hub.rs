//! Weights from the Hugging Face hub, through hf-hub's cache, which resumes what was interrupted and is shared with
//! Python's huggingface_hub.
//!
//! Files are fetched into that cache, checked, and copied into the model's own folder, so that clearing either leaves the other whole.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::RemoteFile;
use super::install::{Staging, check};
use crate::{Error, Result, files};

/// Where the hub is, and where what comes from it is kept.
#[derive(Clone)]
pub(super) struct Hub {
    pub cache: PathBuf,
    /// hf-hub's default if absent.
    pub endpoint: Option<String>,
    pub token: Option<String>,
    pub offline: bool,
}

/// Never the token, nor a password in the address.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_deref().map(without_passwords);
        let (cache, offline, token) = (&self.cache, self.offline, self.token.as_ref().map(|_| "…"));
        write!(f, "Hub {{ cache: {cache:?}, endpoint: {endpoint:?}, token: {token:?}, offline: {offline} }}")
    }
}

/// A text without what stands between `://` and `@` of the addresses in it.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| {
        let end = part.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        text + "://" + &part[host..]
    })
}

impl Hub {
    /// As Python's huggingface_hub: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` or the token that
    /// `huggingface-cli login` left, `HF_HUB_OFFLINE`.
    pub fn from_env(fallback: &Path) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")))
            .unwrap_or_else(|| fallback.join("huggingface"));
        let saved_token = || std::fs::read_to_string(home.join("token")).ok();
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: var("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_string()),
            token: var("HF_TOKEN").or_else(saved_token).map(|t| t.trim().to_string()).filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        }
    }

    pub fn fetch(
        &self,
        staging: &mut Staging,
        (repo, revision): (&str, &str),
        wanted: &[RemoteFile],
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let place = Repo::with_revision(repo.into(), RepoType::Model, revision.into());
        let cached = Cache::new(self.cache.clone()).repo(place.clone());
        let remote = if self.offline { None } else { Some(self.connect(place)?) };
        // Formats of the same weights, those in one folder, are alternatives: the first that is there is enough.
        let (mut weights, mut weights_missing) = (BTreeSet::new(), false);
        for file in wanted {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if is_weights(file.path) && file.optional && weights.contains(folder) {
                continue;
            }
            let origin = format!("{repo}@{revision}: {}", file.path);
            let found = match (find_cached(&cached, revision, file.path), &remote) {
                (Some(path), _) => Some(path),
                (None, Some(remote)) => self.download(remote, file, &origin, progress)?,
                (None, None) => None,
            };
            match found {
                Some(path) => {
                    take(staging, file, &origin, &path)?;
                    if is_weights(file.path) {
                        weights.insert(folder);
                    }
                }
                None if file.optional => weights_missing |= is_weights(file.path) && folder.is_empty(),
                None if self.offline => {
                    let remedy = "unset HF_HUB_OFFLINE, or copy the hub's cache from a machine that has it";
                    return Err(Error::input(origin, "not in the hub's cache, and offline", remedy));
                }
                None => return Err(Error::input(origin, "the repository has no such file", "check the repository")),
            }
        }
        if weights_missing && !weights.contains("") {
            let names: Vec<_> = wanted.iter().map(|f| f.path).filter(|path| is_weights(path)).collect();
            let reason = match self.offline {
                true => format!("offline, and none of {} is in the hub's cache", names.join(", ")),
                false => format!("the repository has none of {}", names.join(", ")),
            };
            return Err(Error::input(format!("{repo}@{revision}"), reason, "choose a repository with such weights"));
        }
        Ok(())
    }

    fn connect(&self, place: Repo) -> Result<ApiRepo> {
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_progress(false)
            .with_retries(3)
            .with_token(self.token.clone())
            .with_user_agent("topwork", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        Ok(builder.build().map_err(|e| self.refused("Hugging Face hub", e))?.repo(place))
    }

    /// `None`: the hub says that there is no such file.
    fn download(
        &self,
        remote: &ApiRepo,
        file: &RemoteFile,
        origin: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<PathBuf>> {
        let mut result = remote.download_with_progress(file.path, Report::new(&mut *progress));
        if matches!(result, Err(ApiError::InvalidResume)) {
            // What an earlier download left is longer than the file: of no use.
            remove_partial(&self.cache);
            result = remote.download_with_progress(file.path, Report::new(&mut *progress));
        }
        match result {
            Ok(path) => Ok(Some(path)),
            Err(ApiError::RequestError(e)) if e.to_string().ends_with("404") => Ok(None),
            Err(e) => Err(self.refused(origin, e)),
        }
    }

    fn refused(&self, origin: &str, error: ApiError) -> Error {
        match error {
            ApiError::IoError(e) if e.kind() == std::io::ErrorKind::StorageFull => Error::io(&self.cache)(e),
            error => {
                let text = without_passwords(&error.to_string());
                let remedy = match text.rsplit(' ').next() {
                    Some("401" | "403") => "set HF_TOKEN, after accepting the model's terms on its page",
                    _ => "check the network (HF_ENDPOINT names another hub); what has arrived is kept and resumed",
                };
                Error::input(origin, text, remedy)
            }
        }
    }
}

/// As huggingface_hub reads its switches.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| word.eq_ignore_ascii_case(value.trim()))
}

pub(super) fn is_weights(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["safetensors", "bin", "pth", "pt"].iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// hf-hub looks up branches and tags only; a commit is a snapshot's own name.
fn find_cached(cache: &CacheRepo, revision: &str, path: &str) -> Option<PathBuf> {
    cache.get(path).or_else(|| Some(cache.pointer_path(revision).join(path)).filter(|path| path.is_file()))
}

/// Checks a file of the hub's cache and brings it into the model's folder. A bad file is removed from the cache.
fn take(staging: &mut Staging, file: &RemoteFile, origin: &str, path: &Path) -> Result<()> {
    let blob = path.canonicalize().map_err(Error::io(path))?;
    // The hub names a large file by its SHA-256: a check for files that no card pins.
    let named = blob.file_name().and_then(|name| name.to_str()).filter(|name| is_sha256(name));
    let checked = match file.sha256.or(named) {
        Some(expected) => files::sha256_file(&blob).and_then(|found| check(origin, expected, &found)),
        None => Ok(()),
    };
    if let Err(error) = checked {
        // The link too: hf-hub cannot replace a dangling one.
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(&blob);
        return Err(error);
    }
    let contents = File::open(&blob).map_err(Error::io(&blob))?;
    staging.add(file, origin, contents, u64::MAX - 1)
}

fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Removes partial downloads (`models--*/blobs/*.part`).
fn remove_partial(cache: &Path) {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    for repo in list(cache) {
        for blob in list(&repo.join("blobs")).filter(|path| path.extension().is_some_and(|e| e == "part")) {
            let _ = std::fs::remove_file(blob);
        }
    }
}

/// One line a second at most.
struct Report<'p> {
    progress: &'p mut dyn FnMut(&str),
    name: String,
    total: usize,
    done: usize,
    last: Option<Instant>,
}

impl<'p> Report<'p> {
    fn new(progress: &'p mut dyn FnMut(&str)) -> Self {
        Self { progress, name: String::new(), total: 0, done: 0, last: None }
    }
}

impl Progress for Report<'_> {
    fn init(&mut self, size: usize, name: &str) {
        (self.total, self.done, self.name) = (size, 0, name.into());
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        if self.last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
            self.last = Some(Instant::now());
            let mb = |bytes: usize| bytes as f64 / 1e6;
            (self.progress)(&format!("downloading {}: {:.1} of {:.1} MB", self.name, mb(self.done), mb(self.total)));
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_python_reads_them() {
        assert!(["1", "TRUE", "yes", "On"].iter().all(|value| is_true(value)));
        assert!(["0", "false", "no", ""].iter().all(|value| !is_true(value)));
    }

    #[test]
    fn neither_tokens_nor_passwords_are_shown() {
        let endpoint = Some("https://me:secret@hub.example/a@b".to_string());
        let hub = Hub { cache: "cache".into(), endpoint, token: Some("hf_secret".into()), offline: false };
        let shown = format!("{hub:?}");
        assert!(!shown.contains("secret") && shown.contains("https://hub.example/a@b"), "{shown}");
        assert_eq!(without_passwords("no address"), "no address");
        assert_eq!(without_passwords("http://a:b@x: 401, https://y"), "http://x: 401, https://y");
    }

    #[test]
    fn weights_are_told_by_their_extension() {
        assert!(["model.safetensors", "a/pytorch_model.bin", "x.pth"].iter().all(|path| is_weights(path)));
        assert!(["config.json", "bin", "tokenizer.json"].iter().all(|path| !is_weights(path)));
    }
}
