//! What does a log line look like? Alone in its process, since the tests of
//! one process share what decides whether a line is written.

use std::io;
use std::sync::{Arc, Mutex};

use catalog_mesh_controller::telemetry::JsonLines;
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
