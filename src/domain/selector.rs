//! A selector of labels, as in `tier=web,stage!=test,public,!internal`: what it
//! names has to hold, all of it.

use std::str::FromStr;

use super::label_set::LabelSet;

/// A selector of labels; the default one selects everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Exists(String),
    Lacks(String),
}

/// Why a selector was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no requirement on labels; write key=value, key!=value, key or !key, separated by commas"
)]
pub struct SelectorError(String);

impl LabelSelector {
    /// Whether these labels hold all that is required.
    pub fn selects(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Is(key, value) => labels.get(key) == Some(value.as_str()),
            Requirement::IsNot(key, value) => labels.get(key) != Some(value.as_str()),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Lacks(key) => labels.get(key).is_none(),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let parts = text.split(',').map(str::trim);
        let some = parts.filter(|part| !part.is_empty() || text.contains(','));
        Ok(Self(some.map(requirement).collect::<Result<_, _>>()?))
    }
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let found = if let Some((key, value)) = text.split_once("!=") {
        Requirement::IsNot(key.trim().to_owned(), value.trim().to_owned())
    } else if let Some((key, value)) = text.split_once('=') {
        // Kubernetes takes two signs for one.
        let value = value.strip_prefix('=').unwrap_or(value);
        Requirement::Is(key.trim().to_owned(), value.trim().to_owned())
    } else if let Some(key) = text.strip_prefix('!') {
        Requirement::Lacks(key.trim().to_owned())
    } else {
        Requirement::Exists(text.to_owned())
    };
    let (Requirement::Is(key, _)
    | Requirement::IsNot(key, _)
    | Requirement::Exists(key)
    | Requirement::Lacks(key)) = &found;
    let value = match &found {
        Requirement::Is(_, value) | Requirement::IsNot(_, value) => value,
        _ => "",
    };
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good =
        !key.is_empty() && key.chars().all(|c| word(c) || c == '/') && value.chars().all(word);
    good.then_some(found)
        .ok_or_else(|| SelectorError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let selector: LabelSelector = selector.parse().unwrap();
        selector.selects(&labels.collect::<BTreeMap<_, _>>().into())
    }

    #[test]
    fn all_that_is_required_has_to_hold() {
        let web = [("tier", "web"), ("example.com/public", "")];
        for selector in [
            "",
            "tier=web",
            "tier==web",
            "tier",
            "tier!=db",
            "!stage",
            "stage!=x",
            "tier=web, example.com/public,!stage",
        ] {
            assert!(selects(selector, &web), "{selector}");
        }
        for selector in ["tier=db", "tier!=web", "!tier", "stage", "tier=web,stage=x"] {
            assert!(!selects(selector, &web), "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_rather_than_read_as_everything() {
        for text in [",", "a=b,", "=b", "!", "!=b", "a in (b)", "a=b c", "a=b=c"] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text}");
        }
    }
}
