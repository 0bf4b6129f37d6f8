//! The bytes of a connection, plain or through TLS, on a socket that never blocks. An enum rather than a trait
//! object: plain HTTP/1.1 pays one predicted branch a call.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

/// An established stream of bytes.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// TLS over a non-blocking socket.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: TcpStream,
    session: ClientConnection,
    /// The last receive left the socket empty, and no event has come since.
    drained: bool,
    /// The peer has closed or reset: no event will come any more, so reading goes on to the end.
    hung_up: bool,
}

impl Transport {
    /// The socket has news: what an earlier read found does not hold any longer.
    pub(super) fn on_readable(&mut self, hung_up: bool) {
        if let Self::Tls(tls) = self {
            tls.on_readable(hung_up);
        }
    }

    /// Whether a read that gave `count` bytes of `room` has emptied the socket, so that more comes as an event
    /// (epoll(7)).
    pub(super) fn is_drained(&self, count: usize, room: usize) -> bool {
        match self {
            Self::Plain(_) => count < room,
            // The session holds no more plaintext, and the socket no more records.
            Self::Tls(tls) => count < room && tls.drained,
        }
    }

    /// What came while nobody had asked for anything: true if it is of TLS's own concern, such as a session ticket.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => {
                matches!(tls.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
            }
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(|session| session.writer().write(bytes), bytes.is_empty()),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            Self::Tls(tls) => {
                let empty = slices.iter().all(|slice| slice.is_empty());
                tls.write(|session| session.writer().write_vectored(slices), empty)
            }
        }
    }

    /// Hands what TLS still holds to the kernel; nothing to do for a plain socket.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl TlsStream {
    /// # Errors
    /// The configuration allows no protocol version at all.
    pub(super) fn new(
        socket: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self { socket, session: ClientConnection::new(config, name)?, drained: false, hung_up: false })
    }

    /// The socket has news; `hung_up`: the last there will be.
    pub(super) fn on_readable(&mut self, hung_up: bool) {
        self.drained = false;
        self.hung_up |= hung_up;
    }

    /// The protocol that ALPN agreed on.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Goes on with the handshake; true once it is done. The client's last flight may then still be held here: it
    /// leaves with the first request.
    ///
    /// # Errors
    /// Of the socket, or a [`rustls::Error`] within.
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        while self.session.is_handshaking() {
            match self.flush().and_then(|()| self.receive()) {
                Ok(true) => {}
                Ok(false) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes records from the socket; false at its end.
    fn receive(&mut self) -> io::Result<bool> {
        if self.drained {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut tap = Tap { socket: &self.socket, drained: false };
        let count = loop {
            match self.session.read_tls(&mut tap) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.drained = tap.drained && !self.hung_up && !matches!(count, Ok(0));
        let count = count?;
        if let Err(error) = self.session.process_new_packets() {
            // Tell the peer why, if it still listens; the error stands either way.
            let _ = self.flush();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(count > 0)
    }

    /// Plaintext; 0 is the proper end (close_notify), a socket that just ends is `UnexpectedEof`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.receive()?;
            if self.session.wants_write() {
                // An answer of TLS's own; if the socket is full, it leaves with what is written next.
                let _ = self.flush();
            }
        }
    }

    /// Encrypts what fits; the socket gets it with [`Self::flush`], or when no more fits.
    fn write(
        &mut self,
        mut accept: impl FnMut(&mut ClientConnection) -> io::Result<usize>,
        empty: bool,
    ) -> io::Result<usize> {
        loop {
            match accept(&mut self.session)? {
                0 if !empty => self.flush()?,
                count => return Ok(count),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut &self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A polite end, as far as the socket takes it: servers log a missing close_notify as an attack.
impl Drop for TlsStream {
    fn drop(&mut self) {
        if !self.session.is_handshaking() {
            self.session.send_close_notify();
            let _ = self.flush();
        }
    }
}

/// Notes whether a receive has emptied the socket.
struct Tap<'a> {
    socket: &'a TcpStream,
    drained: bool,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.socket.read(buffer);
        self.drained = match &result {
            Ok(count) => *count < buffer.len(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        result
    }
}
