//! What may an endpoint answer, and what is to be held of it then? A table.
#![allow(dead_code, reason = "each test uses its part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::io::Write as _;

use catalog_mesh_controller::domain::health::judge::Failure::{
    Answered1xx, Answered4xx, Answered5xx, Closed, NotHttp, TimedOut,
};
use catalog_mesh_controller::domain::health::judge::Unknown::MtlsRequired;
use catalog_mesh_controller::domain::health::judge::{Failure, Verdict};

use super::peer::Step::{self, Drip, Flood, HalfClose, Hang, Read, Reset, Send, Wait};

/// A word that no text of ours may hold after it was in an answer.
pub(crate) const TOKEN: &str = "kZ7tokenQ9";

/// Its name, what the endpoint does on each connection, and what is held of it.
pub(crate) type Case = (&'static str, Vec<Step>, Verdict);

pub(crate) fn bad(failure: Failure) -> Verdict {
    Verdict::Unhealthy(failure)
}

fn text(answer: &str) -> Vec<Step> {
    vec![Read, Send(answer.as_bytes().to_vec())]
}

fn then(answer: &str, step: Step) -> Vec<Step> {
    vec![Read, Send(answer.as_bytes().to_vec()), step]
}

fn bytes(answer: &[u8]) -> Vec<Step> {
    vec![Read, Send(answer.to_vec())]
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Kinds of answers. `canary` is an address that nobody may connect to.
pub(crate) fn cases(canary: &str) -> Vec<Case> {
    let mut all = connections();
    all.extend(heads());
    all.extend(bodies());
    all.extend(statuses(canary));
    all.extend(other_protocols());
    all
}

fn connections() -> Vec<Case> {
    vec![
        ("closes at once", vec![], bad(Closed)),
        ("resets at once", vec![Reset], bad(Closed)),
        ("closes after the request", vec![Read], bad(Closed)),
        ("resets after the request", vec![Read, Reset], bad(Closed)),
        ("hangs before the request", vec![Hang], bad(TimedOut)),
        ("hangs after the request", vec![Read, Hang], bad(TimedOut)),
        (
            "half closes and says nothing",
            vec![Read, HalfClose, Hang],
            bad(Closed),
        ),
        (
            "answers late but in time",
            vec![Read, Wait(200), Send(OK.into())],
            Verdict::Healthy,
        ),
        (
            "answers too late",
            vec![Read, Wait(1500), Send(OK.into())],
            bad(TimedOut),
        ),
        (
            "answers before it is asked",
            vec![Send(OK.into()), Read],
            Verdict::Healthy,
        ),
        (
            "answers and half closes",
            then(OK, HalfClose),
            Verdict::Healthy,
        ),
        ("answers and resets", then(OK, Reset), Verdict::Healthy),
        (
            "answers twice",
            text(&format!("{OK}{OK}")),
            Verdict::Healthy,
        ),
        (
            "one byte a second",
            vec![Read, Drip(OK.into(), 1000)],
            bad(TimedOut),
        ),
        (
            "one byte each millisecond",
            vec![Read, Drip(OK.into(), 1)],
            Verdict::Healthy,
        ),
        (
            "stops in the status",
            then("HTTP/1.1 20", Hang),
            bad(TimedOut),
        ),
        ("closes in the status", text("HTTP/1.1 20"), bad(Closed)),
        (
            "stops in a header",
            then("HTTP/1.1 200 OK\r\nContent-Le", Hang),
            bad(TimedOut),
        ),
        (
            "closes in a header",
            text("HTTP/1.1 200 OK\r\nContent-Le"),
            bad(Closed),
        ),
        (
            "resets in a header",
            then("HTTP/1.1 200 OK\r\nConte", Reset),
            bad(Closed),
        ),
        (
            "stops before the empty line",
            then("HTTP/1.1 200 OK\r\n", Hang),
            bad(TimedOut),
        ),
    ]
}

fn heads() -> Vec<Case> {
    let header = |line: String| text(&format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n"));
    let endless = |line: &str| then("HTTP/1.1 200 OK\r\n", Flood(line.as_bytes().repeat(100)));
    vec![
        ("endless headers", endless("X-Y: z\r\n"), bad(NotHttp)),
        (
            "an endless header",
            then("HTTP/1.1 200 OK\r\nX: ", Flood(vec![b'y'; 4096])),
            bad(NotHttp),
        ),
        (
            "an endless name",
            then("HTTP/1.1 200 OK\r\n", Flood(vec![b'y'; 4096])),
            bad(NotHttp),
        ),
        (
            "an endless reason",
            then("HTTP/1.1 200 ", Flood(vec![b'y'; 4096])),
            bad(NotHttp),
        ),
        (
            "headers one by one",
            vec![
                Read,
                Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Drip(b"X: y\r\n".repeat(5000), 1),
            ],
            bad(TimedOut),
        ),
        (
            "a header of 64 KiB",
            header(format!("X: {}", "y".repeat(65_536))),
            bad(NotHttp),
        ),
        (
            "a header of 12 KiB",
            header(format!("X: {}", "y".repeat(12_000))),
            Verdict::Healthy,
        ),
        (
            "101 headers",
            header(vec!["X: y"; 101].join("\r\n")),
            bad(NotHttp),
        ),
        (
            "100 headers",
            header(vec!["X: y"; 100].join("\r\n")),
            Verdict::Healthy,
        ),
        (
            "a header without a name",
            header(": y".to_owned()),
            bad(NotHttp),
        ),
        (
            "a header without a colon",
            header("X y".to_owned()),
            bad(NotHttp),
        ),
        (
            "a header with a nul",
            header("X: \0".to_owned()),
            bad(NotHttp),
        ),
        (
            "a folded header",
            header("X: y\r\n z".to_owned()),
            bad(NotHttp),
        ),
        (
            "a header of raw bytes",
            bytes(b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\n\r\n"),
            Verdict::Healthy,
        ),
        (
            "bare line feeds",
            text("HTTP/1.1 200 OK\nX: y\n\n"),
            Verdict::Healthy,
        ),
        (
            "bare carriage returns",
            text("HTTP/1.1 200 OK\rX: y\r\r"),
            bad(Closed),
        ),
        ("no reason", text("HTTP/1.1 200\r\n\r\n"), Verdict::Healthy),
        (
            "a status of two digits",
            text("HTTP/1.1 20 OK\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "a status of four digits",
            text("HTTP/1.1 2000 OK\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "a status of letters",
            text("HTTP/1.1 abc OK\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "a negative status",
            text("HTTP/1.1 -20 OK\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "empty lines before",
            text(&format!("\r\n\r\n{OK}")),
            bad(NotHttp),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let body = |headers: &str, step| then(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n"), step);
    let mut zip =
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    write!(zip, "ffff\r\n").unwrap();
    zip.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    vec![
        (
            "a body without an end",
            body("X: y", Flood(vec![b'z'; 65_536])),
            Verdict::Healthy,
        ),
        (
            "chunks without an end",
            body(
                "Transfer-Encoding: chunked",
                Flood(b"5\r\nhello\r\n".repeat(500)),
            ),
            Verdict::Healthy,
        ),
        (
            "a chunk of no size",
            body("Transfer-Encoding: chunked", Send(b"zz\r\n".to_vec())),
            Verdict::Healthy,
        ),
        (
            "a chunk as large as can be",
            body(
                "Transfer-Encoding: chunked",
                Send(b"ffffffffffffffff\r\n".to_vec()),
            ),
            Verdict::Healthy,
        ),
        (
            "a gzip bomb",
            vec![Read, Send(zip), Flood(vec![0; 65_536])],
            Verdict::Healthy,
        ),
        (
            "a body that is longer than said",
            text("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nlonger"),
            Verdict::Healthy,
        ),
        (
            "a body that is shorter than said",
            text("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"),
            Verdict::Healthy,
        ),
        (
            "a body that does not come",
            body("Content-Length: 99", Hang),
            Verdict::Healthy,
        ),
        (
            "two lengths",
            text("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"),
            Verdict::Healthy,
        ),
        (
            "a length of 1 EiB",
            body(
                "Content-Length: 1152921504606846976",
                Flood(vec![0; 65_536]),
            ),
            Verdict::Healthy,
        ),
        (
            "a length below zero",
            text("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
            Verdict::Healthy,
        ),
        (
            "length and chunks",
            text(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            Verdict::Healthy,
        ),
        (
            "a byte of body a second",
            body("Content-Length: 9", Drip(b"123456789".to_vec(), 1000)),
            Verdict::Healthy,
        ),
    ]
}

fn statuses(canary: &str) -> Vec<Case> {
    let to = |status: &str| {
        text(&format!(
            "HTTP/1.1 {status}\r\nLocation: http://{canary}/{TOKEN}\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    let with = |status: &str, header: &str| {
        text(&format!(
            "HTTP/1.1 {status}\r\n{header}\r\nX-Secret: {TOKEN}\r\nContent-Length: 10\r\n\r\n{TOKEN}"
        ))
    };
    vec![
        ("301 elsewhere", to("301 Moved"), Verdict::Healthy),
        ("302 elsewhere", to("302 Found"), Verdict::Healthy),
        ("303 elsewhere", to("303 See Other"), Verdict::Healthy),
        (
            "305 by way of another",
            to("305 Use Proxy"),
            Verdict::Healthy,
        ),
        ("307 elsewhere", to("307 Temporary"), Verdict::Healthy),
        ("308 elsewhere", to("308 Permanent"), Verdict::Healthy),
        (
            "a redirect to nowhere",
            text("HTTP/1.1 302 Found\r\nLocation: gopher://\r\n\r\n"),
            Verdict::Healthy,
        ),
        (
            "refreshes elsewhere",
            with("200 OK", &format!("Refresh: 0; url=http://{canary}/")),
            Verdict::Healthy,
        ),
        (
            "served elsewhere",
            with("200 OK", &format!("Alt-Svc: h2=\"{canary}\"")),
            Verdict::Healthy,
        ),
        (
            "wants to push",
            with("200 OK", &format!("Link: <http://{canary}/>; rel=preload")),
            Verdict::Healthy,
        ),
        (
            "204",
            text("HTTP/1.1 204 No Content\r\n\r\n"),
            Verdict::Healthy,
        ),
        (
            "304 with a length",
            text("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
            Verdict::Healthy,
        ),
        (
            "401",
            with("401 Unauthorized", "WWW-Authenticate: Basic"),
            bad(Answered4xx),
        ),
        ("403", with("403 Forbidden", "X: y"), bad(Answered4xx)),
        ("404", with("404 Not Found", "X: y"), bad(Answered4xx)),
        (
            "407",
            with("407 Proxy Authentication", "Proxy-Authenticate: Basic"),
            bad(Answered4xx),
        ),
        ("408", with("408 Request Timeout", "X: y"), bad(Answered4xx)),
        (
            "429",
            with("429 Too Many", "Retry-After: 99999999"),
            bad(Answered4xx),
        ),
        ("500", with("500 Internal", "X: y"), bad(Answered5xx)),
        (
            "503",
            with("503 Unavailable", "Retry-After: 99999999"),
            bad(Answered5xx),
        ),
        (
            "a reason of terror",
            with("500 \x1b[31m<script>", "X: y"),
            bad(NotHttp),
        ),
        ("999", with("999 Beyond", "X: y"), bad(Answered5xx)),
        ("000", with("000 Nothing", "X: y"), bad(Answered1xx)),
        (
            "101",
            text("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
            bad(Answered1xx),
        ),
        (
            "100, then 200",
            text(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")),
            Verdict::Healthy,
        ),
        (
            "103, then 500",
            text("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 500 No\r\n\r\n"),
            bad(Answered5xx),
        ),
        (
            "100, and nothing",
            then("HTTP/1.1 100 Continue\r\n\r\n", Hang),
            bad(TimedOut),
        ),
        (
            "100 without an end",
            vec![Read, Flood(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(50))],
            bad(NotHttp),
        ),
    ]
}

fn other_protocols() -> Vec<Case> {
    vec![
        ("HTTP/0.9", text("<html>fine</html>"), bad(NotHttp)),
        (
            "HTTP/1.0",
            text("HTTP/1.0 200 OK\r\n\r\nfine"),
            Verdict::Healthy,
        ),
        ("HTTP/1.2", text("HTTP/1.2 200 OK\r\n\r\n"), bad(NotHttp)),
        (
            "HTTP/2 in words",
            text("HTTP/2 200 OK\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "HTTP/2 frames",
            bytes(b"\0\0\x12\x04\0\0\0\0\0"),
            bad(NotHttp),
        ),
        (
            "small letters",
            text("http/1.1 200 ok\r\n\r\n"),
            bad(NotHttp),
        ),
        ("binary", bytes(&[0, 255, 1, 254, 2, 253]), bad(NotHttp)),
        (
            "an endless stream of zeros",
            vec![Read, Flood(vec![0; 65_536])],
            bad(NotHttp),
        ),
        (
            "SSH",
            vec![Send(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()), Hang],
            bad(NotHttp),
        ),
        (
            "SMTP",
            vec![Send(b"220 mail ESMTP\r\n".to_vec()), Hang],
            bad(NotHttp),
        ),
        ("Redis", text("-ERR unknown command\r\n"), bad(NotHttp)),
        ("PostgreSQL", bytes(b"E\0\0\0\x0bfatal\0"), bad(NotHttp)),
        ("SIP", text("SIP/2.0 200 OK\r\n\r\n"), bad(NotHttp)),
        ("RTSP", text("RTSP/1.0 200 OK\r\n\r\n"), bad(NotHttp)),
        (
            "the request, sent back",
            text("GET /health HTTP/1.1\r\n\r\n"),
            bad(NotHttp),
        ),
        (
            "a TLS alert",
            bytes(b"\x15\x03\x01\0\x02\x02\x46"),
            Verdict::Unknown(MtlsRequired),
        ),
    ]
}
