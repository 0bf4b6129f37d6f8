"""Counts a database's operations from outside: a proxy between client and server that reads MongoDB's wire protocol.

Each command has the time at which the kernel received its first bytes, so a proxy that gets no processor for a while
does not push operations together that came apart.
"""

import bisect
import socket
import struct
import threading
import time

# Of connections, not of data.
UPKEEP = {"hello", "ismaster", "ping", "buildinfo", "endsessions", "saslstart", "saslcontinue", "logout", "killcursors"}
WRITES = {"insert", "update"}
OP_MSG = 2013
# Linux's SO_TIMESTAMPNS, which Python does not name; its message holds a timespec.
SO_TIMESTAMPNS = 35
PIECE = 1 << 20
LARGEST_MESSAGE = 48_000_000


class Closed(Exception):
    """The other side is gone."""


def receive(sock, count):
    """So many bytes, and when the first of them came, in ns."""
    first = None
    data = bytearray()
    while len(data) < count:
        piece, extra, _, _ = sock.recvmsg(min(count - len(data), PIECE), 64)
        if not piece:
            raise Closed
        if first is None:
            first = next((kernel_ns(data) for _, kind, data in extra if kind == SO_TIMESTAMPNS), time.time_ns())
        data += piece
    return data, first


def kernel_ns(data):
    seconds, nanos = struct.unpack("qq", data[:16])
    return seconds * 1_000_000_000 + nanos


def message(sock):
    header, came_ns = receive(sock, 16)
    length, _, _, kind = struct.unpack("<iiii", header)
    if not 16 <= length <= LARGEST_MESSAGE:
        raise Closed
    return header + receive(sock, length - 16)[0], kind, came_ns


def body_of(text):
    """Where the document begins that names the command."""
    at = 20
    while text[at] == 1:
        at += 1 + struct.unpack_from("<i", text, at + 1)[0]
    return at + 1


def command_of(text):
    name = body_of(text) + 5
    return text[name : text.index(0, name)].decode().lower()


def written(text):
    """`n` of the answer to a write."""
    for mark, form in ((b"\x10n\0", "<i"), (b"\x12n\0", "<q"), (b"\x01n\0", "<d")):
        at = text.find(mark)
        if at >= 0:
            return int(struct.unpack_from(form, text, at + len(mark))[0])
    return 0


class Proxy:
    """`commands` are (ns, name) of all but upkeep, `stored` (ns of the answer, documents, ns of the command) of writes."""

    def __init__(self, server_port):
        self.server_port = server_port
        self.commands, self.stored, self.sockets = [], [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in [self.listener, *self.sockets]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                return
            for sock in (client, server):
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets += [client, server]
            last = ["", 0]
            for way in (self.forth, self.back):
                threading.Thread(target=self.carry, args=(way, client, server, last), daemon=True).start()

    def carry(self, way, client, server, last):
        try:
            while True:
                way(client, server, last)
        except (Closed, OSError):
            for sock in (client, server):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def forth(self, client, server, last):
        text, kind, came_ns = message(client)
        # Older kinds open a connection, and no more.
        last[:] = command_of(text) if kind == OP_MSG else "hello", came_ns
        if last[0] not in UPKEEP:
            self.commands.append((came_ns, last[0]))
        server.sendall(text)

    def back(self, client, server, last):
        text, _, came_ns = message(server)
        if last[0] in WRITES:
            self.stored.append((came_ns, written(text), last[1]))
        client.sendall(text)

    def most_in_a_second(self):
        times = sorted(ns for ns, _ in self.commands)
        return max((bisect.bisect_left(times, ns + 1_000_000_000) - at for at, ns in enumerate(times)), default=0)

    def steady(self, skip_s):
        """Of the answers after the first seconds, but the last: documents a second, documents an operation, and the part of
        the time in which the database had one to do."""
        answers = sorted(self.stored)
        begin = answers[0][0] + skip_s * 1_000_000_000
        part = [answer for answer in answers if answer[0] >= begin][:-1]
        if len(part) < 3:
            return None
        documents = sum(count for _, count, _ in part[1:])
        took_ns, busy_ns = part[-1][0] - part[0][0], sum(end - start for end, _, start in part[1:])
        return documents / took_ns * 1e9, documents / (len(part) - 1), busy_ns / took_ns
