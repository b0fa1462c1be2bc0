//! What does a program say in its Prometheus metrics? Reads the text format,
//! as far as tests need it. [`scrape`] does IO.

use anyhow::Result;

/// The samples of one scrape.
#[derive(Clone, Debug)]
pub struct Samples(Vec<(String, f64)>);

impl Samples {
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                Some((series.to_owned(), value.parse().ok()?))
            })
            .collect();
        Self(samples)
    }

    /// The sum over all series of this name whose labels hold every one of
    /// these fragments (`status="success"`); none if there is no such series.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let mut found = self
            .0
            .iter()
            .filter(|(series, _)| {
                let (base, own) = series.split_once('{').unwrap_or((series, ""));
                base == name && labels.iter().all(|label| own.contains(label))
            })
            .map(|(_, value)| *value)
            .peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Names and values of the series that start so.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| series.starts_with(prefix))
            .map(|(series, value)| (series.as_str(), *value))
    }
}

/// Reads the metrics that a program serves.
pub async fn scrape(http: &reqwest::Client, url: &str) -> Result<Samples> {
    let text = http
        .get(url)
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    Ok(Samples::parse(&text))
}
