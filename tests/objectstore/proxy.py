"""A proxy on loopback that passes HTTP requests on, one a connection, and does to some what networks do.

Signatures cover the Host header, so it is passed on as the client sent it.
"""

import random
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

FAULTS = ("reset", "reset-request", "reset-answer", "cut-answer", "cut-head", "lose-answer", "busy", "slow")
"""reset: at once. reset-request, reset-answer: with half of the body passed on. cut-answer: half of the body, then an
orderly end. cut-head: the status line alone, then an orderly end. lose-answer: the server did it, the client hears
nothing. busy: 503 SlowDown. slow: in drips. More: stall: half of the answer's body, then nothing for ten seconds; "404
NoSuchUpload" or alike: that refusal; "404 Not Found", line end, text: that answer with this page."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: str


Plan = Callable[[Request], str | None]
"""Which fault a request gets."""


def first(number: int, fault: str, *methods: str) -> Plan:
    """`fault` for the first `number` requests of each of these methods, or of all together; then none."""
    made: Counter[str] = Counter()

    def plan(request: Request) -> str | None:
        if methods and request.method not in methods:
            return None
        kind = request.method if methods else ""
        made[kind] += 1
        return fault if made[kind] <= number else None

    return plan


def sometimes(seed: int, share: float) -> Plan:
    """Any fault for `share` of the requests, at random."""
    draw = random.Random(seed)
    return lambda request: draw.choice(FAULTS) if draw.random() < share else None


class Proxy:
    """In front of the server at `port`; over TLS with a certificate and key file, if given."""

    def __init__(self, port: int, certificate: str | None = None) -> None:
        self.upstream = port
        self.plan: Plan = lambda request: None
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        self.port = 0
        self.open()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def outage(self, seconds: float) -> None:
        """Refuse connections for a time."""
        self.close()
        threading.Timer(seconds, self.open).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with self.context.wrap_socket(client, server_side=True) if self.context else client as connection:
                self._answer(connection)
        except OSError:  # the other side left, as clients do that do not trust a certificate
            return

    def _answer(self, client: socket.socket) -> None:
        head, body = _message(client)
        method, path = head.split(b" ", 2)[:2]
        request = Request(method.decode(), path.decode(), head.decode())
        fault = self.plan(request)
        self.requests.append(request)
        self.faults += [fault] if fault else []
        if fault == "reset":
            _reset(client)
        elif fault == "busy" or (fault and fault[0].isdigit()):
            client.sendall(_refusal("503 SlowDown" if fault == "busy" else fault))
        else:
            self._pass_on(head, body, client, fault)

    def _pass_on(self, head: bytes, body: bytes, client: socket.socket, fault: str | None) -> None:
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            server.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            if fault == "reset-request":
                server.sendall(body[: len(body) // 2])
                _reset(client)
            else:
                server.sendall(body)
                _pass_back(b"".join(iter(lambda: server.recv(1 << 16), b"")), client, fault)


def _pass_back(answer: bytes, client: socket.socket, fault: str | None) -> None:
    drip, middle = len(answer) // 20 + 1, (answer.index(b"\r\n\r\n") + 4 + len(answer)) // 2
    if fault == "cut-head":
        middle = answer.index(b"\r\n") + 2
    if fault == "slow":
        for start in range(0, len(answer), drip):
            client.sendall(answer[start : start + drip])
            time.sleep(0.02)
    elif fault != "lose-answer":
        client.sendall(answer[:middle] if fault else answer)
    if fault == "stall":
        time.sleep(10)
    if fault in ("lose-answer", "reset-answer"):
        time.sleep(0.05)  # so that the half arrives: a reset throws away what was not read
        _reset(client)


def _message(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, body = data.split(b"\r\n\r\n", 1)
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    parts, size = [body], len(body)
    while length and size < int(length[1]):
        parts.append(_some(connection))
        size += len(parts[-1])
    return head + b"\r\n\r\n", b"".join(parts)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionResetError
    return data


def _reset(connection: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _refusal(answer: str) -> bytes:
    status, _, body = answer.partition("\n")
    kind = "text/html" if body else "application/xml"
    body = body or f"<Error><Code>{status[4:]}</Code><Message>made by a test</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()
