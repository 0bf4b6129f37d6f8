//! What became of a request: a response with its status, or the one class of failure it fell into.

use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::ledger::Fate;
use super::tls;

/// The end of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole response with this status.
    Response(u16),
    /// No whole response.
    Failed(Failure),
}

/// Why there was no whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The connection was not established in time.
    ConnectTimeout,
    /// Nobody listens there (ECONNREFUSED).
    Refused,
    /// The connection failed for another reason, such as an unreachable host.
    ConnectFailed,
    /// No local port was free (EADDRNOTAVAIL): the generator's own limit.
    NoFreePort,
    /// No file descriptor was free (EMFILE, ENFILE): the generator's own limit.
    TooManyFiles,
    /// Connected, but the response was not complete in time.
    ResponseTimeout,
    /// The peer reset the connection.
    Reset,
    /// The peer had closed the connection when the request was sent (EPIPE).
    BrokenPipe,
    /// The connection ended before or within the response.
    Eof,
    /// What came back is not an HTTP/1.x response, or its head exceeds the limit.
    Malformed,
    /// Any other error of the socket.
    Io,
    /// The TLS handshake failed, or TLS did later: no common version, not TLS at all, an alert, the protocol that
    /// was asked for not agreed on.
    TlsFailed,
    /// The certificate is from no authority that is trusted.
    TlsUnknownAuthority,
    /// The certificate is for another name.
    TlsHostname,
    /// The certificate is not valid for another reason, such as its age.
    TlsCertificate,
    /// HTTP/2: the server said that it goes away (GOAWAY).
    Http2GoAway,
    /// HTTP/2: the stream was reset (RST_STREAM).
    Http2Stream,
    /// HTTP/2: what came breaks the protocol, or the connection failed as a whole.
    Http2Connection,
    /// The request cannot be said in HTTP/2, such as a path with characters that no URI has.
    Unsendable,
}

