//! How is a distribution drawn? As which share of the times was how short, one
//! curve beside the other. Makes text; no IO.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height of a drawing.
const SIZE: (u32, u32) = (760, 380);

const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(90, 90, 90),
];

/// Some distributions of times in milliseconds, on one scale.
pub(crate) struct Curves {
    pub(crate) title: String,
    series: Vec<(String, Vec<f64>)>,
}

impl Curves {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            series: Vec::new(),
        }
    }

    /// Adds times to one of the curves.
    pub(crate) fn add(&mut self, series: &str, ms: impl Iterator<Item = f64>) {
        match self.series.iter_mut().find(|(name, _)| name == series) {
            Some((_, all)) => all.extend(ms),
            None => self.series.push((series.to_owned(), ms.collect())),
        }
    }

    /// The title as a part of a file's name.
    pub(crate) fn file(&self) -> String {
        let word = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        self.title.chars().map(word).collect()
    }

    /// The drawing.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|error| anyhow!("cannot draw {}: {error}", self.title))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let all = self.series.iter().flat_map(|(_, ms)| ms.iter().copied());
        let (low, high) = all.fold((f64::INFINITY, 0.1_f64), |(low, high), ms| {
            (low.min(ms.max(0.1)), high.max(ms))
        });
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d((low.min(high)..high * 1.2).log_scale(), 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc("milliseconds, or less")
            .y_desc("share in %")
            .x_label_formatter(&|ms| format!("{ms}"))
            .light_line_style(RGBColor(240, 240, 240))
            .draw()?;
        for ((name, ms), colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let mut sorted = ms.clone();
            sorted.sort_by(f64::total_cmp);
            let count = sorted.len() as f64;
            let points = sorted
                .iter()
                .enumerate()
                .map(|(n, ms)| (ms.max(0.1), 100.0 * (n + 1) as f64 / count));
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        area.present()?;
        Ok(())
    }
}
