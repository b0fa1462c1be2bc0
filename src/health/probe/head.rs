//! The head of an answer, as far as a check needs it: the status, and whether
//! the connection is of use afterwards. Does no IO.

use crate::domain::health::judge::Failure;

/// Most bytes of a head, with those of the interim ones before it.
pub(super) const MOST: usize = 16 * 1024;
/// Most headers.
const HEADERS: usize = 100;
/// How every answer begins that is one.
const BEGINS: &[u8] = b"HTTP/1.";

/// What a head says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// Its status.
    pub(super) status: u16,
    /// Its length.
    pub(super) length: usize,
    /// What follows it.
    pub(super) body: Body,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// So many bytes, and then the next answer.
    Length(u64),
    /// Chunks, and then the next answer.
    Chunks,
    /// What ends with the connection, or cannot be told.
    Closes,
}

/// Looks for a head at the begin of what was read. `looked` bytes of that were
/// looked at before. None where more has to be read.
pub(super) fn parse(read: &[u8], looked: usize) -> Result<Option<Head>, Failure> {
    let begins = read.len().min(BEGINS.len());
    if read[..begins] != BEGINS[..begins] {
        return Err(Failure::NotHttp);
    }
    if !ends(read, looked) {
        return if read.len() < MOST {
            Ok(None)
        } else {
            Err(Failure::NotHttp)
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = response.parse(read) else {
        return Err(Failure::NotHttp);
    };
    let status = response.code.ok_or(Failure::NotHttp)?;
    let body = body(status, response.version == Some(1), response.headers);
    Ok(Some(Head {
        status,
        length,
        body,
    }))
}

/// Whether an empty line is among the bytes from there on.
fn ends(read: &[u8], looked: usize) -> bool {
    let from = looked.saturating_sub(3);
    let new = &read[from.min(read.len())..];
    new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

fn body(status: u16, is_1_1: bool, headers: &[httparse::Header<'_>]) -> Body {
    let named = |name: &'static str| {
        let of = headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        of.map(|header| header.value.trim_ascii())
    };
    let words = named("connection").flat_map(|value| value.split(|byte| *byte == b','));
    let closes = words
        .map(<[u8]>::trim_ascii)
        .any(|word| word.eq_ignore_ascii_case(b"close"));
    if !is_1_1 || closes {
        return Body::Closes;
    }
    let mut lengths = named("content-length");
    let mut encodings = named("transfer-encoding");
    match (lengths.next(), encodings.next()) {
        _ if status == 204 || status == 304 => Body::Length(0),
        (Some(length), None) if lengths.next().is_none() => {
            number(length).map_or(Body::Closes, Body::Length)
        }
        (None, Some(encoding))
            if encodings.next().is_none() && encoding.eq_ignore_ascii_case(b"chunked") =>
        {
            Body::Chunks
        }
        _ => Body::Closes,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Head>, Failure> {
        parse(text.as_bytes(), 0)
    }

    fn body_of(headers: &str) -> Body {
        of(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"))
            .unwrap()
            .unwrap()
            .body
    }

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let end = whole.len() - 2;
        for cut in 1..end {
            assert_eq!(parse(&whole[..cut], 0), Ok(None), "{cut}");
            let head = parse(&whole[..end], cut).unwrap().unwrap();
            assert_eq!((head.status, head.length), (200, end), "{cut}");
        }
    }

    #[test]
    fn what_is_no_http_is_told_by_its_first_byte() {
        for text in ["S", "\0", "HTTP/2", "http/1.1", "\r\nHTTP/1.1", "<html>"] {
            assert_eq!(of(text), Err(Failure::NotHttp), "{text:?}");
        }
        assert_eq!(of("HTT"), Ok(None));
    }

    #[test]
    fn a_head_has_an_end() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MOST));
        assert_eq!(of(&endless), Err(Failure::NotHttp));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(HEADERS + 1));
        assert_eq!(of(&many), Err(Failure::NotHttp));
        let enough = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(HEADERS));
        assert_eq!(of(&enough).unwrap().unwrap().status, 200);
    }

    #[test]
    fn a_connection_is_kept_where_the_end_of_the_answer_is_plain() {
        for (headers, expected) in [
            ("Content-Length: 2\r\n", Body::Length(2)),
            ("content-length:  0 \r\n", Body::Length(0)),
            ("Transfer-Encoding: chunked\r\n", Body::Chunks),
            ("", Body::Closes),
            ("Content-Length: 2\r\nConnection: Close\r\n", Body::Closes),
            (
                "Content-Length: 2\r\nConnection: x , close\r\n",
                Body::Closes,
            ),
            ("Content-Length: 2\r\nContent-Length: 3\r\n", Body::Closes),
            ("Content-Length: +2\r\n", Body::Closes),
            ("Content-Length: 99999999999999999999\r\n", Body::Closes),
            (
                "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                Body::Closes,
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", Body::Closes),
        ] {
            assert_eq!(body_of(headers), expected, "{headers}");
        }
        let old = of("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(old.body, Body::Closes);
        let none = of("HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!(none.body, Body::Length(0));
    }
}
