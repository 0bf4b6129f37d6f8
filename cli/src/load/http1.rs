//! The client's side of one HTTP/1.1 connection: bytes out as they were rendered, the response parsed where it
//! lies.

use std::io::{ErrorKind, Read as _, Write as _};

use super::client::{Progress, Ready, Resources};
use super::exchange::Times;
use super::outcome::{Failure, Outcome};
use super::response::{Fed, ResponseParser};
use super::scenario::Expectation;
use super::set_cookies::SetCookies;
use super::transport::Transport;

/// A body that keeps the buffer full yields to other users after so many reads.
const MAX_READS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub(super) struct Http1 {
    transport: Transport,
    parser: ResponseParser,
    sent: usize,
    received: u64,
    sending: bool,
    /// The peer has closed or reset; reading must go on to the end of what is there.
    hung_up: bool,
    reusable: bool,
}

impl Http1 {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            parser: ResponseParser::new(),
            sent: 0,
            received: 0,
            sending: false,
            hung_up: false,
            reusable: false,
        }
    }

    /// Makes ready for the next request.
    pub(super) fn begin(&mut self, expectation: Expectation) {
        self.parser.reset(expectation.to_head, expectation.needle);
        if expectation.cookies {
            self.parser.collect_cookies();
        }
        self.sent = 0;
        self.received = 0;
        self.sending = true;
        self.reusable = false;
    }

    /// Sends what is left of the request.
    pub(super) fn send(
        &mut self,
        request: &[u8],
        resources: &mut Resources<'_>,
        times: &mut Times,
    ) -> Progress {
        loop {
            // TLS may hold the end of the request back until the socket takes it.
            let accepted = self.sent == request.len();
            let result = if accepted {
                self.transport.flush().map(|()| 0)
            } else {
                self.transport.write(&request[self.sent..])
            };
            match result {
                Ok(_) if accepted => {
                    times.sent = Some(resources.clock.now());
                    self.sending = false;
                    return Progress::Pending;
                }
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // The server may have answered, such as with 413, before it closed, and no event has told yet.
                    self.hung_up = true;
                    self.transport.on_readable(true);
                    return match self.read(resources, times) {
                        Progress::Ended(outcome @ Outcome::Response(_)) => Progress::Ended(outcome),
                        _ => Progress::Ended(Outcome::Failed(Failure::of_established(&error))),
                    };
                }
            }
        }
    }

    pub(super) fn on_ready(
        &mut self,
        ready: Ready,
        resources: &mut Resources<'_>,
        times: &mut Times,
    ) -> Progress {
        self.hung_up |= ready.hung_up;
        if !ready.readable {
            return Progress::Pending;
        }
        self.transport.on_readable(ready.hung_up);
        self.read(resources, times)
    }

    /// Something came between two requests; true if the connection can still be used.
    pub(super) fn on_idle(&mut self, ready: Ready) -> bool {
        if !ready.readable {
            return true;
        }
        // The server has closed the connection, or spoke unasked: the next request makes a new one.
        self.transport.on_readable(ready.hung_up);
        !ready.hung_up && self.transport.is_quiet()
    }

    pub(super) fn body_has(&self) -> bool {
        self.parser.body_has()
    }

    /// What the response has set so far.
    pub(super) fn cookies(&self) -> Option<&SetCookies> {
        self.parser.cookies()
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// Of this request: bytes sent and received, TLS's own framing left out.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent as u64, self.received)
    }

    /// Reads until the response is complete or the socket empty.
    fn read(&mut self, resources: &mut Resources<'_>, times: &mut Times) -> Progress {
        for _ in 0..MAX_READS_AT_ONCE {
            let count = match self.transport.read(resources.buffer) {
                Ok(0) if self.parser.close() => {
                    return Progress::Ended(Outcome::Response(self.parser.status()));
                }
                Ok(0) => return Progress::Ended(Outcome::Failed(Failure::Eof)),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Progress::Ended(Outcome::Failed(Failure::of_established(&error))),
            };
            // Of the first read, its time is that of all that it brought.
            let first = times.first_byte.is_none().then(|| resources.clock.now());
            times.first_byte = times.first_byte.or(first);
            self.received += count as u64;
            match self.parser.feed(&resources.buffer[..count], resources.memo) {
                Err(_) => return Progress::Ended(Outcome::Failed(Failure::Malformed)),
                Ok(Fed::Complete { rest }) => {
                    times.ended = first.unwrap_or_else(|| resources.clock.now());
                    // What is left over was not asked for, and a request not sent whole would garble the next.
                    let in_step = rest == 0 && !self.sending;
                    self.reusable = in_step && self.parser.keep_alive() && !self.hung_up;
                    return Progress::Ended(Outcome::Response(self.parser.status()));
                }
                Ok(Fed::More)
                    if self.transport.is_drained(count, resources.buffer.len()) && !self.hung_up =>
                {
                    return Progress::Pending;
                }
                Ok(Fed::More) => {}
            }
        }
        Progress::Again
    }
}
