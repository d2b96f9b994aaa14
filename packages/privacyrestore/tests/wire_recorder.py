"""A tap of loopback TCP: sits before a server, keeps every byte, and breaks things when asked."""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

CHUNK = 65536


@dataclass(frozen=True)
class Answer:
    """The recorder answers itself; the server never sees the request."""

    status: int
    body: bytes = b'{"error": {"message": "an injected fault", "type": "server_error"}}'
    headers: tuple[tuple[str, str], ...] = ()

    def raw(self):
        fields = {"content-type": "application/json", "content-length": str(len(self.body))}
        fields |= dict(self.headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {self.status} Injected\r\n{head}\r\n".encode() + self.body


@dataclass(frozen=True)
class CutRequest:
    """The connection ends after so many bytes of the request; the server never sees it."""

    after: int


@dataclass(frozen=True)
class CutResponse:
    """The connection ends after so many bytes of the answer."""

    after: int


@dataclass(frozen=True)
class Garble:
    """From this byte of the answer on, every byte is another one."""

    after: int


Fault = Answer | CutRequest | CutResponse | Garble


@dataclass
class Exchange:
    """One request and what came back for it, both as they were on the wire, headers included."""

    sent: bytes
    received: bytearray = field(default_factory=bytearray)
    fault: Fault | None = None
    client_left: bool = False

    @property
    def head(self):
        return self.sent.partition(b"\r\n\r\n")[0]

    @property
    def body(self):
        return self.sent.partition(b"\r\n\r\n")[2]

    @property
    def path(self):
        return self.head.split(b" ", 2)[1].decode()


class WireRecorder:
    """Passes bytes between clients and `upstream` (a host and a port), and keeps all of them.

    `exchanges` are the whole requests in the order in which they began; `sent` is everything that
    any client ever wrote, requests that were cut off included.
    """

    def __init__(self, upstream):
        self.upstream = upstream
        self.exchanges: list[Exchange] = []
        self.sent = bytearray()
        self._faults: deque[Fault | None] = deque()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        assert not any(thread.is_alive() for thread in self._threads)

    def inject(self, *faults):
        """What the next requests meet, one each; None lets one pass."""
        with self._lock:
            self._faults.extend(faults)

    def await_client_left(self, exchange, seconds=10.0):
        """Whether the client ended that request's connection within the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not exchange.client_left:
            time.sleep(0.01)
        return exchange.client_left

    def _start(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                self._start(self._pass_on, self._listener.accept()[0])

    def _pass_on(self, client):
        with client, socket.socket() as server, contextlib.suppress(ConnectionError, OSError):
            server.connect(self.upstream)
            _Connection(self, client, server).run()

    def _next_fault(self):
        with self._lock:
            return self._faults.popleft() if self._faults else None


class _Connection:
    def __init__(self, recorder, client, server):
        self.recorder, self.client, self.server = recorder, client, server
        self.waiting = bytearray()  # of a request that is not whole yet
        self.exchange = None
        self.fault_known = False
        self.fault = None

    def run(self):
        while not self.recorder._ending.is_set():
            for ready in select.select([self.client, self.server], [], [], 0.05)[0]:
                data = ready.recv(CHUNK)
                keep = self.from_client(data) if ready is self.client else self.from_server(data)
                if not keep:
                    return

    def from_client(self, data):
        if not data:
            if self.exchange is not None:
                self.exchange.client_left = True
            return False
        with self.recorder._lock:
            self.recorder.sent += data
        self.waiting += data
        if not self.fault_known:
            self.fault, self.fault_known = self.recorder._next_fault(), True
        if isinstance(self.fault, CutRequest) and len(self.waiting) >= self.fault.after:
            return False
        if (size := whole_request(self.waiting)) is None:
            return True
        request, self.waiting = bytes(self.waiting[:size]), self.waiting[size:]
        self.exchange = Exchange(request, fault=self.fault)
        self.fault_known = False
        with self.recorder._lock:
            self.recorder.exchanges.append(self.exchange)
        if isinstance(self.fault, Answer):
            self.exchange.received += self.fault.raw()
            self.client.sendall(self.fault.raw())
        else:
            self.server.sendall(request)
        return True

    def from_server(self, data):
        if not data or self.exchange is None:
            return False
        before, fault = len(self.exchange.received), self.exchange.fault
        if isinstance(fault, Garble):
            clean = max(0, fault.after - before)
            data = data[:clean] + bytes(byte ^ 0x15 for byte in data[clean:])
        if isinstance(fault, CutResponse):
            data = data[: max(0, fault.after - before)]
        self.exchange.received += data
        self.client.sendall(data)
        return not (isinstance(fault, CutResponse) and len(self.exchange.received) >= fault.after)


def whole_request(data):
    """The length of the request that `data` begins with, or None where it is not whole yet."""
    head, end, body = bytes(data).partition(b"\r\n\r\n")
    if not end:
        return None
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    if fields.get(b"transfer-encoding") == b"chunked":
        at = 0
        while True:
            line, found, _ = body[at:].partition(b"\r\n")
            if not found:
                return None
            size = int(line.partition(b";")[0], 16)
            at += len(line) + 2 + size + 2
            if at > len(body):
                return None
            if size == 0:
                return len(head) + 4 + at
    size = len(head) + 4 + int(fields.get(b"content-length", 0))
    return size if len(data) >= size else None
