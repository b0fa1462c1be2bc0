//! From files to typed documents: reads files of YAML and JSON, and says where
//! in them something is wrong.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::names::shown;

/// Larger files are no bindings.
const LARGEST_FILE: u64 = 16 * 1_024 * 1_024;

/// Why the files cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// What is in the files is wrong; at least one thing.
    Wrong(Vec<String>),
    /// A file cannot be read, or the command line is not complete.
    Usage(String),
}

impl Fault {
    pub(crate) fn wrong(place: &str, message: impl fmt::Display) -> Self {
        Self::Wrong(vec![format!("{place}: {message}")])
    }

    /// The exit code of `render`.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(complaints) => complaints
                .iter()
                .try_for_each(|complaint| writeln!(f, "{complaint}")),
            Self::Usage(complaint) => writeln!(f, "{complaint}"),
        }
    }
}

/// One document of a file.
pub(crate) struct Document {
    /// File, and the number of the document where the file has several.
    pub(crate) place: String,
    pub(crate) value: Value,
}

/// The documents of a file, with the items of lists as documents of their own.
pub(crate) fn read(path: &Path, stdin: &mut dyn Read) -> Result<Vec<Document>, Fault> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let text = text(path, stdin).map_err(|error| Fault::Usage(format!("{name}: {error}")))?;
    let values: Vec<Value> = serde_saphyr::from_multiple(&text)
        .map_err(|error| Fault::wrong(&name, format!("is not YAML: {error}")))?;
    let mut values: Vec<Value> = values.into_iter().flat_map(items).collect();
    if values.len() == 1 {
        return Ok(values
            .pop()
            .map(|value| Document { place: name, value })
            .into_iter()
            .collect());
    }
    let number = |(at, value)| Document {
        place: format!("{name}, document {}", at + 1),
        value,
    };
    Ok(values.into_iter().enumerate().map(number).collect())
}

fn text(path: &Path, stdin: &mut dyn Read) -> Result<String, std::io::Error> {
    let mut file;
    let reader: &mut dyn Read = if path == Path::new("-") {
        stdin
    } else {
        file = std::fs::File::open(path)?;
        &mut file
    };
    let mut text = String::new();
    let read = reader.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > LARGEST_FILE {
        return Err(std::io::Error::other("is larger than 16 MiB"));
    }
    Ok(text)
}

/// A list, as `kubectl get -o yaml` or the Catalog API prints it, as its items.
fn items(mut value: Value) -> Vec<Value> {
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => match value {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            value => vec![value],
        },
    }
}

/// The document as that type; else the field that is wrong.
pub(crate) fn typed<T: DeserializeOwned>(place: &str, value: &Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." {
            String::new()
        } else {
            format!("{path}: ")
        };
        Fault::wrong(
            place,
            format!("{field}{}", one_line(&error.into_inner().to_string())),
        )
    })
}

/// Fields of `given` that the type does not know, which is what `known` lacks.
/// The API server would refuse or drop them.
pub(crate) fn unknown_fields(path: &str, given: &Value, known: &Value) -> Vec<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given
            .iter()
            .flat_map(|(name, value)| {
                let path = format!("{path}.{}", plain(name));
                match known.get(name) {
                    Some(known) => unknown_fields(&path, value, known),
                    None if says_nothing(value) => Vec::new(),
                    None => vec![format!("{path}: is not a field of a ServiceBinding")],
                }
            })
            .collect(),
        (Value::Array(given), Value::Array(known)) => {
            let pairs = given.iter().zip(known).enumerate();
            pairs
                .flat_map(|(at, (given, known))| {
                    unknown_fields(&format!("{path}[{at}]"), given, known)
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// What a type leaves out when it writes itself.
fn says_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The name, escaped where it is not plain.
fn plain(name: &str) -> String {
    let plain = name.len() <= 80 && name.bytes().all(|b| b.is_ascii_graphic());
    if plain { name.to_owned() } else { shown(name) }
}

/// The message on one line and of bounded length, since it may repeat a value.
fn one_line(message: &str) -> String {
    let mut line = String::new();
    for c in message.chars().take(300) {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
    }
    line
}
