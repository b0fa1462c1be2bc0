//! Which version of an object is it? Text to whoever sends it back, and in fact a
//! number: as such it takes no memory of its own.

use std::fmt;

/// The resource version of an object, as the API server gave it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResourceVersion(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    /// One that is written as numbers are.
    Number(u64),
    /// Any other text.
    Text(Box<str>),
}

impl From<&str> for ResourceVersion {
    fn from(text: &str) -> Self {
        let number = text.parse::<u64>().ok();
        let number = number.filter(|number| number.to_string() == text);
        Self(number.map_or_else(|| Form::Text(text.into()), Form::Number))
    }
}

impl Default for ResourceVersion {
    /// That of an object without one.
    fn default() -> Self {
        "".into()
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Number(number) => number.fmt(f),
            Form::Text(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_it_is_it_is_sent_back_as_it_was_read() {
        for text in [
            "",
            "0",
            "7",
            "007",
            "+7",
            " 7",
            "-1",
            "18446744073709551615",
            "18446744073709551616",
            "a version",
        ] {
            assert_eq!(ResourceVersion::from(text).to_string(), text);
        }
        assert_ne!(ResourceVersion::from("7"), "07".into());
        assert_eq!(size_of::<ResourceVersion>(), 16);
    }
}
