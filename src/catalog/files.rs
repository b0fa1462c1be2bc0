//! What do the mounted files of the credentials say, all at one moment? Reads
//! files.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::credentials::{AccessConfig, ApiUrl};

const LARGEST_FILE: u64 = 64 * 1024;
/// How often files that differ from what they said before are read at most.
const MOST_READINGS: usize = 4;

/// The trimmed content of a file, or why there is none; nothing where the file
/// is not asked for, or may be absent and is.
pub(super) type Text = Option<Result<String, String>>;

/// The contents of all files. Credentials, which nothing prints.
#[derive(Eq, PartialEq)]
pub(super) struct Files {
    pub(super) api_url: Text,
    pub(super) report_url: Text,
    pub(super) api_key: Text,
    pub(super) token: Text,
}

impl Files {
    /// Reads the files; blocks. Where they say what they said before, that very
    /// `Arc` is given. Otherwise they may be in the midst of a replacement, of
    /// which a new key must not go to the old URL: two readings have to agree. Where
    /// none do, what was read before still belongs together.
    pub(super) fn read(config: &AccessConfig, before: Option<&Arc<Self>>) -> Arc<Self> {
        let mut now = Self::read_once(config);
        if let Some(same) = before.filter(|before| ***before == now) {
            return Arc::clone(same);
        }
        for _ in 1..MOST_READINGS {
            let again = Self::read_once(config);
            if again == now {
                return Arc::new(now);
            }
            now = again;
        }
        before.map_or_else(|| Arc::new(now.unsettled()), Arc::clone)
    }

    /// None of what was read may be used.
    fn unsettled(self) -> Self {
        let never = |text: Text| text.map(|_| Err("changes all the time".to_owned()));
        Self {
            api_url: never(self.api_url),
            report_url: never(self.report_url),
            api_key: never(self.api_key),
            token: never(self.token),
        }
    }

    fn read_once(config: &AccessConfig) -> Self {
        let may_be_absent = |path: &Option<PathBuf>| path.as_deref().and_then(optional);
        Self {
            api_url: match &config.api_url {
                ApiUrl::Given(_) => None,
                ApiUrl::File(path) => Some(content(path)),
            },
            report_url: may_be_absent(&config.report_url_file),
            api_key: may_be_absent(&config.api_key_file),
            token: config.token_file.as_deref().map(content),
        }
    }

    /// Whether something is gone without which others could be used, too.
    pub(super) fn lost_of(&self, before: &Self) -> bool {
        let lost = |before: &Text, now: &Text| before.is_some() && now.is_none();
        self.api_url == before.api_url
            && (lost(&before.api_key, &self.api_key) || lost(&before.report_url, &self.report_url))
    }
}

fn optional(path: &Path) -> Text {
    let is_absent = matches!(path.try_exists(), Ok(false));
    (!is_absent).then(|| content(path))
}

/// The trimmed content of a small file; blocks. The reason never repeats any of
/// it.
pub(super) fn content(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {}", error.kind());
    let mut text = String::new();
    let mut file = File::open(path).map_err(cannot)?.take(LARGEST_FILE + 1);
    file.read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(format!("is larger than {LARGEST_FILE} bytes"));
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_replaced_together_is_read_together() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |version: usize| {
            let data = folder.path().join(format!("..{version}"));
            std::fs::create_dir(&data).unwrap();
            for name in ["api-url", "api-key", "token"] {
                std::fs::write(data.join(name), version.to_string()).unwrap();
            }
            symlink(&data, folder.path().join("..new")).unwrap();
            std::fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
        };
        mount(0);
        let file = |name: &str| folder.path().join("..data").join(name);
        let config = AccessConfig {
            api_url: ApiUrl::File(file("api-url")),
            report_url_file: None,
            api_key_file: Some(file("api-key")),
            token_file: Some(file("token")),
        };
        const LAST: usize = 300;
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=LAST).for_each(mount));
            let (mut before, mut readings) = (None, 0);
            loop {
                let files = Files::read(&config, before.as_ref());
                assert!(
                    files.api_url == files.api_key && files.api_url == files.token,
                    "half of a replacement after {readings} readings"
                );
                readings += 1;
                if files.api_key == Some(Ok(LAST.to_string())) {
                    break;
                }
                before = Some(files);
            }
        });
    }
}
