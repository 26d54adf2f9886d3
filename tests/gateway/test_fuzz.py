"""Whatever is sent, the gateway neither fails (5xx) nor falls over nor hangs.

Requests are good ones that were damaged in seeded ways, sent over real sockets to one gateway; a
failure names the seed and the bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio

from tests.gateway.conftest import running
from tests.gateway.fake_handle import ASK, ECHO, FAIL

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
GOOD = [
    ("POST", f"/v1/workflows/{ECHO}/run?start_at_ms=1&tag.a=b", b'{"order":12}'),
    ("POST", f"/v1/tools/{FAIL}/submit", b"[1,2,3]"),
    ("POST", f"/v1/workflow/{ECHO}/stream", b"null"),
    ("POST", f"/v1/workflow/{ASK}/batch", b'{"inputs":[1,{"a":2}]}'),
    ("POST", "/v1/runs:batch", b'{"component":"shop.echo","input":1}\n{"component":"shop.echo"}'),
    ("POST", f"/v1/runs/{RUN}/cancel", b'{"reason":"x"}'),
    ("POST", f"/v1/runs/{RUN}/signals/go", b"1"),
    ("POST", f"/v1/runs/{RUN}/waits/1/resolve", b'"yes"'),
    ("POST", "/v1/webhooks/x", b"{}"),
    ("GET", "/v1/runs?status=FAILED&limit=3", b""),
    ("GET", f"/v1/runs/{RUN}/journal?from_offset=2", b""),
    ("GET", f"/v1/runs/{RUN}/events?after=2", b""),
    ("GET", f"/v1/result/{RUN}?wait_s=0", b""),
    ("GET", f"/v1/status/{RUN}", b""),
    ("GET", "/v1/components", b""),
    ("GET", "/metrics", b""),
    ("GET", "/openapi.json", b""),
]
HEADERS = [
    "Idempotency-Key: k",
    "X-Deployment-ID: default",
    "X-Session-ID: s",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Last-Event-ID: 3",
    "Content-Type: application/json",
    "Accept: */*",
    "TE: trailers",
]
ODD = [bytes([byte]) for byte in b'\x00\xff\r\n %/?{["\\:,-9']
ODD += [b"%00", b"%ff", b"9" * 30, b"\xed\xa0\x80", b"[" * 2_000, b" HTTP/1.1", b"\r\n\r\n"]

Damage = Callable[[random.Random, bytes], bytes]


def cut(chance: random.Random, data: bytes) -> bytes:
    first = chance.randrange(len(data) + 1)
    return data[:first] + data[first + chance.randrange(1, 6) :]


def put(chance: random.Random, data: bytes) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(ODD) + data[place:]


def swap(chance: random.Random, data: bytes) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def double(chance: random.Random, data: bytes) -> bytes:
    first = chance.randrange(len(data) + 1)
    part = data[first : first + chance.randrange(1, 40)]
    return data[:first] + part * chance.randrange(2, 4) + data[first:]


DAMAGES: list[Damage] = [cut, put, swap, double]


def request_of(chance: random.Random) -> bytes:
    method, path, body = chance.choice(GOOD)
    target = path.encode()
    lines = chance.sample(HEADERS, chance.randrange(4))
    where = chance.choice(["target", "body", "head", "nowhere"])
    damage = chance.choice(DAMAGES)
    if where == "target":
        # Without white space, so that it is still a request line and the routes see it.
        target = b"/" + bytes(c for c in damage(chance, target) if c > 32)
    elif where == "body":
        body = damage(chance, body)
    head = f"{method} ".encode() + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    head += "".join(f"{line}\r\n" for line in lines).encode()
    head += b"Content-Length: %d\r\n" % len(body)
    if where == "head":
        head = damage(chance, head)
    return head + b"\r\n" + body


async def status_of(port: int, request: bytes) -> int | None:
    """None: the connection was closed without an answer."""
    data = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(request)
            await stream.send_eof()
            while piece := await stream.receive_some():
                data += piece
        except trio.BrokenResourceError:
            pass
    return int(data.split(b" ", 2)[1]) if data else None


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_that_is_sent_makes_it_fail(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    statuses: dict[int | None, int] = {}
    async with running(read_stall_s_max=2, sweep_s=0.2, keep_alive_s=2) as gateway:
        for number in range(150):
            request = request_of(chance)
            with trio.fail_after(20):
                status = await status_of(gateway.port, request)
            assert status is None or status < 500, (seed, number, request)
            statuses[status] = statuses.get(status, 0) + 1
        async with gateway.client() as client:
            assert (await client.get("/healthz")).status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
    assert {200, 400, 404} <= set(statuses), statuses
