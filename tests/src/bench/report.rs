//! What a benchmark found: the numbers that have a target, and the raw numbers behind them.

use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value};

/// The result of one benchmark.
#[derive(Debug, Default)]
pub struct Report {
    judged: Vec<(&'static str, f64, Target)>,
    more: Map<String, Value>,
    remarks: Vec<String>,
    idle: Option<(f64, &'static str)>,
}

/// What a number must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    /// Adds a number that has a target.
    pub(super) fn judged(mut self, name: &'static str, value: f64, target: Target) -> Self {
        self.judged.push((name, value, target));
        self
    }

    /// Adds something that explains the numbers.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a sentence for people.
    pub(super) fn remark(mut self, text: String) -> Self {
        self.remarks.push(text);
        self
    }

    /// Says which share of the processors was idle, and when.
    pub(super) fn idle(mut self, share: f64, when: &'static str) -> Self {
        self.idle = Some((share, when));
        self.with("idle_cpu_share", share)
    }

    /// The numbers that miss their target.
    #[must_use]
    pub fn missed(&self) -> Vec<&'static str> {
        self.judged.iter().filter(|(_, value, target)| !target.is_met(*value)).map(|(name, ..)| *name).collect()
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "measured", "target", ""]);
        for (name, value, target) in &self.judged {
            let met = if target.is_met(*value) { "met" } else { "MISSED" };
            table.add_row([(*name).to_owned(), format!("{value:.3}"), target.text(), met.to_owned()]);
        }
        table.column_iter_mut().skip(1).take(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let remarks: String = self.remarks.iter().map(|remark| format!("{remark}\n")).collect();
        let idle = self.idle.map(|(share, when)| format!("{:.0} % of the processors were idle {when}.", share * 100.0));
        format!("{table}\n{remarks}{}", idle.unwrap_or_default())
    }

    /// The object for machines, on one line.
    #[must_use]
    pub fn json(&self) -> String {
        let judged = self.judged.iter().map(|(name, value, _)| ((*name).to_owned(), Value::from(*value)));
        Value::Object(judged.chain(self.more.clone()).collect()).to_string()
    }
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_misses_its_target() {
        let report = Report::default()
            .judged("fast", 0.9, Target::AtLeast(0.8))
            .judged("small", 41.0, Target::AtMost(40.0))
            .with("raw", vec![1, 2]);
        assert_eq!(report.missed(), ["small"]);
        assert_eq!(report.json(), r#"{"fast":0.9,"raw":[1,2],"small":41.0}"#);
        assert!(report.table().contains("MISSED"));
    }
}
