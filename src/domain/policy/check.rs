//! Rules for the texts of a policy: each function says what a text must be, or
//! nothing. No IO. Callers put the field and the escaped text in front.

/// What a text must be; none where it is.
pub(super) type Broken = Option<&'static str>;

/// No name or path of a policy is longer.
const LONGEST_PATH: usize = 1_024;
const LONGEST_NAME: usize = 256;

/// Envoy's conditions to retry on that istiod lets through.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// The path of a health check: a path and perhaps a query, never a URL. A
/// second slash at the start would make a host of what follows, a fragment is
/// never sent.
pub(super) fn endpoint(text: &str) -> Broken {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~!$&'()*+,;=:@%?/-[]".contains(&b);
    let good = text.len() <= LONGEST_PATH
        && text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(allowed);
    (!good).then_some(
        "must be a path that starts with one /, of at most 1024 characters as they stand in a URL, without # and never a URL itself",
    )
}

/// The name of a header or cookie: a token of HTTP.
pub(super) fn token(text: &str) -> Broken {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let good = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(allowed);
    (!good).then_some(
        "must be a name as HTTP has it: 1 to 256 letters, digits or -_.~!#$%&'*+^`|, without blanks",
    )
}

/// The path of a cookie, which ends at a semicolon.
pub(super) fn cookie_path(text: &str) -> Broken {
    let good = text.len() <= LONGEST_PATH
        && text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b';');
    (!good).then_some(
        "must be a path that starts with /, of at most 1024 visible ASCII characters, without semicolons",
    )
}

/// The name of a query parameter, as it stands in a URL.
pub(super) fn query_parameter(text: &str) -> Broken {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"&=#".contains(&b);
    let good = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(allowed);
    (!good)
        .then_some("must be 1 to 256 characters as they stand in a URL, without blanks and & = #")
}

/// Conditions to retry on. istiod does not trim, so blanks are refused.
pub(super) fn retry_on(text: &str) -> Broken {
    let known = |token: &str| RETRY_ON.contains(&token) || is_status(token);
    let good = text.len() <= LONGEST_PATH && text.split(',').all(known);
    (!good).then_some(
        "must be Envoy's retry conditions (such as 5xx, reset, connect-failure) or HTTP status codes, separated by commas without blanks",
    )
}

/// Whether it is a registered HTTP status code; istiod refuses others.
fn is_status(token: &str) -> bool {
    let plain = token.len() == 3 && token.bytes().all(|b| b.is_ascii_digit());
    plain
        && token.parse().is_ok_and(|code: u16| {
            matches!(code,
                100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418
                | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn passes(rule: fn(&str) -> Broken, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), None, "{text:?}");
        }
        for text in bad {
            assert!(rule(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn an_endpoint_is_a_path_and_never_a_url() {
        let long = format!("/{}", "a".repeat(1_024));
        passes(
            endpoint,
            &[
                "/",
                "/health",
                "/a/b?deep=1&x=%20",
                "/~user/.well-known",
                "/x?note[0]=1",
                &long[..1_024],
            ],
            &[
                "",
                "health",
                "//evil.example/x",
                "http://x/",
                "/a b",
                "/a\r\nHost: x",
                "/a#b",
                "/é",
                "/a\\b",
                "\\\\host",
                "/\u{0}",
                &long,
            ],
        );
    }

    #[test]
    fn a_header_name_is_a_token() {
        passes(
            token,
            &["x-user", "X_User.1", "a"],
            &["", ":authority", "a b", "a:", "ü", "a\n", &"a".repeat(257)],
        );
    }

    #[test]
    fn a_cookie_path_ends_at_a_semicolon() {
        passes(
            cookie_path,
            &["/", "/a/b"],
            &["", "a", "/;Secure", "/ ", "/\n"],
        );
    }

    #[test]
    fn a_query_parameter_name_cannot_hold_another() {
        passes(
            query_parameter,
            &["user", "u%5B0%5D", "u[0]", "a+b"],
            &["", "a&b", "a=b", "a#", "a b", "\u{e9}"],
        );
    }

    #[test]
    fn retry_conditions_are_those_that_istiod_takes() {
        passes(
            retry_on,
            &["5xx", "503", "gateway-error,reset,429", "retriable-4xx,418"],
            &[
                "",
                "5XX",
                "503, reset",
                " 503",
                "503,",
                ",",
                "5xx,,reset",
                "600",
                "419",
                "+503",
                "0503",
                "foo",
            ],
        );
    }
}
