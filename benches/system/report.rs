//! How are figures told? A table for people, JSON for programs. Writes files
//! and to standard output.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::support::tools::repository;

/// What one scenario found.
pub(crate) struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    /// Bounds that the figures do not keep.
    missed: Vec<String>,
    /// What must not be in any run, and is.
    wrong: Vec<String>,
}

struct Figure {
    name: String,
    unit: &'static str,
    /// One for each run.
    values: Vec<f64>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            figures: Vec::new(),
            notes: Vec::new(),
            missed: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Adds one run's value of a figure.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                values: vec![value],
            }),
        }
    }

    /// Adds the percentiles of one run's times, in milliseconds.
    pub(crate) fn add_times(&mut self, name: &str, times: &[Duration]) {
        let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        for (label, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
            self.add(&format!("{name} {label}"), "ms", quantile(&ms, share));
        }
    }

    /// Adds the middle and the most of one run's times, in milliseconds: for
    /// few of them.
    pub(crate) fn add_middle_and_most(&mut self, name: &str, times: &[Duration]) {
        let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        for (label, share) in [("p50", 0.5), ("max", 1.0)] {
            self.add(&format!("{name} {label}"), "ms", quantile(&ms, share));
        }
    }

    /// Holds a figure to a bound: it may be no more in any run. A quick run says
    /// nothing about it. A figure that is not there does not keep it.
    pub(crate) fn at_most(&mut self, name: &str, most: f64) {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        let high = figure.map_or(f64::NAN, |figure| figure.spread().high);
        if high > most || high.is_nan() {
            let unit = figure.map_or("", |figure| figure.unit);
            let missed = format!("{name}: {} {unit}, may be {}", short(high), short(most));
            self.missed.push(missed);
        }
    }

    /// Says that this must not be, however short the run.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    /// Whether a run fails of what it found.
    pub(crate) fn fails(&self, quick: bool) -> bool {
        !self.wrong.is_empty() || (!quick && !self.missed.is_empty())
    }

    /// Adds something that must be known to read the figures.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Median, least and most of each figure, one line each.
    fn table(&self, title: &str) -> String {
        let mut text = format!("\n{title}\n");
        let width = self
            .figures
            .iter()
            .map(|f| f.name.len())
            .max()
            .unwrap_or_default();
        for figure in &self.figures {
            let Spread { median, low, high } = figure.spread();
            let _ = write!(
                text,
                "  {:width$}  {:>10} {:<5}",
                figure.name,
                short(median),
                figure.unit
            );
            if figure.values.len() > 1 {
                let _ = write!(
                    text,
                    "  ({} to {}, {} runs)",
                    short(low),
                    short(high),
                    figure.values.len()
                );
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  - {note}");
        }
        for missed in &self.missed {
            let _ = writeln!(text, "  MISSED {missed}");
        }
        for wrong in &self.wrong {
            let _ = writeln!(text, "  WRONG {wrong}");
        }
        text
    }

    fn json(&self) -> Value {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                let Spread { median, low, high } = figure.spread();
                json!({
                    "name": figure.name, "unit": figure.unit,
                    "median": median, "low": low, "high": high, "runs": figure.values,
                })
            })
            .collect();
        let missed: Vec<_> = self.missed.iter().chain(&self.wrong).collect();
        json!({ "figures": figures, "notes": self.notes, "missed": missed })
    }

    /// Prints the table and writes the JSON, `around` merged into it.
    pub(crate) fn publish(&self, scenario: &str, around: &Value, save: bool) -> Result<()> {
        let title = format!(
            "{scenario}: {} bindings, {} cores, load {}",
            around["options"]["bindings"],
            around["machine"]["cores"],
            around["load"]["before"].as_str().unwrap_or_default()
        );
        write!(std::io::stdout().lock(), "{}", self.table(&title))?;
        let mut all = around.clone();
        let mine = self.json();
        all["scenario"] = json!(scenario);
        all["figures"] = mine["figures"].clone();
        all["notes"] = mine["notes"].clone();
        all["missed"] = mine["missed"].clone();
        let text = format!("{all:#}\n");
        let mut folders = vec!["target/bench"];
        if save {
            folders.push("docs/benchmarks");
        }
        for folder in folders {
            let folder = repository().join(folder);
            write_file(&folder, &format!("{scenario}.json"), &text)?;
        }
        Ok(())
    }
}

struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Figure {
    fn spread(&self) -> Spread {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        Spread {
            median: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.0),
            high: quantile(&sorted, 1.0),
        }
    }
}

/// The middle of the values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The smallest value that at least this share of the sorted ones reach.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Three significant digits, or all of a whole number.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}
