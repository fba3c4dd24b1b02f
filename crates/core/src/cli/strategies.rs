//! `strategies`: the ways to carry knowledge over, and who proposed them.

use serde_json::json;

use super::{Common, print_line};
use crate::{Result, strategy};

pub(super) fn run(common: &Common) -> Result<()> {
    for strategy in strategy::all() {
        let (name, summary, source) = (strategy.name(), strategy.summary(), strategy.source());
        print_line(&if common.json {
            json!({ "name": name, "summary": summary, "source": source }).to_string()
        } else {
            format!("{name:<22} {summary}\n{:<22} {source}", "")
        })?;
    }
    Ok(())
}
