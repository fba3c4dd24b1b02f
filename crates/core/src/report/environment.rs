//! Where a run was made, and the command that repeats it.

use std::path::Path;

use candle_core::DeviceLocation;

use crate::draw::escape;
use crate::files::read_small_text;
use crate::net::Params;

/// How the variables begin that this program looks at.
const VARIABLES: &str = "TOPWORK_";

/// The command that repeats a run of `program`, given the words behind its name: whatever it was begun by, a command line, a
/// resumption or another program. What is named by relative paths is looked for where it was then.
pub fn repeated(program: &str, arguments: &str) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    let named = match arguments.contains("RUN") {
        true => "RUN is the folder of this page, NEW the one to make:",
        false => "NEW is the folder to make:",
    };
    format!("<p>{named}</p><pre>{}</pre>", escape(&command(program, arguments, &folder, variables())))
}

/// What repeats a run of `train`.
pub(super) const FROM_SETTINGS: &str = "train --config RUN/run.toml --out NEW";

fn command(program: &str, arguments: &str, folder: &Path, variables: Vec<(String, String)>) -> String {
    // Where things are kept decides nothing; what else there is may.
    let deciding = variables.iter().filter(|(name, _)| name == "TOPWORK_INSTRUCTIONS");
    let set: String = deciding.map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
    let folder = quoted(&folder.to_string_lossy());
    format!("cd {folder}\n{set}{} {arguments}", quoted(program))
}

/// As a shell takes it for one word.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Where a run computed, as `--device` takes it.
pub fn device(params: &Params) -> Option<String> {
    params.snapshot().into_values().next().map(|tensor| match tensor.device().location() {
        DeviceLocation::Cpu => "cpu".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    })
}

/// The machine and the program as a table; `params` are where the run computed.
pub fn environment(params: &Params) -> String {
    let known = [
        ("topwork", Some(env!("CARGO_PKG_VERSION").to_string())),
        ("system", Some(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("processor", processor()),
        ("instructions", Some(topwork_kernels::instruction_set().to_string())),
        ("threads", Some(rayon::current_num_threads().to_string())),
        ("device", device(params)),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
    let row = |(name, value): (String, String)| {
        format!("<tr><th>{}</th><td class=\"words\">{}</td></tr>", escape(&name), escape(&value))
    };
    let rows: String = known.chain(variables()).map(row).collect();
    format!("<div class=\"wide\"><table>{rows}</table></div>")
}

/// The variables of the environment that are set and that this program looks at, by their names.
fn variables() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let mut found: Vec<(String, String)> = all.filter(|(name, _)| name.starts_with(VARIABLES)).collect();
    found.sort_unstable();
    found
}

/// What the processor is called, where the system tells.
fn processor() -> Option<String> {
    let text = read_small_text(Path::new("/proc/cpuinfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_must_be() {
        let found = ["plain/a.b-c", "two words", "it's", "", "$(x)"].map(quoted);
        assert_eq!(found, ["plain/a.b-c", "'two words'", r"'it'\''s'", "''", "'$(x)'"]);
    }

    #[test]
    fn the_command_begins_where_the_run_was_begun_with_what_decides_its_bits() {
        let variables = [("TOPWORK_CACHE", "/c"), ("TOPWORK_INSTRUCTIONS", "avx2")];
        let variables = variables.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
        let expected = "cd '/my work'\nTOPWORK_INSTRUCTIONS=avx2 topwork-cv train --config RUN/run.toml --out NEW";
        assert_eq!(command("topwork-cv", FROM_SETTINGS, Path::new("/my work"), variables), expected);
    }

    #[test]
    fn the_table_says_where_it_was_computed() {
        let tensor = candle_core::Tensor::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let found = environment(&Params::new([("w".to_string(), tensor)].into()));
        assert!(found.contains("<th>device</th><td class=\"words\">cpu</td>"), "{found}");
        assert!(!environment(&Params::default()).contains("device"));
    }
}
