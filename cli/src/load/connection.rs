//! One user's connection: connecting, sending, receiving, idle. It knows sockets and the protocol; when the next
//! request is due and what is recorded is others' business.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock::{Clock, Nanos};
use super::exchange::{Exchange, Times};
use super::outcome::{Failure, Outcome};
use super::plan::Target;
use super::response::{Fed, ResponseParser};
use super::scenario::{Job, RequestSource};

/// What a thread's connections share.
pub(super) struct Io<'a> {
    pub(super) epoll: Epoll,
    pub(super) clock: Clock,
    pub(super) target: &'a Target,
    pub(super) source: RequestSource,
    /// Received bytes pass through here and are gone.
    pub(super) buffer: Box<[u8]>,
}

/// A body that keeps the buffer full yields to other users after so many reads.
const MAX_READS_AT_ONCE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Connecting,
    Sending,
    Receiving,
}

/// What a call came to.
#[derive(Debug)]
pub(super) enum Step {
    /// The next event will tell.
    Pending,
    /// There may be more to read: call [`Connection::resume`] soon, since no event will come for it.
    Again,
    Done(Exchange),
}

enum Read {
    Pending,
    Again,
    Ended(Outcome),
}

#[derive(Debug)]
pub(super) struct Connection {
    /// The user's index in the whole run.
    user: u32,
    /// The user's index in its thread; part of the epoll token.
    slot: u32,
    /// Tells events of this socket from those of an earlier one.
    generation: u32,
    stream: Option<TcpStream>,
    stage: Stage,
    /// Which address to use, and how many this request has tried.
    address: usize,
    tried: usize,
    parser: ResponseParser,
    job: Job,
    sent: usize,
    received: u64,
    /// The peer has closed or reset; reading must go on to the end of what is there.
    hung_up: bool,
    reusable: bool,
    times: Times,
}

impl Connection {
    pub(super) fn new(user: u32, slot: u32, target: &Target) -> Self {
        Self {
            user,
            slot,
            generation: 0,
            stream: None,
            stage: Stage::Idle,
            address: user as usize % target.preferred(),
            tried: 0,
            parser: ResponseParser::new(false),
            job: Job::default(),
            sent: 0,
            received: 0,
            hung_up: false,
            reusable: false,
            times: Times::default(),
        }
    }

    pub(super) fn user(&self) -> u32 {
        self.user
    }

    /// The slot and the generation that an event's token names.
    pub(super) fn parse_token(token: u64) -> (u32, u32) {
        (token as u32, (token >> 32) as u32)
    }

    pub(super) fn is_generation(&self, generation: u32) -> bool {
        self.generation == generation
    }

    /// Starts a request.
    pub(super) fn begin(&mut self, io: &mut Io<'_>, job: Job, intended: Nanos, now: Nanos) -> Step {
        debug_assert_eq!(self.stage, Stage::Idle, "one request at a time");
        self.times = Times { intended, started: now, ..Times::default() };
        self.sent = 0;
        self.received = 0;
        self.reusable = false;
        self.job = job;
        let (to_head, needle) = io.source.expectation(job.step);
        self.parser.reset(to_head, needle);
        if self.stream.is_some() {
            self.times.connected = Some(now);
            self.send(io)
        } else {
            self.tried = 0;
            self.times.connect_started = Some(now);
            self.connect(io)
        }
    }

    /// Something happened on the socket.
    pub(super) fn on_event(&mut self, io: &mut Io<'_>, flags: EpollFlags) -> Step {
        const HUNG_UP: EpollFlags =
            EpollFlags::EPOLLRDHUP.union(EpollFlags::EPOLLHUP).union(EpollFlags::EPOLLERR);
        if self.stream.is_none() {
            return Step::Pending;
        }
        let hung_up = flags.intersects(HUNG_UP);
        let readable = hung_up || flags.contains(EpollFlags::EPOLLIN);
        match self.stage {
            Stage::Idle => {
                // The server has closed the idle connection, or spoke unasked: the next request makes a new one.
                if readable {
                    self.disconnect();
                }
                Step::Pending
            }
            Stage::Connecting => self.on_connect_event(io, flags),
            Stage::Sending | Stage::Receiving => {
                self.hung_up |= hung_up;
                let step = if readable { self.receive(io) } else { Step::Pending };
                match step {
                    Step::Pending if self.stage == Stage::Sending && flags.contains(EpollFlags::EPOLLOUT) => {
                        self.send(io)
                    }
                    step => step,
                }
            }
        }
    }

    /// Goes on after [`Step::Again`].
    pub(super) fn resume(&mut self, io: &mut Io<'_>) -> Step {
        match self.stage {
            Stage::Sending | Stage::Receiving if self.stream.is_some() => self.receive(io),
            _ => Step::Pending,
        }
    }

    /// Gives the request up because its time is over. Must not be called on an idle connection.
    pub(super) fn expire(&mut self, io: &Io<'_>) -> Exchange {
        let failure =
            if self.times.connected.is_none() { Failure::ConnectTimeout } else { Failure::ResponseTimeout };
        self.end(io, Outcome::Failed(failure))
    }

    /// Gives the request up because the run is over. `None` if there was none, else whether any of it was sent.
    pub(super) fn abort(&mut self) -> Option<bool> {
        if self.stage == Stage::Idle {
            return None;
        }
        self.stage = Stage::Idle;
        self.disconnect();
        Some(self.sent > 0)
    }

