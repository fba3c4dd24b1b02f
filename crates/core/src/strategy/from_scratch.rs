//! stub
use super::{Settings, Strategy, Task};
use crate::net::Network;
use crate::plan::{Plan, Start};
/// stub
pub struct FromScratch;
impl Strategy for FromScratch {
    fn name(&self) -> &'static str {
        "from-scratch"
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
