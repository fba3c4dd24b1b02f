//! The mean of several finished runs, which answers as one model.

use super::{Facts, Settings, Strategy};
use crate::net::Network;
use crate::plan::{Choice, Combine, Mixture, Phase, Plan, Start};
use crate::{Error, Result};

/// The mean of runs.
pub struct Soup;

impl Strategy for Soup {
    fn name(&self) -> &'static str {
        "soup"
    }

    fn summary(&self) -> &'static str {
        "the mean of the weights of several finished runs from one start (--runs)"
    }

    fn source(&self) -> &'static str {
        "Wortsman et al., Model soups, 2022"
    }

    fn check(&self, _network: &Network, settings: &Settings) -> Result<()> {
        if settings.options.runs.as_ref().is_some_and(|runs| !runs.is_empty()) {
            return Ok(());
        }
        let reason = "no runs are named, so there is nothing to take the mean of";
        Err(Error::input("--strategy soup", reason, "add for example --runs runs/a,runs/b"))
    }

    fn plan(&self, _network: &Network, _task: &Facts, settings: &Settings) -> Plan {
        let options = &settings.options;
        let runs = options.runs.clone().unwrap_or_default();
        let mixture = Mixture::Runs { runs, choice: options.soup.unwrap_or(Choice::Greedy) };
        let phase = Phase::Combine(Combine { name: "take the mean".into(), mixture });
        Plan { strategy: self.name().into(), start: Start::Pretrained, adapters: Vec::new(), phases: vec![phase] }
    }
}
