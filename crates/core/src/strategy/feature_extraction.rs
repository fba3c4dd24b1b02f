//! stub
use super::{Settings, Strategy, Task};
use crate::net::Network;
use crate::plan::{Plan, Start};
/// stub
pub struct FeatureExtraction;
impl Strategy for FeatureExtraction {
    fn name(&self) -> &'static str {
        "feature-extraction"
    }
    fn summary(&self) -> &'static str {
        ""
    }
    fn source(&self) -> &'static str {
        ""
    }
    fn plan(&self, _: &Network, _: &Task, _: &Settings) -> Plan {
        Plan { strategy: self.name().into(), start: Start::Pretrained, phases: vec![] }
    }
}
