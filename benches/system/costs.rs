//! What do the parts around the operator cost? A saturated machine is as fast as
//! these allow. Reads /proc.

use anyhow::Result;

use crate::bed::Bed;
use crate::report::Report;

/// CPU seconds by the name of a process.
pub(crate) struct Costs(Vec<(&'static str, f64)>);

impl Costs {
    /// What they had used by now.
    pub(crate) async fn begin(bed: &Bed) -> Result<Self> {
        Ok(Self(bed.spent().await?))
    }

    /// What they have used since.
    pub(crate) async fn end(self, bed: &Bed) -> Result<Self> {
        let now = bed.spent().await?.into_iter();
        let spent = self.0.into_iter().zip(now);
        let each = spent.map(|((name, was), (_, is))| (name, is - was));
        Ok(Self(each.collect()))
    }

    /// Adds each one's share of `count` things.
    pub(crate) fn tell(&self, report: &mut Report, when: &str, thing: &str, count: f64) {
        for (name, seconds) in &self.0 {
            let name = format!("{when}: CPU of {name} per {thing}");
            report.add(&name, "ms", seconds * 1000.0 / count);
        }
    }
}
