//! One finished request: what became of it and when each of its stages was reached.

use super::clock::Nanos;
use super::outcome::Outcome;

/// The stages of a request, on the run's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// When the pacer wanted it to start.
    pub(super) intended: Nanos,
    /// When the generator turned to it.
    pub(super) started: Nanos,
    /// The start of the connection, if there had to be a new one.
    pub(super) connect_started: Option<Nanos>,
    /// When there was a connection of TCP.
    pub(super) tcp_connected: Option<Nanos>,
    /// When there was a connection to send on: after the TLS handshake, if there is one.
    pub(super) connected: Option<Nanos>,
    /// When the last byte of the request was handed to the kernel.
    pub(super) sent: Option<Nanos>,
    /// When the first byte of the response arrived.
    pub(super) first_byte: Option<Nanos>,
    /// 0 until it is over.
    pub(super) ended: Nanos,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) times: Times,
    pub(super) outcome: Outcome,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// The body has the text that the step's check asks for.
    pub(super) body_has: bool,
}

/// The stages as k6 names and delimits them (k6, `lib/netext/httpext/tracer.go`, `Tracer.Done`), in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stages {
    pub(super) blocked: Nanos,
    /// TCP alone.
    pub(super) connecting: Nanos,
    pub(super) tls_handshaking: Nanos,
    pub(super) sending: Nanos,
    pub(super) waiting: Nanos,
    pub(super) receiving: Nanos,
}

impl Stages {
    /// k6's `http_req_duration`.
    pub(super) fn duration(self) -> Nanos {
        self.sending + self.waiting + self.receiving
    }
}

impl Times {
    pub(super) fn stages(&self) -> Stages {
        let since = |from: Option<Nanos>, to: Nanos| from.map_or(0, |from| to.saturating_sub(from));
        Stages {
            blocked: self.connected.map_or(0, |connected| connected.saturating_sub(self.started)),
            connecting: self.tcp_connected.map_or(0, |connected| since(self.connect_started, connected)),
            tls_handshaking: self.connected.map_or(0, |connected| since(self.tcp_connected, connected)),
            sending: self.sent.map_or(0, |sent| since(self.connected, sent)),
            // A request that is never answered waits until it is given up.
            waiting: since(self.sent, self.first_byte.unwrap_or(self.ended)),
            receiving: since(self.first_byte, self.ended),
        }
    }

    /// `http_req_total_duration`: from the intended start, whatever the outcome.
    pub(super) fn total(&self) -> Nanos {
        self.ended.saturating_sub(self.intended)
    }

    /// `loadgen_lag`.
    pub(super) fn lag(&self) -> Nanos {
        self.started.saturating_sub(self.intended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_k6s() {
        let fresh = Times {
            intended: 5,
            started: 10,
            connect_started: Some(11),
            tcp_connected: Some(22),
            connected: Some(30),
            sent: Some(34),
            first_byte: Some(60),
            ended: 70,
        };
        let stages = |blocked, connecting, tls_handshaking, sending, waiting, receiving| Stages {
            blocked,
            connecting,
            tls_handshaking,
            sending,
            waiting,
            receiving,
        };
        assert_eq!((fresh.total(), fresh.lag(), fresh.stages().duration()), (65, 5, 40));
        for (times, expected) in [
            (fresh, stages(20, 11, 8, 4, 26, 10)),
            (
                Times { connect_started: None, tcp_connected: None, connected: Some(10), ..fresh },
                stages(0, 0, 0, 24, 26, 10),
            ),
            // No TLS.
            (Times { connected: Some(22), ..fresh }, stages(12, 11, 0, 12, 26, 10)),
            // Never answered.
            (Times { first_byte: None, ..fresh }, stages(20, 11, 8, 4, 36, 0)),
            // Answered before it was sent whole.
            (Times { sent: None, ..fresh }, stages(20, 11, 8, 0, 0, 10)),
            // Not sent whole, not answered.
            (Times { sent: None, first_byte: None, ..fresh }, stages(20, 11, 8, 0, 0, 0)),
            // The handshake failed.
            (Times { connected: None, sent: None, first_byte: None, ..fresh }, stages(0, 11, 0, 0, 0, 0)),
            // Never connected.
            (
                Times { tcp_connected: None, connected: None, sent: None, first_byte: None, ..fresh },
                stages(0, 0, 0, 0, 0, 0),
            ),
        ] {
            assert_eq!(times.stages(), expected, "{times:?}");
        }
    }
}
