//! The course of a run as an event file that TensorBoard reads: made of `metrics.jsonl`, of a run that is finished or under way.
//!
//! A file is records of `[length u64][checksum of it][bytes][checksum of them]`, little-endian (the TFRecord format), the bytes being
//! a protocol buffer `tensorflow.Event`. Checksums are CRC-32C, rotated and shifted as there.

use std::path::Path;

use prost::Message;
use serde_json::Value;

use crate::files::read_small_text;
use crate::run::METRICS;
use crate::train::EpochRecord;
use crate::{Error, Result};

/// `tensorflow.Event`, as far as scalars need it.
#[derive(Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` of a single number.
#[derive(Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// The version that TensorBoard looks for in the first record.
const VERSION: &str = "brain.Event:2";

/// The event file of the run directory at `run`.
///
/// # Errors
/// When it has no `metrics.jsonl`, or nothing in it can be understood.
pub fn of_run(run: &Path) -> Result<Vec<u8>> {
    let path = run.join(METRICS);
    let text = read_small_text(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            Error::input(run.display(), "it has no metrics.jsonl, so it is no run", "name the --out folder of a run")
        }
        _ => Error::io(&path)(e),
    })?;
    // Lines have no time of their own; that of the last one stands for all, so that the same run gives the same file.
    let modified = std::fs::metadata(&path).and_then(|data| data.modified()).map_err(Error::io(&path))?;
    let wall_time = modified.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let events = events(&text);
    if events.is_empty() {
        let reason = "holds no step and no epoch yet";
        return Err(Error::input(path.display(), reason, "wait for the run's first epoch, or name another run"));
    }
    let mut file = Vec::new();
    record(&Event { wall_time, step: 0, file_version: Some(VERSION.into()), summary: None }, &mut file);
    for (step, value) in events {
        record(&Event { wall_time, step, file_version: None, summary: Some(Summary { value }) }, &mut file);
    }
    Ok(file)
}

/// Whether `earlier` and `file` are of one run at two times: it may have gone on since, or gone back to a checkpoint.
pub fn begins(earlier: &[u8], file: &[u8]) -> bool {
    match (steps(earlier), steps(file)) {
        (Some(earlier), Some(file)) => file.starts_with(&earlier) || earlier.starts_with(&file),
        _ => false,
    }
}

/// The events of a file without their time, which is that of the last one; `None` where it is no such file.
fn steps(mut file: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !file.is_empty() {
        let length = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
        let bytes = file.get(12..length.checked_add(12)?)?;
        let event = Event { wall_time: 0.0, ..Event::decode(bytes).ok()? };
        found.push(event.encode_to_vec());
        file = file.get(length.checked_add(16)?..)?;
    }
    Some(found)
}

/// Numbers of the lines, by the steps of the whole run. A last line that is not whole is left out.
fn events(text: &str) -> Vec<(i64, Vec<Scalar>)> {
    let scalar = |tag: String, value: f64| Scalar { tag, simple_value: value as f32 };
    // Phases count their steps anew.
    let (mut phase, mut before, mut last) = (0, 0, 0);
    let mut found = Vec::new();
    for line in text.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let own = value["phase"].as_u64().unwrap_or(phase);
        if own != phase {
            (phase, before) = (own, last);
        }
        let number = |name: &str| value[name].as_f64();
        let mut values = Vec::new();
        match value["kind"].as_str() {
            Some("step") => {
                last = number("step").map_or(before, |step| (step as i64).saturating_add(before));
                let named = ["loss", "learning_rate"].into_iter();
                values.extend(named.filter_map(|name| Some(scalar(format!("train/{name}"), number(name)?))));
            }
            Some("epoch") => {
                let Ok(record) = serde_json::from_str::<EpochRecord>(line) else { continue };
                values.extend(record.train_loss.map(|loss| scalar("epoch/train_loss".into(), loss)));
                let scores = record.validation.iter().flat_map(|metrics| metrics.headline());
                values.extend(scores.map(|(name, score)| scalar(format!("validation/{name}"), score)));
            }
            // Judgements of a pre-training stand with their own step.
            Some("scores") => {
                last = number("step").unwrap_or(0.0) as i64;
                let scores = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "step");
                values.extend(
                    scores.filter_map(|(name, score)| Some(scalar(format!("validation/{name}"), score.as_f64()?))),
                );
            }
            _ => {}
        }
        if !values.is_empty() {
            found.push((last, values));
        }
    }
    found
}

fn record(event: &Event, file: &mut Vec<u8>) {
    let bytes = event.encode_to_vec();
    let length = (bytes.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(&bytes);
    file.extend(masked(&bytes).to_le_bytes());
}

/// CRC-32C, rotated and shifted so that checksums of checksums are sound.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial, bit by bit: records are short.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn steps_of_later_phases_follow_those_of_earlier_ones() {
        let lines = [
            r#"{"kind":"step","phase":1,"epoch":1,"step":1,"loss":2.0,"learning_rate":0.1}"#,
            r#"{"kind":"step","phase":1,"epoch":1,"step":10,"loss":1.0,"learning_rate":0.1}"#,
            r#"{"kind":"epoch","phase":1,"epoch":1,"train_loss":1.5,"validation":null}"#,
            r#"{"kind":"step","phase":2,"epoch":1,"step":1,"loss":0.5,"learning_rate":0.2}"#,
            r#"{"kind":"step","phase":2,"ep"#,
        ];
        let found = events(&lines.join("\n"));
        let brief: Vec<(i64, &str, f32)> =
            found.iter().map(|(step, values)| (*step, values[0].tag.as_str(), values[0].simple_value)).collect();
        let expected =
            [(1, "train/loss", 2.0), (10, "train/loss", 1.0), (10, "epoch/train_loss", 1.5), (11, "train/loss", 0.5)];
        assert_eq!(brief, expected);
    }

    #[test]
    fn a_file_goes_on_from_an_earlier_one_of_its_run_only() {
        let file = |wall_time: f64, values: &[f32]| {
            let mut file = Vec::new();
            for (step, &value) in (0..).zip(values) {
                let value = vec![Scalar { tag: "a".into(), simple_value: value }];
                record(&Event { wall_time, step, file_version: None, summary: Some(Summary { value }) }, &mut file);
            }
            file
        };
        let whole = file(2.0, &[1.0, 2.0, 3.0]);
        assert!(begins(&file(1.0, &[1.0, 2.0]), &whole) && begins(&whole, &whole));
        // A run that was killed goes on from a checkpoint that is behind what was known.
        assert!(begins(&whole, &file(3.0, &[1.0, 2.0])) && !begins(&file(1.0, &[1.0, 2.5]), &whole));
        assert!(!begins(b"somebody's notes, no events", &whole) && !begins(&whole[..whole.len() - 1], &whole));
        assert!(!begins(&u64::MAX.to_le_bytes(), &whole));
    }

    #[test]
    fn records_hold_what_was_put_in() {
        let mut file = Vec::new();
        let value = vec![Scalar { tag: "a".into(), simple_value: 0.5 }];
        record(&Event { wall_time: 1.5, step: 7, file_version: None, summary: Some(Summary { value }) }, &mut file);
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(file.len(), 8 + 4 + length + 4);
        assert_eq!(file[12 + length..], masked(&file[12..12 + length]).to_le_bytes());
        let event = Event::decode(&file[12..12 + length]).unwrap();
        assert_eq!((event.step, event.summary.unwrap().value[0].simple_value), (7, 0.5));
    }
}
