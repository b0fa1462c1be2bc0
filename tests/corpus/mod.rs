//! Which bindings are good and which are bad? The files of this folder, read.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A ServiceBinding that the API server must refuse, naming a field.
pub(crate) struct Bad {
    /// Name of the file, without its ending.
    pub(crate) name: String,
    /// Path of the field, as in `spec.healthCheck.timeout`.
    pub(crate) field: String,
    /// What is sent.
    pub(crate) binding: Value,
}

/// A ServiceBinding that the API server must take as it is.
pub(crate) struct Good {
    /// Name of the file, without its ending.
    pub(crate) name: String,
    /// What is sent.
    pub(crate) binding: Value,
}

/// Every file of `bindings/bad`; the first line names the field.
pub(crate) fn bad() -> Vec<Bad> {
    let field_of = |name: &str, text: &str| {
        let field = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# field: "));
        field
            .unwrap_or_else(|| panic!("bad/{name}: the first line should be `# field: <path>`"))
            .to_owned()
    };
    let files = read("bindings/bad").into_iter();
    files
        .map(|(name, text)| Bad {
            field: field_of(&name, &text),
            binding: parse(&name, &text),
            name,
        })
        .collect()
}

/// Every file of `bindings/good`.
pub(crate) fn good() -> Vec<Good> {
    let files = read("bindings/good").into_iter();
    files
        .map(|(name, text)| Good {
            binding: parse(&name, &text),
            name,
        })
        .collect()
}

/// The example of the documentation.
pub(crate) fn example() -> Value {
    let path = root().join("examples/bindings/worker-service.yaml");
    parse(
        "worker-service",
        &std::fs::read_to_string(path).expect("the example should be readable"),
    )
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(folder: &str) -> Vec<(String, String)> {
    let folder = root().join("tests/corpus").join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder should be readable").path())
        .collect();
    paths.sort();
    let name = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let text = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    paths.iter().map(|path| (name(path), text(path))).collect()
}

fn parse(name: &str, text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"))
}
