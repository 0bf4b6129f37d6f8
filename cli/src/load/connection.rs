//! One user's connection: connecting, the TLS handshake, then a protocol client. When the next request is due and
//! what is recorded are others' business.

use std::io;
use std::net::TcpStream;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Client, Progress, Ready, Resources};
use super::clock::{Clock, Nanos};
use super::connecting::{Connecting, HttpVersion};
use super::cookies::Jar;
use super::exchange::{Exchange, Times};
use super::head::HeadMemo;
use super::http1::Http1;
use super::http2::Http2;
use super::outcome::{Failure, Outcome};
use super::plan::Target;
use super::scenario::{Job, RequestSource};
use super::tls;
use super::transport::{TlsStream, Transport};

/// What a thread's connections share.
pub(super) struct Io<'a> {
    pub(super) epoll: Epoll,
    pub(super) clock: Clock,
    pub(super) target: &'a Target,
    pub(super) connecting: &'a Connecting,
    pub(super) source: RequestSource,
    /// Received bytes pass through here and are gone.
    pub(super) buffer: Box<[u8]>,
    pub(super) memo: HeadMemo,
}

/// How far a connection has come.
#[derive(Debug)]
enum Link {
    Closed,
    Connecting(TcpStream),
    Handshaking(Box<TlsStream>),
    Open(Client),
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

#[derive(Debug)]
pub(super) struct Connection {
    /// The user's index in the whole run.
    user: u32,
    /// The user's index in its thread; part of the epoll token.
    slot: u32,
    /// Tells events of this socket from those of an earlier one.
    generation: u32,
    link: Link,
    /// A request is under way.
    busy: bool,
    /// Which address to use, and how many this request has tried.
    address: usize,
    tried: usize,
    job: Job,
    times: Times,
    /// `None` until the first request of a user who keeps cookies.
    cookies: Option<Box<Jar>>,
}

impl Connection {
    pub(super) fn new(user: u32, slot: u32, target: &Target, connecting: &Connecting) -> Self {
        Self {
            user,
            slot,
            generation: 0,
            link: Link::Closed,
            busy: false,
            address: connecting.first_remote(user, target.preferred()),
            tried: 0,
            job: Job::default(),
            times: Times::default(),
            cookies: None,
        }
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
        debug_assert!(!self.busy, "one request at a time");
        self.busy = true;
        self.job = job;
        self.times = Times { intended, started: now, ..Times::default() };
        if io.source.keeps_cookies() {
            self.begin_cookies(io);
        }
        if let Link::Open(client) = &mut self.link
            && client.begin(io.source.expectation(job.step))
        {
            self.times.connected = Some(now);
            return self.send(io);
        }
        self.link = Link::Closed;
        self.tried = 0;
        self.times.connect_started = Some(now);
        self.connect(io)
    }

    /// When the generator was last known to be at work on this user: the end of the send, if there was one.
    pub(super) fn sent_at(&self) -> Option<Nanos> {
        self.times.sent
    }

    /// Something happened on the socket.
    pub(super) fn on_event(&mut self, io: &mut Io<'_>, flags: EpollFlags) -> Step {
        const HUNG_UP: EpollFlags =
            EpollFlags::EPOLLRDHUP.union(EpollFlags::EPOLLHUP).union(EpollFlags::EPOLLERR);
        let hung_up = flags.intersects(HUNG_UP);
        let readable = hung_up || flags.contains(EpollFlags::EPOLLIN);
        self.on_readiness(io, Ready { readable, writable: flags.contains(EpollFlags::EPOLLOUT), hung_up })
    }

    fn on_readiness(&mut self, io: &mut Io<'_>, ready: Ready) -> Step {
        match &mut self.link {
            Link::Open(_) if self.busy => self.go_on(io, ready),
            Link::Open(client) => {
                if !client.on_idle(ready) {
                    self.link = Link::Closed;
                }
                Step::Pending
            }
            Link::Connecting(_) => self.on_connect_event(io, ready),
            Link::Handshaking(stream) => {
                stream.on_readable(ready.hung_up);
                self.shake_hands(io)
            }
            Link::Closed => Step::Pending,
        }
    }

