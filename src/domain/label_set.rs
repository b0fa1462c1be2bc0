//! Which labels does it have? Hardly ever asked, and kept for every Service and record:
//! a map of them would take a kilobyte.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// Labels, packed: each key and each value follows its length, in the order of keys.
#[derive(Clone, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "BTreeMap<String, String>")]
pub struct LabelSet(Box<str>);

impl From<BTreeMap<String, String>> for LabelSet {
    fn from(labels: BTreeMap<String, String>) -> Self {
        (&labels).into()
    }
}

impl From<&BTreeMap<String, String>> for LabelSet {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        let mut packed = String::new();
        for word in labels.iter().flat_map(|(key, value)| [key, value]) {
            packed.push_str(&word.len().to_string());
            packed.push(':');
            packed.push_str(word);
        }
        Self(packed.into())
    }
}

impl<const N: usize> From<[(String, String); N]> for LabelSet {
    fn from(labels: [(String, String); N]) -> Self {
        BTreeMap::from(labels).into()
    }
}

impl LabelSet {
    /// The value of the label, if there is one.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut all = self.iter();
        all.find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// All labels, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((word(&mut rest)?, word(&mut rest)?)))
    }
}

/// Takes the first word off.
fn word<'a>(packed: &mut &'a str) -> Option<&'a str> {
    let (length, rest) = packed.split_once(':')?;
    let (word, rest) = rest.split_at_checked(length.parse().ok()?)?;
    *packed = rest;
    Some(word)
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_labels_there_are_they_are_found_as_they_were() {
        let all = [
            ("", ""),
            ("a", ""),
            ("app.kubernetes.io/name", "web"),
            ("tier", "1:x3:abc"),
            ("ünïcode:", "é:\n\0"),
        ];
        for count in 0..=all.len() {
            let some = all[..count].iter();
            let map: BTreeMap<_, _> = some
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let packed = LabelSet::from(&map);
            let read: BTreeMap<_, _> = packed
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(read, map);
            assert_eq!(format!("{packed:?}"), format!("{map:?}"));
            for (key, _) in all {
                assert_eq!(packed.get(key), map.get(key).map(String::as_str), "{key}");
            }
            assert_eq!(packed.get("1:x"), None);
        }
    }

    #[test]
    fn labels_take_a_few_bytes_more_than_their_text_and_none_takes_none() {
        assert_eq!(LabelSet::default().0.len(), 0);
        let one = [("tier".to_owned(), "web".to_owned())];
        assert_eq!(LabelSet::from(one).0.len(), "4:tier3:web".len());
        assert_eq!(size_of::<LabelSet>(), 2 * size_of::<usize>());
    }
}
