//! How are figures told? A table for people, JSON for programs. Writes files
//! and to standard output.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::plot::Curves;
use crate::support::tools::repository;

/// What one scenario found.
pub(crate) struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    curves: Vec<Curves>,
    /// What must not be in any run, and is.
    wrong: Vec<String>,
}

struct Figure {
    name: String,
    unit: &'static str,
    /// One for each run.
    values: Vec<f64>,
    goal: Option<Goal>,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// Its median.
    AtMost(f64),
    /// Its median.
    AtLeast(f64),
    /// In every run.
    NeverAbove(f64),
}

impl Goal {
    fn is_met(self, of: &Spread) -> bool {
        match self {
            Self::AtMost(most) => of.median <= most,
            Self::AtLeast(least) => of.median >= least,
            Self::NeverAbove(most) => of.high <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {}", short(*most)),
            Self::AtLeast(least) => write!(f, "at least {}", short(*least)),
            Self::NeverAbove(most) => write!(f, "never above {}", short(*most)),
        }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            figures: Vec::new(),
            notes: Vec::new(),
            curves: Vec::new(),
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
                goal: None,
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

    /// Says what a figure is to be. One that is not there is wrong.
    pub(crate) fn goal(&mut self, name: &str, goal: Goal) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.goal = Some(goal),
            None => self.wrong(format!("{name} was not measured")),
        }
    }

    /// Says that this must not be, however short the run.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    /// What must not be, and is.
    pub(crate) fn is_wrong(&self) -> &[String] {
        &self.wrong
    }

    /// The goals that were missed, each in a line.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.figures.iter().filter_map(|figure| {
            let (goal, spread) = (figure.goal?, figure.spread());
            let value = match goal {
                Goal::NeverAbove(_) => spread.high,
                Goal::AtMost(_) | Goal::AtLeast(_) => spread.median,
            };
            let Figure { name, unit, .. } = figure;
            let line = format!("{name}: {} {unit}, asked for {goal} {unit}", short(value));
            (!goal.is_met(&spread)).then_some(line)
        });
        missed.collect()
    }

    /// Adds times to be drawn: which share of them was how short.
    pub(crate) fn draw(&mut self, plot: &str, series: &str, times: &[Duration]) {
        let ms = times.iter().map(|t| t.as_secs_f64() * 1000.0);
        let curves = match self.curves.iter_mut().find(|curves| curves.title == plot) {
            Some(curves) => curves,
            None => {
                self.curves.push(Curves::new(plot));
                self.curves.last_mut().unwrap_or_else(|| unreachable!())
            }
        };
        curves.add(series, ms);
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
            let spread = figure.spread();
            let Spread { median, low, high } = spread;
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
            if let Some(goal) = figure.goal {
                let met = if goal.is_met(&spread) { "" } else { ": MISSED" };
                let _ = write!(text, "  [{goal}{met}]");
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  - {note}");
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
                let spread = figure.spread();
                let Spread { median, low, high } = spread;
                json!({
                    "name": figure.name, "unit": figure.unit,
                    "median": median, "low": low, "high": high, "runs": figure.values,
                    "goal": figure.goal.map(|goal| goal.to_string()),
                    "met": figure.goal.map(|goal| goal.is_met(&spread)),
                })
            })
            .collect();
        json!({ "figures": figures, "notes": self.notes, "wrong": self.wrong })
    }

    /// Prints the table and writes the JSON, `around` merged into it, and
    /// the drawings.
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
        all["wrong"] = mine["wrong"].clone();
        let text = format!("{all:#}\n");
        let mut folders = vec!["target/bench"];
        if save {
            folders.push("docs/benchmarks");
        }
        for folder in folders {
            let folder = repository().join(folder);
            write_file(&folder, &format!("{scenario}.json"), &text)?;
            for curves in &self.curves {
                let name = format!("{scenario}-{}.svg", curves.file());
                write_file(&folder, &name, &curves.svg()?)?;
            }
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

/// The time that 99 of 100 are within, in milliseconds.
pub(crate) fn p99(times: &[Duration]) -> f64 {
    let mut sorted: Vec<_> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.99)
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