impl Failure {
    pub(crate) const ALL: [Self; 19] = [
        Self::ConnectTimeout,
        Self::Refused,
        Self::ConnectFailed,
        Self::NoFreePort,
        Self::TooManyFiles,
        Self::ResponseTimeout,
        Self::Reset,
        Self::BrokenPipe,
        Self::Eof,
        Self::Malformed,
        Self::Io,
        Self::TlsFailed,
        Self::TlsUnknownAuthority,
        Self::TlsHostname,
        Self::TlsCertificate,
        Self::Http2GoAway,
        Self::Http2Stream,
        Self::Http2Connection,
        Self::Unsendable,
    ];

    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectTimeout => "connect_timeout",
            Self::Refused => "connection_refused",
            Self::ConnectFailed => "connect_failed",
            Self::NoFreePort => "no_free_port",
            Self::TooManyFiles => "too_many_files",
            Self::ResponseTimeout => "request_timeout",
            Self::Reset => "connection_reset",
            Self::BrokenPipe => "broken_pipe",
            Self::Eof => "eof",
            Self::Malformed => "malformed_response",
            Self::Io => "io_error",
            Self::TlsFailed => "tls_failed",
            Self::TlsUnknownAuthority => "tls_unknown_authority",
            Self::TlsHostname => "tls_hostname_mismatch",
            Self::TlsCertificate => "tls_invalid_certificate",
            Self::Http2GoAway => "http2_goaway",
            Self::Http2Stream => "http2_stream_reset",
            Self::Http2Connection => "http2_connection_error",
            Self::Unsendable => "request_not_sendable",
        }
    }

    /// k6's numeric `error_code`, where k6 has one (k6 docs, "Error codes").
    pub(crate) fn k6_code(self) -> Option<u16> {
        match self {
            Self::ResponseTimeout => Some(1050),
            Self::BrokenPipe => Some(1201),
            Self::ConnectFailed => Some(1210),
            Self::ConnectTimeout => Some(1211),
            Self::Refused => Some(1212),
            Self::Reset => Some(1220),
            Self::TlsFailed => Some(1300),
            Self::TlsUnknownAuthority => Some(1310),
            Self::TlsHostname => Some(1311),
            // The general codes; k6 adds HTTP/2's own error code to these.
            Self::Http2GoAway => Some(1610),
            Self::Http2Stream => Some(1630),
            Self::Http2Connection => Some(1650),
            Self::NoFreePort
            | Self::TooManyFiles
            | Self::Eof
            | Self::Malformed
            | Self::Io
            | Self::TlsCertificate
            | Self::Unsendable => None,
        }
    }

    /// The class of an error that came before the connection was established.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match errno(error) {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ETIMEDOUT => Self::ConnectTimeout,
            Errno::EADDRNOTAVAIL => Self::NoFreePort,
            Errno::EMFILE | Errno::ENFILE => Self::TooManyFiles,
            Errno::ECONNRESET => Self::Reset,
            _ => Self::ConnectFailed,
        }
    }

    /// The class of an error on an established connection.
    pub(super) fn of_established(error: &io::Error) -> Self {
        if let Some(failure) = tls::failure_of(error) {
            return failure;
        }
        // TLS: the connection ended without a close_notify.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Eof;
        }
        match errno(error) {
            Errno::ECONNRESET => Self::Reset,
            Errno::EPIPE => Self::BrokenPipe,
            // Keep-alive or retransmission gave up on the peer.
            Errno::ETIMEDOUT => Self::ResponseTimeout,
            _ => Self::Io,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Which statuses promise that the write is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledgement {
    /// Only 202: scalekit's own contract.
    Accepted,
    /// Any 2xx: all that is known of a foreign API.
    Success,
}

impl Outcome {
    /// k6's default: a response with a status of 200 to 399 is as expected, all else failed.
    pub(crate) fn failed(self) -> bool {
        match self {
            Self::Response(status) => status >= 400,
            Self::Failed(_) => true,
        }
    }

    /// The status, if there was a whole response.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::Response(status) => Some(status),
            Self::Failed(_) => None,
        }
    }

    /// What the sender may believe about its write. `sent` is whether any byte of the request left.
    pub(super) fn fate(self, acknowledgement: Acknowledgement, sent: bool) -> Fate {
        match self {
            Self::Response(202) => Fate::Acknowledged,
            Self::Response(200..=299) if acknowledgement == Acknowledgement::Success => Fate::Acknowledged,
            // The contract: an error means "not accepted". Of the 5xx only 503 is certainly the service's own
            // word; the others may come from a proxy that gave up on a request it had already passed on.
            Self::Response(400..=499 | 503) => Fate::Refused,
            Self::Response(_) => Fate::Unknown,
            Self::Failed(_) if sent => Fate::Unknown,
            Self::Failed(_) => Fate::NotSent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_to_fates() {
        use Acknowledgement::{Accepted, Success};
        for (status, acknowledgement, fate) in [
            (202, Accepted, Fate::Acknowledged),
            (200, Accepted, Fate::Unknown),
            (200, Success, Fate::Acknowledged),
            (204, Success, Fate::Acknowledged),
            (302, Success, Fate::Unknown),
            (400, Accepted, Fate::Refused),
            (429, Accepted, Fate::Refused),
            (503, Accepted, Fate::Refused),
            (500, Accepted, Fate::Unknown),
            (502, Accepted, Fate::Unknown),
            (504, Accepted, Fate::Unknown),
        ] {
            assert_eq!(Outcome::Response(status).fate(acknowledgement, true), fate, "{status}");
        }
    }

    #[test]
    fn a_failure_before_the_first_byte_was_not_sent() {
        for failure in Failure::ALL {
            assert_eq!(Outcome::Failed(failure).fate(Acknowledgement::Accepted, false), Fate::NotSent);
            assert_eq!(Outcome::Failed(failure).fate(Acknowledgement::Accepted, true), Fate::Unknown);
        }
    }

    #[test]
    fn names_and_codes_are_unique() {
        let names: std::collections::BTreeSet<_> = Failure::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Failure::ALL.len());
        let codes: Vec<_> = Failure::ALL.iter().filter_map(|f| f.k6_code()).collect();
        assert_eq!(codes.iter().collect::<std::collections::BTreeSet<_>>().len(), codes.len());
    }

    #[test]
    fn errors_of_the_socket_map_to_classes() {
        use Failure::*;
        for (errno, connecting, established) in [
            (Errno::ECONNREFUSED, Refused, Io),
            (Errno::ETIMEDOUT, ConnectTimeout, ResponseTimeout),
            (Errno::EADDRNOTAVAIL, NoFreePort, Io),
            (Errno::EMFILE, TooManyFiles, Io),
            (Errno::ENFILE, TooManyFiles, Io),
            (Errno::ECONNRESET, Reset, Reset),
            (Errno::EPIPE, ConnectFailed, BrokenPipe),
            (Errno::EHOSTUNREACH, ConnectFailed, Io),
            (Errno::ENETUNREACH, ConnectFailed, Io),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(Failure::of_connect(&error), connecting, "{errno}");
            assert_eq!(Failure::of_established(&error), established, "{errno}");
        }
    }

    #[test]
    fn only_statuses_from_400_fail() {
        assert!(!Outcome::Response(200).failed() && !Outcome::Response(399).failed());
        assert!(Outcome::Response(400).failed() && Outcome::Failed(Failure::Eof).failed());
    }
}
