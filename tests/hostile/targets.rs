//! The corpus of targets.

/// Fewer are no corpus.
pub(crate) const LEAST: usize = 300;

/// Every target of targets.txt, with this port in its place.
pub(crate) fn targets(port: u16) -> Vec<String> {
    let lines = include_str!("targets.txt").lines();
    let remark = |line: &&str| line.is_empty() || line.starts_with("## ") || line.starts_with("# ");
    let targets: Vec<String> = lines
        .filter(|line| !remark(line))
        .map(|line| {
            let text: Result<String, _> = serde_json::from_str(&format!("\"{line}\""));
            let text = text.unwrap_or_else(|error| panic!("{line}: {error}"));
            text.replace("{port}", &port.to_string())
        })
        .collect();
    assert!(targets.len() >= LEAST, "{}", targets.len());
    targets
}
