//! What does a log line look like? Alone in its process, since the tests of
//! one process share what decides whether a line is written.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::io;
use std::sync::{Arc, Mutex};

use catalog_mesh_controller::telemetry::{self, JsonLines, LONGEST_FIELD};
use serde_json::Value;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("no test panics here")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written where this is logged.
fn logged(log: impl FnOnce()) -> String {
    written("trace", log)
}

/// What is written of these lines where this filter is asked for.
fn written(filter: &str, log: impl FnOnce()) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .event_format(JsonLines)
        .with_env_filter(telemetry::filter(filter).expect("a good filter"))
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let bytes = buffer.0.lock().expect("no test panics here").clone();
    String::from_utf8(bytes).expect("text")
}

/// The library warns with the whole answer of the API server where one cannot
/// be decoded: whatever is asked for, that is not written.
// trap 10
#[test]
fn answers_that_cannot_be_decoded_are_not_written() {
    for filter in [
        "info",
        "trace",
        "trace,kube_client=trace",
        "kube_client::client=trace",
    ] {
        let text = written(filter, || {
            tracing::warn!(target: "kube_client::client", "{{\"password\": 1}}, could not parse");
            tracing::error!(target: "kube_client::config", "another word");
        });
        assert!(!text.contains("password"), "{filter}: {text}");
        let other = filter != "kube_client::client=trace";
        assert_eq!(text.contains("another word"), other, "{filter}: {text}");
    }
}

#[test]
fn a_line_is_one_json_object_with_the_documented_keys() {
    let text = logged(|| {
        tracing::info!(
            serviceName = "worker\nservice",
            count = 3,
            audit = true,
            "Synced service"
        );
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "info");
    assert_eq!(line["msg"], "Synced service");
    assert_eq!(line["serviceName"], "worker\nservice");
    assert_eq!(
        (&line["count"], &line["audit"]),
        (&Value::from(3), &Value::from(true))
    );
}

#[test]
fn nothing_from_outside_ends_a_line_hides_text_or_moves_the_cursor() {
    let tags = 0xe_0000..=0xe_007f_u32;
    let beyond = (0xfff0..=0xffff_u32).chain(tags);
    let hostile = (0..=0x2fff_u32).chain(beyond);
    let mut hostile: String = hostile.filter_map(char::from_u32).collect();
    hostile
        .push_str("\"}\n{\"level\":\"info\",\"msg\":\"forged\"}\u{feff}\u{1b}]0;x\u{7}\u{10ffff}");
    // As many bytes as fit into a field.
    let parts: Vec<&str> = hostile
        .char_indices()
        .step_by(1_000)
        .map(|(at, _)| &hostile[at..])
        .collect();
    for part in parts {
        let part: String = part.chars().take(1_000).collect();
        let text = logged(|| {
            let error = io::Error::other(part.clone());
            tracing::warn!(display = %part, debug = ?part, text = part, %error, "{part}");
        });
        let (line, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, "", "one line");
        let unseen = |c: char| {
            c.is_control()
                || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
                || matches!(c, '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
                || matches!(c, '\u{e0000}'..='\u{e007f}')
        };
        assert!(!line.contains(unseen), "{line:?}");
        // And nothing of it is lost.
        let line: Value = serde_json::from_str(line).unwrap();
        for field in ["msg", "display", "text", "error"] {
            assert_eq!(line[field], part.as_str(), "{field}");
        }
    }
}

#[test]
fn a_field_that_is_very_long_is_cut_and_says_so() {
    let long = "ä".repeat(5_000_000);
    let text = logged(|| {
        let short = "x".repeat(LONGEST_FIELD);
        tracing::info!(long, debug = ?long, short, "{long}");
    });
    assert!(text.len() < 5 * LONGEST_FIELD, "{}", text.len());
    let line: Value = serde_json::from_str(&text).unwrap();
    for field in ["msg", "long", "debug"] {
        let text = line[field].as_str().unwrap();
        assert!(
            text.ends_with("0 bytes)") || text.ends_with("2 bytes)"),
            "{field}"
        );
    }
    assert_eq!(line["short"].as_str().map(str::len), Some(LONGEST_FIELD));
}
