//! What do the bytes of a stream of server-sent events say? Bytes in, fields
//! of events out; no IO. A line, and an event, hold 64 KiB at most, whatever
//! the server sends: none of the parsers on crates.io bounds that.

use super::error::CatalogError;

/// Longest line, and largest event.
const MOST_BYTES: usize = 64 * 1024;

/// The fields of one event, as they came. One without a field is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fields {
    pub(super) event: String,
    pub(super) id: String,
    pub(super) data: String,
}

/// Puts events together from bytes.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    fields: Fields,
    /// A line feed that comes next belongs to the line that has ended.
    after_return: bool,
    /// Whether the first line was read, before which a mark may stand.
    begun: bool,
}

impl Parser {
    /// Reads on until an event is whole, and says how many of the bytes that
    /// took: all, where none is.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Fields>), CatalogError> {
        let mut at = 0;
        if self.after_return && bytes.first() == Some(&b'\n') {
            at = 1;
        }
        if !bytes.is_empty() {
            self.after_return = false;
        }
        while at < bytes.len() {
            let rest = &bytes[at..];
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + piece.len() > MOST_BYTES {
                return Err(bad(format!("a line is longer than {MOST_BYTES} bytes")));
            }
            self.line.extend_from_slice(piece);
            at += piece.len();
            let Some(end) = end else { break };
            at += 1;
            if rest[end] == b'\r' {
                match bytes.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if let Some(fields) = self.end_of_line()? {
                return Ok((at, Some(fields)));
            }
        }
        Ok((at, None))
    }

    fn end_of_line(&mut self) -> Result<Option<Fields>, CatalogError> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| bad("a line is not UTF-8"))?;
        let line = match std::mem::replace(&mut self.begun, true) {
            false => line.strip_prefix('\u{feff}').unwrap_or(line),
            true => line,
        };
        if line.is_empty() {
            let fields = std::mem::take(&mut self.fields);
            return Ok((fields != Fields::default()).then_some(fields));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.fields.event),
            "id" if !value.contains('\0') => value.clone_into(&mut self.fields.id),
            "data" => {
                if !self.fields.data.is_empty() {
                    self.fields.data.push('\n');
                }
                self.fields.data.push_str(value);
            }
            // Comments, times to retry after, and fields to come.
            _ => {}
        }
        let Fields { event, id, data } = &self.fields;
        if event.len() + id.len() + data.len() > MOST_BYTES {
            return Err(bad(format!("an event is larger than {MOST_BYTES} bytes")));
        }
        Ok(None)
    }
}

fn bad(what: impl std::fmt::Display) -> CatalogError {
    CatalogError::unavailable(format!("the event stream cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of these chunks, as (event, id, data).
    fn events(chunks: &[&[u8]]) -> Result<Vec<(String, String, String)>, String> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let (read, event) = parser.read(rest).map_err(|error| error.to_string())?;
                rest = &rest[read..];
                events.extend(event.map(|e| (e.event, e.id, e.data)));
            }
        }
        Ok(events)
    }

    fn event(event: &str, id: &str, data: &str) -> (String, String, String) {
        (event.to_owned(), id.to_owned(), data.to_owned())
    }

    #[test]
    fn an_event_is_the_same_however_its_lines_end_and_its_bytes_arrive() {
        let text =
            "event: a\nid: e.1\ndata: {\u{e9}\n\n: comment\nevent:b\nid:2\ndata: x\ndata: y\n\n";
        let expected = [event("a", "e.1", "{\u{e9}"), event("b", "2", "x\ny")];
        for end in ["\n", "\r", "\r\n"] {
            let text = text.replace('\n', end);
            assert_eq!(events(&[text.as_bytes()]).unwrap(), expected, "{end:?}");
            let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(events(&bytes).unwrap(), expected, "{end:?}");
        }
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        let text = b"\xef\xbb\xbf: hello\n\n\nretry: 5\n\nnonsense\n\nid: a\0b\ndata\ndata:  z\n\nevent: cut off\n";
        assert_eq!(events(&[text]).unwrap(), [event("", "", " z")]);
    }

    #[test]
    fn a_line_and_an_event_are_bounded_and_so_is_what_is_held_of_them() {
        let line = vec![b'a'; 1024];
        let mut parser = Parser::default();
        let mut fed = 0;
        let error = loop {
            match parser.read(&line) {
                Ok(_) => fed += line.len(),
                Err(error) => break error,
            }
        };
        assert!(fed <= MOST_BYTES && parser.line.capacity() <= 2 * MOST_BYTES);
        assert!(error.to_string().contains("a line is longer"), "{error}");

        let many = "data: 0123456789\n".repeat(10_000);
        let error = events(&[many.as_bytes()]).unwrap_err();
        assert!(error.contains("an event is larger"), "{error}");
    }

    #[test]
    fn text_that_is_none_is_refused() {
        assert!(events(&[b"data: \xff\n\n"]).unwrap_err().contains("UTF-8"));
    }
}
