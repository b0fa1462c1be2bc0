//! What does a log line look like? Alone in its process, since the tests of
//! one process share what decides whether a line is written.

use std::io;
use std::sync::{Arc, Mutex};

use catalog_mesh_controller::telemetry::{self, JsonLines};
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
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .event_format(JsonLines)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(
            serviceName = "worker\nservice",
            count = 3,
            audit = true,
            "Synced service"
        );
    });
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
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
