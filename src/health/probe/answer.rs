//! What a failure on the way says about the endpoint. Does no IO.

use std::io::{Error, ErrorKind};

use rustls::{AlertDescription as Alert, CertificateError};

use crate::domain::health::judge::{Answer, Failure, Unknown};
use crate::metrics::health::SetAside;

/// Why there is no head of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The endpoint failed.
    Failed(Failure),
    /// Nothing can be said.
    Unknown(Unknown),
    /// The fault was ours.
    Own,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<End> for Result<Answer, SetAside> {
    fn from(end: End) -> Self {
        match end {
            End::Failed(failure) => Ok(Answer::Failed(failure)),
            End::Unknown(why) => Ok(Answer::Unknown(why)),
            End::Own => Err(SetAside::Own),
        }
    }
}

/// Too many open files, in this process or on this machine; no buffers.
const OUT_OF_SOCKETS: [i32; 3] = [24, 23, 105];

/// No connection came about.
pub(super) fn connecting(error: &Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused.into(),
        // It came about, and was broken off before anybody looked.
        ErrorKind::ConnectionReset => Failure::Closed.into(),
        ErrorKind::TimedOut => Failure::ConnectTimedOut.into(),
        // Of these nothing reached the wire: no route, no port, no memory.
        ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable
        | ErrorKind::AddrInUse
        | ErrorKind::OutOfMemory => End::Own,
        _ if error
            .raw_os_error()
            .is_some_and(|code| OUT_OF_SOCKETS.contains(&code)) =>
        {
            End::Own
        }
        _ => Failure::Unreachable.into(),
    }
}

/// A connection broke that had come about.
pub(super) fn talking(error: &Error) -> End {
    if let Some(tls) = tls_error(error) {
        return handshaking_tls(tls);
    }
    match error.kind() {
        ErrorKind::TimedOut => Failure::TimedOut.into(),
        ErrorKind::HostUnreachable => Failure::Unreachable.into(),
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown | ErrorKind::OutOfMemory => End::Own,
        _ => Failure::Closed.into(),
    }
}

/// TLS did not come about.
pub(super) fn handshaking(error: &Error) -> End {
    match (tls_error(error), talking(error)) {
        (Some(tls), _) => handshaking_tls(tls),
        (None, End::Failed(Failure::Closed)) => Failure::Tls.into(),
        (None, end) => end,
    }
}

fn handshaking_tls(error: &rustls::Error) -> End {
    match error {
        // What we showed was refused: that is no fault of the endpoint's.
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        ) => End::Unknown(Unknown::NoCertificate),
        // Another mesh's root often has the same name, and is told by its key.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Failure::WrongPeer.into(),
        _ => Failure::Tls.into(),
    }
}

/// Whether whoever broke it off spoke TLS.
pub(super) fn is_of_tls(error: &Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::AlertReceived(_)))
}

fn tls_error(error: &Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What a status says.
pub(super) fn of_status(status: u16) -> Answer {
    match status {
        200..=399 => Answer::Good,
        400..=499 => Answer::Failed(Failure::Answered4xx),
        0..=199 => Answer::Failed(Failure::Answered1xx),
        500.. => Answer::Failed(Failure::Answered5xx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_this_machine_say_nothing_about_the_endpoint() {
        for (code, expected) in [
            (111, End::Failed(Failure::Refused)),
            (104, End::Failed(Failure::Closed)),
            (110, End::Failed(Failure::ConnectTimedOut)),
            (113, End::Failed(Failure::Unreachable)),
            (1, End::Failed(Failure::Unreachable)),
            (101, End::Own),
            (99, End::Own),
            (24, End::Own),
            (23, End::Own),
            (105, End::Own),
            (12, End::Own),
        ] {
            assert_eq!(
                connecting(&Error::from_raw_os_error(code)),
                expected,
                "{code}"
            );
        }
    }

    #[test]
    fn a_peer_that_refuses_our_certificate_is_not_taken_for_dead() {
        let alert = |alert| Error::new(ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        let refused = alert(Alert::UnknownCA);
        assert_eq!(talking(&refused), End::Unknown(Unknown::NoCertificate));
        assert_eq!(
            handshaking(&alert(Alert::HandshakeFailure)),
            Failure::Tls.into()
        );
        assert_eq!(
            handshaking(&ErrorKind::UnexpectedEof.into()),
            Failure::Tls.into()
        );
        assert_eq!(
            talking(&ErrorKind::UnexpectedEof.into()),
            Failure::Closed.into()
        );
    }

    #[test]
    fn success_is_a_2xx_or_a_3xx() {
        for (status, expected) in [
            (200, Answer::Good),
            (204, Answer::Good),
            (302, Answer::Good),
            (399, Answer::Good),
            (101, Answer::Failed(Failure::Answered1xx)),
            (0, Answer::Failed(Failure::Answered1xx)),
            (404, Answer::Failed(Failure::Answered4xx)),
            (500, Answer::Failed(Failure::Answered5xx)),
            (999, Answer::Failed(Failure::Answered5xx)),
        ] {
            assert_eq!(of_status(status), expected, "{status}");
        }
    }
}
