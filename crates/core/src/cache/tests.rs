//! The cache finds what it wrote, and nothing else.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::*;
use crate::loader::Strictness;
use topwork_kernels::frozen::Precision;

use crate::train::testing::{Clusters, network, params};

#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl Observer for Listener {
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

struct Case {
    root: tempfile::TempDir,
    limit: u64,
    listener: Listener,
}

impl Case {
    fn new(limit: u64) -> Self {
        Self { root: tempfile::tempdir().unwrap(), limit, listener: Listener::default() }
    }

    fn features(&self, data: &Arc<Clusters>, fingerprint: &str, views: &[ViewSeed]) -> Option<Features> {
        let (network, cache) = (network(), Cache::at(self.root.path(), self.limit));
        let params = params(&network);
        let stages: Vec<&Stage> = network.stages.iter().collect();
        let extractor = Extractor {
            cache: &cache,
            stages: &stages,
            params: &params,
            fingerprint,
            device: &device::Place::default(),
            threads: 2,
            observer: &self.listener,
        };
        let mut faults = Faults::new(Strictness::default());
        let data: Arc<dyn Dataset> = data.clone();
        extractor.features("training", &data, views, false, &mut faults, &mut Timings::default()).unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        files.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect()
    }

    fn heard(&self, text: &str) -> bool {
        self.listener.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

fn values(features: &Features, view: usize, samples: &[usize]) -> Vec<f32> {
    host_values(&features.batch(view, samples, &Device::Cpu).unwrap().data).unwrap()
}

const VIEWS: [ViewSeed; 2] = [ViewSeed::Plain, ViewSeed::Random(Seed(3))];

#[test]
fn what_was_written_is_read_back_bit_for_bit_without_loading_a_sample() {
    let (case, data) = (Case::new(1 << 30), Clusters::new(40, 1));
    let first = case.features(&data, "points", &VIEWS).unwrap();
    let loads = data.loads.load(Ordering::Relaxed);
    let second = case.features(&data, "points", &VIEWS).unwrap();
    assert_eq!((loads, data.loads.load(Ordering::Relaxed)), (80, 80));
    let all: Vec<usize> = (0..40).rev().collect();
    for view in 0..2 {
        assert_eq!(values(&first, view, &all), values(&second, view, &all));
    }
    assert_ne!(values(&first, 0, &all), values(&first, 1, &all));
}

#[test]
fn another_preprocessing_is_another_key() {
    let (case, data) = (Case::new(1 << 30), Clusters::new(10, 1));
    case.features(&data, "points", &VIEWS[..1]);
    case.features(&data, "other points", &VIEWS[..1]);
    assert_eq!(data.loads.load(Ordering::Relaxed), 20);
}

#[test]
fn another_weight_is_another_key() {
    let network = network();
    let stages: Vec<&Stage> = network.stages.iter().collect();
    let mut params = params(&network);
    let before = boundary_key(&stages, &params, "points", Precision::F32).unwrap();
    let bias = Tensor::new(&[1f32; 8], &Device::Cpu).unwrap();
    params.set("two.bias", bias).unwrap();
    assert_ne!(before, boundary_key(&stages, &params, "points", Precision::F32).unwrap());
}

#[test]
fn a_part_of_the_samples_is_reused_and_the_rest_computed() {
    let (case, small, large) = (Case::new(1 << 30), Clusters::new(10, 1), Clusters::new(25, 1));
    case.features(&small, "points", &VIEWS[..1]);
    case.features(&large, "points", &VIEWS[..1]);
    assert_eq!(large.loads.load(Ordering::Relaxed), 15);
}

#[test]
fn broken_segments_are_reported_and_computed_again() {
    let breaks: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.truncate(bytes.len() - 5),
        |bytes| bytes.truncate(20),
        |bytes| {
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
        },
    ];
    for damage in breaks {
        let (case, data) = (Case::new(1 << 30), Clusters::new(10, 1));
        let before = values(&case.features(&data, "points", &VIEWS[..1]).unwrap(), 0, &[3]);
        let path = case.segments().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let after = case.features(&data, "points", &VIEWS[..1]).unwrap();
        assert_eq!(values(&after, 0, &[3]), before);
        assert!(case.heard("is ignored"));
        assert_eq!(data.loads.load(Ordering::Relaxed), 20);
    }
}

#[test]
fn the_least_recently_used_boundary_goes_first() {
    let (case, data) = (Case::new(900), Clusters::new(10, 1));
    // Ten samples of eight values are 320 bytes and an index of about twice that.
    case.features(&data, "first", &VIEWS[..1]);
    let first = case.segments();
    case.features(&data, "second", &VIEWS[..1]);
    assert!(case.heard("making room"));
    assert!(!first[0].exists() && case.segments().len() == 1);
}

#[test]
fn the_space_is_said_in_advance() {
    let (case, data) = (Case::new(1 << 30), Clusters::new(40, 1));
    case.features(&data, "points", &VIEWS[..1]);
    assert!(case.heard("activations of 40 samples take about"));
}

#[test]
fn without_room_activations_are_computed_when_needed() {
    let (case, data) = (Case::new(0), Clusters::new(10, 1));
    assert!(case.features(&data, "points", &VIEWS[..1]).is_none());
    assert!(case.segments().is_empty());
}

#[test]
fn one_pass_at_several_boundaries_gives_the_bits_of_one_at_each() {
    let (case, data) = (Case::new(0), Clusters::new(40, 1));
    let (network, cache) = (network(), Cache::none());
    let params = params(&network);
    let stages: Vec<&Stage> = network.stages.iter().collect();
    let place = device::Place::default();
    let extractor = |stages| Extractor {
        cache: &cache,
        stages,
        params: &params,
        fingerprint: "points",
        device: &place,
        threads: 2,
        observer: &case.listener,
    };
    let dataset: Arc<dyn Dataset> = data.clone();
    let (mut faults, mut timings) = (Faults::new(Strictness::default()), Timings::default());
    let both =
        extractor(&stages[..]).features_at(&[1, 2], "training", &dataset, &VIEWS, true, &mut faults, &mut timings);
    assert_eq!(data.loads.load(Ordering::Relaxed), 80);
    let all: Vec<usize> = (0..40).collect();
    for (found, n) in both.unwrap().into_iter().zip([1, 2]) {
        let alone = extractor(&stages[..n]).features("training", &dataset, &VIEWS, true, &mut faults, &mut timings);
        let (found, alone) = (found.unwrap(), alone.unwrap().unwrap());
        assert_eq!(values(&found, 1, &all), values(&alone, 1, &all));
    }
}