    /// Goes on after [`Step::Again`].
    pub(super) fn resume(&mut self, io: &mut Io<'_>) -> Step {
        match self.link {
            Link::Open(_) if self.busy => {
                self.go_on(io, Ready { readable: true, writable: false, hung_up: false })
            }
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
        if !self.busy {
            return None;
        }
        let sent = self.bytes().0 > 0;
        self.busy = false;
        self.link = Link::Closed;
        Some(sent)
    }

    fn connect(&mut self, io: &mut Io<'_>) -> Step {
        loop {
            match self.open(io) {
                Ok((stream, true)) => return self.on_connected(io, stream),
                Ok((stream, false)) => {
                    self.link = Link::Connecting(stream);
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

    /// Opens a socket; returns it, and whether it is connected already.
    fn open(&mut self, io: &Io<'_>) -> io::Result<(TcpStream, bool)> {
        let address = io.target.addresses[self.address];
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        io.connecting.bind(&socket, self.user, address)?;
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
        Ok((TcpStream::from(socket), connected))
    }

    fn on_connect_event(&mut self, io: &mut Io<'_>, ready: Ready) -> Step {
        let Link::Connecting(stream) = std::mem::replace(&mut self.link, Link::Closed) else {
            return Step::Pending;
        };
        match stream.take_error() {
            Ok(None) if ready.writable => match self.on_connected(io, stream) {
                // What the server said first, or its end, may be told with the connection: no event tells it again.
                Step::Pending if ready.readable => self.on_readiness(io, ready),
                step => step,
            },
            Ok(None) => {
                self.link = Link::Connecting(stream);
                Step::Pending
            }
            Ok(Some(error)) | Err(error) => {
                drop(stream);
                if self.next_address(io) {
                    return self.connect(io);
                }
                Step::Done(self.end(io, Outcome::Failed(Failure::of_connect(&error))))
            }
        }
    }

    /// Moves on to the next address; false once this request has tried all of them.
    fn next_address(&mut self, io: &Io<'_>) -> bool {
        let addresses = io.target.addresses.len();
        self.address = (self.address + 1) % addresses;
        self.tried += 1;
        self.tried < addresses
    }

    fn on_connected(&mut self, io: &mut Io<'_>, stream: TcpStream) -> Step {
        let now = io.clock.now();
        self.times.tcp_connected = Some(now);
        let Some((config, name)) = io.connecting.tls() else {
            let transport = Transport::Plain(stream);
            return self.open_client(io, transport, io.connecting.http() == HttpVersion::Http2, now);
        };
        match TlsStream::new(stream, config, name) {
            Ok(stream) => {
                self.link = Link::Handshaking(Box::new(stream));
                self.shake_hands(io)
            }
            Err(_) => Step::Done(self.end(io, Outcome::Failed(Failure::TlsFailed))),
        }
    }

    fn shake_hands(&mut self, io: &mut Io<'_>) -> Step {
        let Link::Handshaking(mut stream) = std::mem::replace(&mut self.link, Link::Closed) else {
            return Step::Pending;
        };
        match stream.handshake() {
            Ok(true) => {
                let http2 = stream.protocol() == Some(tls::ALPN_HTTP2);
                if !http2 && io.connecting.http() == HttpVersion::Http2 {
                    return Step::Done(self.end(io, Outcome::Failed(Failure::TlsFailed)));
                }
                let now = io.clock.now();
                match self.open_client(io, Transport::Tls(stream), http2, now) {
                    // What came along with the end of the handshake is with TLS already, and no event tells of it.
                    Step::Pending => {
                        self.go_on(io, Ready { readable: true, writable: false, hung_up: false })
                    }
                    step => step,
                }
            }
            Ok(false) => {
                self.link = Link::Handshaking(stream);
                Step::Pending
            }
            Err(error) => Step::Done(self.end(io, Outcome::Failed(Failure::of_established(&error)))),
        }
    }

    fn open_client(&mut self, io: &mut Io<'_>, transport: Transport, http2: bool, now: Nanos) -> Step {
        self.times.connected = Some(now);
        let mut client = if http2 {
            Client::Http2(Box::new(Http2::new(transport, io.clock)))
        } else {
            Client::Http1(Http1::new(transport))
        };
        client.begin(io.source.expectation(self.job.step));
        self.link = Link::Open(client);
        self.send(io)
    }

    fn send(&mut self, io: &mut Io<'_>) -> Step {
        let Link::Open(client) = &mut self.link else { return Step::Pending };
        let request = match self.cookies.as_ref().and_then(|jar| jar.header()) {
            None => io.source.render(self.user, self.job),
            Some(cookies) => io.source.render_with(self.user, self.job, cookies),
        };
        let mut resources = Resources { clock: io.clock, buffer: &mut io.buffer, memo: &mut io.memo };
        let progress = client.send(request, &mut resources, &mut self.times);
        self.conclude(io, progress)
    }

    /// Decides which cookies go with the request; each iteration starts without any.
    fn begin_cookies(&mut self, io: &mut Io<'_>) {
        let jar = self.cookies.get_or_insert_default();
        if self.job.step == 0 {
            jar.clear();
        }
        jar.begin(io.target, io.source.render(self.user, self.job));
    }

    /// Goes on with a request after an event.
    fn go_on(&mut self, io: &mut Io<'_>, ready: Ready) -> Step {
        let Link::Open(client) = &mut self.link else { return Step::Pending };
        let mut resources = Resources { clock: io.clock, buffer: &mut io.buffer, memo: &mut io.memo };
        match client.on_ready(ready, &mut resources, &mut self.times) {
            Progress::Pending if client.wants_to_send(ready) => self.send(io),
            progress => self.conclude(io, progress),
        }
    }

    fn conclude(&mut self, io: &Io<'_>, progress: Progress) -> Step {
        match progress {
            Progress::Pending => Step::Pending,
            Progress::Again => Step::Again,
            Progress::Ended(outcome) => Step::Done(self.end(io, outcome)),
        }
    }

    fn end(&mut self, io: &Io<'_>, outcome: Outcome) -> Exchange {
        if self.times.ended == 0 {
            self.times.ended = io.clock.now();
        }
        let (bytes_sent, bytes_received) = self.bytes();
        if let (Some(jar), Link::Open(client)) = (&mut self.cookies, &self.link) {
            client.with_cookies(|set| jar.take(set));
        }
        let body_has = matches!(&self.link, Link::Open(client) if client.body_has());
        let answered = matches!(outcome, Outcome::Response(_));
        let reusable = answered && matches!(&self.link, Link::Open(client) if client.is_reusable());
        if !(reusable && io.connecting.reuse()) {
            // Closing removes the socket from epoll, too, since nothing else holds it.
            self.link = Link::Closed;
        }
        if self.times.connected.is_none() && self.tried < io.target.addresses.len() {
            // A connection that timed out: let the next request try another address.
            self.address = (self.address + 1) % io.target.addresses.len();
        }
        self.busy = false;
        Exchange { times: self.times, outcome, bytes_sent, bytes_received, body_has }
    }

    /// Sent and received for this request.
    fn bytes(&self) -> (u64, u64) {
        match &self.link {
            Link::Open(client) => client.bytes(),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand users of plain HTTP/1.1 shall fit into a few megabytes.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 384, "{}", size_of::<Connection>());
    }
}
