//! Which object is it, whatever its name? A uid is text to whoever reads it, and in fact
//! a number: as such it takes no memory of its own, and there are several for each
//! object that is known.

use std::fmt;
use std::sync::Arc;

/// The uid of an object, as the API server gave it.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Uid(Form);

#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Form {
    /// One as RFC 9562 writes it, in lower case.
    Number([u8; 16]),
    /// Any other text.
    Text(Arc<str>),
}

/// Where the hyphens are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        number(text).map_or_else(|| Self(Form::Text(text.into())), |n| Self(Form::Number(n)))
    }
}

impl From<String> for Uid {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl PartialEq<Uid> for String {
    fn eq(&self, uid: &Uid) -> bool {
        Uid::from(self.as_str()) == *uid
    }
}

impl Default for Uid {
    /// That of no object.
    fn default() -> Self {
        "".into()
    }
}

/// The number, if it is written as its text is.
fn number(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 36 || HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = (0..text.len()).filter(|at| !HYPHENS.contains(at));
    let mut next = || match text[digits.next()?] {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut number = [0; 16];
    for byte in &mut number {
        *byte = next()? << 4 | next()?;
    }
    Some(number)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Text(text) => f.write_str(text),
            Form::Number(number) => {
                for (place, byte) in number.iter().enumerate() {
                    if [4, 6, 8, 10].contains(&place) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_it_is_it_is_written_as_it_was_read() {
        for text in [
            "0c6ab9f1-55d2-4b7e-9c43-1fe2d3c4b5a6",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "0C6AB9F1-55D2-4B7E-9C43-1FE2D3C4B5A6",
            "0c6ab9f1-55d2-4b7e-9c43-1fe2d3c4b5ag",
            "0c6ab9f155d2-4b7e-9c43-1fe2d3c4b5a6-",
            "0c6ab9f1-55d2-4b7e-9c43-1fe2d3c4b5a",
            "a uid of another kind that is as long",
            "uid-of-web",
            "ünïcode-ünïcode-ünïcode-ünïco",
            "",
        ] {
            let uid = Uid::from(text);
            assert_eq!(uid.to_string(), text);
            assert_eq!(uid, Uid::from(text.to_owned()));
        }
    }

    #[test]
    fn two_texts_are_two_uids_however_alike() {
        let lower = "0c6ab9f1-55d2-4b7e-9c43-1fe2d3c4b5a6";
        assert_ne!(Uid::from(lower), lower.to_uppercase().as_str().into());
        assert_ne!(Uid::from(lower), lower.replace('6', "7").as_str().into());
        assert!(size_of::<Uid>() <= 24);
    }
}
