//! Logs: one JSON object a line, `level` in lower case and the message under
//! `msg`, with the fields of the event beside them.
//!
//! What comes from outside cannot end a line, move a terminal's cursor or turn
//! text around, and no field is longer than a bound.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The library logs whole answers of the API server at this target when one
/// cannot be decoded; they may hold anything, so they are never logged.
const SILENCED: [&str; 1] = ["kube_client::client=error"];

/// What targets begin with that may stand without a level.
const BARE_TARGETS: [&str; 2] = ["catalog_mesh_controller", "kube"];

/// Most bytes of a field; what is longer is cut, and says so.
pub const LONGEST_FIELD: usize = 8 * 1024;

/// Starts logging to standard output, or says what is wrong with the filter.
pub fn start(text: &str) -> Result<(), String> {
    tracing_subscriber::fmt()
        .event_format(JsonLines)
        .with_env_filter(filter(text)?)
        .try_init()
        .map_err(|e| format!("logging was started before: {e}"))
}

/// What is logged where this filter is asked for, or what is wrong with it.
pub fn filter(filter: &str) -> Result<EnvFilter, String> {
    let mut parsed = EnvFilter::try_new(filter)
        .map_err(|e| format!("--log {filter:?} is not a filter such as `info` or `info,catalog_mesh_controller=debug`: {e}"))?;
    if let Some(word) = filter.split(',').find(|word| !is_meant(word)) {
        return Err(format!(
            "--log names {word:?}, which is no level (off, error, warn, info, debug, trace); for all of one target write `TARGET=trace`"
        ));
    }
    for silenced in SILENCED {
        let directive = silenced.parse().map_err(|e| format!("{silenced}: {e}"))?;
        parsed = parsed.add_directive(directive);
    }
    Ok(parsed)
}

/// Whether a directive means what it says. The library takes a word that is no
/// level for a target, and then writes nothing of any other.
fn is_meant(directive: &str) -> bool {
    directive.contains(['=', '['])
        || directive.parse::<LevelFilter>().is_ok()
        || directive.contains("::")
        || BARE_TARGETS
            .iter()
            .any(|target| directive.starts_with(target))
}

/// One JSON object a line.
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        let metadata = event.metadata();
        fields.set("time", jiff::Timestamp::now().to_string());
        fields.set("level", metadata.level().as_str().to_ascii_lowercase());
        fields.set("target", metadata.target());
        event.record(&mut fields);
        for c in Value::Object(fields.0).to_string().chars() {
            if is_unseen(c) {
                // JSON writes what is beyond four digits as a pair of surrogates.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            } else {
                writer.write_char(c)?;
            }
        }
        writeln!(writer)
    }
}

/// What JSON lets stand and no reader sees: control characters beyond ASCII,
/// ends of lines, and what hides text or turns it around.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// As much of the text as a field holds.
fn cut(mut text: String) -> String {
    let length = text.len();
    if length > LONGEST_FIELD {
        text.truncate(text.floor_char_boundary(LONGEST_FIELD));
        // Writing to a String never fails.
        let _ = write!(text, "… ({length} bytes)");
    }
    text
}

/// The fields of an event as JSON. Text from outside is escaped by that.
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let name = if name == "message" { "msg" } else { name };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), cut(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), cut(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_since_it_would_silence_everything() {
        for (text, word) in [
            ("warning", "warning"),
            ("inof", "inof"),
            ("info,verbose", "verbose"),
            ("info, debug", " debug"),
            ("catalog-mesh-controller", "catalog-mesh-controller"),
        ] {
            let refused = filter(text).expect_err(text);
            assert!(refused.contains(&format!("{word:?}")), "{refused}");
            assert!(refused.contains("error, warn, info"), "{refused}");
        }
    }

    #[test]
    fn a_level_or_a_target_is_what_it_was() {
        for text in [
            "info",
            "WARN",
            "off",
            "4",
            "info,catalog_mesh_controller=debug",
            "catalog_mesh_controller::controller",
            "kube_client",
            "warn,hyper_util::client",
            "info,sqlx=trace",
            "info,[reconcile]=debug",
        ] {
            assert!(filter(text).is_ok(), "{text}");
        }
    }
}
