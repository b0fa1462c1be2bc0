//! Where an answer ends. Its body is of no interest; but a connection on which
//! some of it is left cannot be used again. Does no IO.

use super::head::Body;

/// Most bytes of a body that are read so that a connection can be kept. One
/// with more is closed instead.
pub(super) const MOST: usize = 8 * 1024;

/// Whether an answer has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rest {
    /// It has, and nothing came after it.
    Over,
    /// More is to come.
    More,
    /// There is no use in waiting for it.
    Lost,
}

/// What is left of a body of which this much has come.
pub(super) fn rest(body: Body, came: &[u8]) -> Rest {
    if came.len() > MOST {
        return Rest::Lost;
    }
    match body {
        Body::Closes => Rest::Lost,
        Body::Length(length) if length > MOST as u64 => Rest::Lost,
        Body::Length(length) => match (came.len() as u64).cmp(&length) {
            std::cmp::Ordering::Less => Rest::More,
            std::cmp::Ordering::Equal => Rest::Over,
            std::cmp::Ordering::Greater => Rest::Lost,
        },
        Body::Chunks => chunks(came),
    }
}

fn chunks(mut came: &[u8]) -> Rest {
    loop {
        let (head, size) = match httparse::parse_chunk_size(came) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Rest::More,
            Err(_) => return Rest::Lost,
        };
        if size > MOST as u64 {
            return Rest::Lost;
        }
        let data = &came[head..];
        let size = usize::try_from(size).unwrap_or(MOST);
        // A trailer after the last chunk is rare, and the connection is closed.
        let end = &data[size.min(data.len())..];
        let wanted = &b"\r\n"[..end.len().min(2)];
        if !end.starts_with(wanted) {
            return Rest::Lost;
        }
        if data.len() < size + 2 {
            return Rest::More;
        }
        came = &data[size + 2..];
        if size == 0 {
            return if came.is_empty() {
                Rest::Over
            } else {
                Rest::Lost
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let length = Body::Length(2);
        assert_eq!(rest(length, b"o"), Rest::More);
        assert_eq!(rest(length, b"ok"), Rest::Over);
        assert_eq!(rest(length, b"okH"), Rest::Lost);
        assert_eq!(rest(Body::Length(u64::MAX), b"ok"), Rest::Lost);
        assert_eq!(rest(Body::Closes, b""), Rest::Lost);
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let whole = b"2\r\nok\r\n3;x=y\r\nabc\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(rest(Body::Chunks, &whole[..cut]), Rest::More, "{cut}");
        }
        assert_eq!(rest(Body::Chunks, whole), Rest::Over);
        for lost in [
            "2\r\nokay\r\n",
            "x\r\n",
            "0\r\n\r\nHTTP",
            "0\r\nTrailer: x\r\n\r\n",
            "ffffffffffffffff\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert_eq!(rest(Body::Chunks, lost.as_bytes()), Rest::Lost, "{lost}");
        }
    }
}
