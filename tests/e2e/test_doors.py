"""Peers without a key before a real runtime: whatever they hold open, flood or leave half said ends
in its time, costs little memory, and a tenant who has a key is answered all the while."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.exceptions
import h2.settings
import httpx
import pytest

from tests.e2e.processes import Processes, processes

KEY = "sk_0123456789abcdef"
CONNECTIONS = 100
SETTINGS = f"""
[[auth.keys]]
key = "{KEY}"
tenant_id = "acme"

[gateway]
connections_max = {CONNECTIONS}
connections_per_peer_max = {CONNECTIONS}
keep_alive_s = 3
read_stall_s_max = 2
write_stall_s_max = 2
body_patience_s = 3
sweep_s = 0.2
"""
ENDS_S_MAX = 12.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("doors")
    (folder / "engine.toml").write_text(SETTINGS)
    with processes(folder, {"ENGINE_API_KEY": KEY}) as found:
        found.client.headers["X-API-Key"] = KEY
        found.start(workers=1, settings=folder / "engine.toml")
        yield found


@contextlib.contextmanager
def connected(engine: Processes, count: int) -> Iterator[list[socket.socket]]:
    host, port = engine.http.split(":")
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)
        ]
        for sock in found:
            sock.settimeout(ENDS_S_MAX)
        yield found


@contextlib.contextmanager
def somebody_works(engine: Processes) -> Iterator[None]:
    """A tenant with a key starts runs, each over a connection of its own, and has every answer."""
    stop = threading.Event()
    failures: list[str] = []
    answered = 0

    def work() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                answer = httpx.post(
                    f"http://{engine.http}/v1/function/mark/run",
                    json=1,
                    headers={"X-API-Key": KEY},
                    timeout=ENDS_S_MAX,
                )
                if answer.status_code != 200:
                    failures.append(answer.text)
            except httpx.TransportError as error:
                failures.append(repr(error))
            answered += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures, failures[:3]
    assert answered > 1


def resident_bytes(engine: Processes) -> int:
    lines = Path(f"/proc/{engine.runtime.pid}/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(found.split()[1]) * 1024


def send(sock: socket.socket, data: bytes) -> bool:
    try:
        sock.sendall(data)
    except OSError:
        return False
    return True


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes; raises if the other end does not close."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65_536):
            data += piece
    return data


ODD = b"GET /healthz HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n"
HALVES = {
    "plain head": (b"", b"GET /healthz HTTP/1.1\r\nHost: h\r\n", b"A: b\r\n"),
    "second head of another kind": (ODD, b"GET /healthz HTTP/1.1\r\n", b"A: b\r\n"),
    "HTTP/2 that says nothing": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0", b""),
    "body of nobody": (
        b"",
        b"POST /v1/query HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n",
        b"x",
    ),
    "chunks of nobody": (
        b"",
        b"POST /v1/query HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
}


def leave_half_said(strangers: list[socket.socket], half: str) -> None:
    first, begin, _ = HALVES[half]
    for sock in strangers:
        send(sock, first)
        if first == ODD:
            with contextlib.suppress(OSError):
                sock.recv(65_536)
        send(sock, begin)


@pytest.mark.parametrize("half", HALVES)
def test_what_is_left_half_said_ends_in_its_time(engine: Processes, half: str) -> None:
    """Though there is room for all of them, and each says a little more now and then."""
    drip = HALVES[half][2] or b"\0\0\0\4\1\0\0\0\0"
    with somebody_works(engine), connected(engine, CONNECTIONS - 10) as strangers:
        leave_half_said(strangers, half)
        deadline = time.monotonic() + ENDS_S_MAX
        open_still = strangers
        while open_still:
            assert time.monotonic() < deadline, f"{len(open_still)} are held"
            open_still = [sock for sock in open_still if send(sock, drip)]
            time.sleep(0.2)


@pytest.mark.parametrize("half", HALVES)
def test_what_is_left_half_said_keeps_nobody_out(engine: Processes, half: str) -> None:
    with connected(engine, 2 * CONNECTIONS) as strangers:
        leave_half_said(strangers, half)
        with somebody_works(engine):
            time.sleep(1)


def test_windows_that_stay_shut_end(engine: Processes) -> None:
    before = resident_bytes(engine)
    with somebody_works(engine), connected(engine, 20) as strangers:
        for sock in strangers:
            http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            http.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
            )
            http.initiate_connection()
            for number in range(16):
                head = [(":method", "GET"), (":path", "/openapi.json"), (":scheme", "http")]
                http.send_headers(2 * number + 1, [*head, (":authority", "h")], end_stream=True)
            send(sock, http.data_to_send())
        for sock in strangers:
            read_to_end(sock)
        assert resident_bytes(engine) - before < 64 * MIB


def test_a_flood_of_resets_ends_and_leaves_nothing(engine: Processes) -> None:
    before = resident_bytes(engine)
    sent = 0
    with somebody_works(engine):
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            with connected(engine, 1) as (sock,):
                http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
                http.initiate_connection()
                for number in range(2_000):
                    head = [(":method", "GET"), (":path", "/openapi.json"), (":scheme", "http")]
                    http.send_headers(2 * number + 1, [*head, (":authority", "h")])
                    http.reset_stream(2 * number + 1)
                send(sock, http.data_to_send())
                assert b"\x0b" in read_to_end(sock)[-32:]  # told to calm down
                sent += 1
    assert sent >= 1
    assert resident_bytes(engine) - before < 64 * MIB


def test_what_it_may_not_become_is_refused_quietly(engine: Processes) -> None:
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade%b\r\nUpgrade: %b\r\n%b\r\n"
    h2c = upgrade % (b", HTTP2-Settings", b"h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n")
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    websocket = upgrade % (b"", b"websocket", key)
    origin = b"GET /v1/runs HTTP/1.1\r\nHost: h\r\nOrigin: http://[\r\n\r\n"
    for request, status in ((h2c, b"200"), (websocket, b"400"), (origin, b"401")):
        with connected(engine, 1) as (sock,):
            send(sock, request)
            assert sock.recv(65_536).startswith(b"HTTP/1.1 %b " % status)
    assert not engine.has_said("Traceback")


def test_without_keys_only_what_is_said_here_is_answered(tmp_path: Path) -> None:
    """What a rebound name, a page from elsewhere and a proxy would send to a dev server."""
    asked = {
        "": 200,
        "Host: localhost:1": 200,
        "Host: evil.example": 401,
        "Host: evil.example\r\nSec-Fetch-Site: same-origin": 401,
        "Sec-Fetch-Site: cross-site": 401,
        "Origin: https://evil.example": 401,
        "Origin: null": 401,
        "X-Forwarded-For: 127.0.0.1": 401,
        "X-Forwarded-Host: localhost": 401,
        "Forwarded: for=127.0.0.1": 401,
        "Via: 1.1 proxy": 401,
    }
    with processes(tmp_path) as engine:
        engine.start_runtime()
        for more in ("", "TE: trailers\r\n"):  # over either way in
            for lines, status in asked.items():
                host = "" if lines.startswith("Host") else f"Host: {engine.http}\r\n"
                line = f"{lines}\r\n" if lines else ""
                with connected(engine, 1) as (sock,):
                    send(sock, f"GET /v1/runs HTTP/1.1\r\n{host}{line}{more}\r\n".encode())
                    found = sock.recv(65_536).split()[1]
                assert int(found) == status, lines
