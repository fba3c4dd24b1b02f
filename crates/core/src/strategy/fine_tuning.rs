//! stub
use super::{Settings, Strategy, Task};
use crate::net::Network;
use crate::plan::{Plan, Start};
/// stub
pub struct FineTuning;
impl Strategy for FineTuning {
    fn name(&self) -> &'static str {
        "fine-tuning"
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