    fn connect(&mut self, io: &mut Io<'_>) -> Step {
        loop {
            match self.open(io) {
                Ok(true) => return self.established(io),
                Ok(false) => {
                    self.stage = Stage::Connecting;
                    return Step::Pending;
                }
                Err(error) => {
                    if !self.next_address(io) {
                        return Step::Done(self.end(io, Outcome::Failed(Failure::of_connect(&error))));
                    }
                }
            }
        }
    }

    /// Opens a socket; returns whether it is connected already.
    fn open(&mut self, io: &Io<'_>) -> io::Result<bool> {
        let address = io.target.addresses[self.address];
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        let connected = match socket.connect(&address.into()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => false,
            Err(error) => return Err(error),
        };
        self.generation = self.generation.wrapping_add(1);
        let token = u64::from(self.generation) << 32 | u64::from(self.slot);
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        io.epoll.add(&socket, EpollEvent::new(interest, token))?;
        self.stream = Some(TcpStream::from(socket));
        self.hung_up = false;
        Ok(connected)
    }

    fn on_connect_event(&mut self, io: &mut Io<'_>, flags: EpollFlags) -> Step {
        let failed = match self.stream.as_ref().map(TcpStream::take_error) {
            Some(Ok(Some(error)) | Err(error)) => Some(error),
            _ => None,
        };
        if let Some(error) = failed {
            self.disconnect();
            return if self.next_address(io) {
                self.connect(io)
            } else {
                Step::Done(self.end(io, Outcome::Failed(Failure::of_connect(&error))))
            };
        }
        if flags.contains(EpollFlags::EPOLLOUT) { self.established(io) } else { Step::Pending }
    }

    /// Moves on to the next address; false once this request has tried all of them.
    fn next_address(&mut self, io: &Io<'_>) -> bool {
        let addresses = io.target.addresses.len();
        self.address = (self.address + 1) % addresses;
        self.tried += 1;
        self.tried < addresses
    }

    fn established(&mut self, io: &mut Io<'_>) -> Step {
        self.times.connected = Some(io.clock.now());
        self.send(io)
    }

    fn send(&mut self, io: &mut Io<'_>) -> Step {
        self.stage = Stage::Sending;
        let request = io.source.render(self.user, self.job);
        while let Some(mut stream) = self.stream.as_ref() {
            match stream.write(&request[self.sent..]) {
                Ok(written) => {
                    self.sent += written;
                    if self.sent == request.len() {
                        self.times.sent = Some(io.clock.now());
                        self.stage = Stage::Receiving;
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // The server may have answered, such as with 413, before it closed.
                    self.hung_up = true;
                    let outcome = match self.read(io) {
                        Read::Ended(outcome @ Outcome::Response(_)) => outcome,
                        _ => Outcome::Failed(Failure::of_established(&error)),
                    };
                    return Step::Done(self.end(io, outcome));
                }
            }
        }
        Step::Pending
    }

    fn receive(&mut self, io: &mut Io<'_>) -> Step {
        match self.read(io) {
            Read::Pending => Step::Pending,
            Read::Again => Step::Again,
            Read::Ended(outcome) => Step::Done(self.end(io, outcome)),
        }
    }

    fn read(&mut self, io: &mut Io<'_>) -> Read {
        let Some(mut stream) = self.stream.as_ref() else { return Read::Pending };
        for _ in 0..MAX_READS_AT_ONCE {
            let count = match stream.read(&mut io.buffer) {
                Ok(0) if self.parser.close() => return Read::Ended(Outcome::Response(self.parser.status())),
                Ok(0) => return Read::Ended(Outcome::Failed(Failure::Eof)),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Read::Pending,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Read::Ended(Outcome::Failed(Failure::of_established(&error))),
            };
            if self.times.first_byte.is_none() {
                self.times.first_byte = Some(io.clock.now());
            }
            self.received += count as u64;
            match self.parser.feed(&io.buffer[..count]) {
                Err(_) => return Read::Ended(Outcome::Failed(Failure::Malformed)),
                Ok(Fed::Complete { rest }) => {
                    // What is left over was not asked for, and a request not sent whole would garble the next.
                    let in_step = rest == 0 && self.stage == Stage::Receiving;
                    self.reusable = in_step && self.parser.keep_alive() && !self.hung_up;
                    return Read::Ended(Outcome::Response(self.parser.status()));
                }
                // A read that does not fill the buffer has emptied the socket (epoll(7)); more comes as an event.
                Ok(Fed::More) if count < io.buffer.len() && !self.hung_up => return Read::Pending,
                Ok(Fed::More) => {}
            }
        }
        Read::Again
    }

    fn end(&mut self, io: &Io<'_>, outcome: Outcome) -> Exchange {
        self.times.ended = io.clock.now();
        if !self.reusable {
            self.disconnect();
        }
        if self.times.connected.is_none() && self.tried < io.target.addresses.len() {
            // A connection that timed out: let the next request try another address.
            self.address = (self.address + 1) % io.target.addresses.len();
        }
        self.stage = Stage::Idle;
        Exchange {
            times: self.times,
            outcome,
            bytes_sent: self.sent as u64,
            bytes_received: self.received,
            body_has: self.parser.body_has(),
        }
    }

    /// Closing removes the socket from epoll, too, since nothing else holds it.
    fn disconnect(&mut self) {
        self.stream = None;
    }
}
