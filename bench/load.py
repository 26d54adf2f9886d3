"""The load generator of `bench.workflows`: a process of its own, which measures as a client does.

    python -m bench.load '{"do": "closed", "port": 34181, "component": "noop", ...}'

prints one JSON object. It speaks HTTP by hand on persistent connections, so that little of what is
measured is the client's own work. Every answer is checked.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

TIMEOUT_S = 300.0
ADDED = {"noop": 0, "steps3": 3, "steps10": 10}


class Connection(asyncio.Protocol):
    """One persistent connection, one request at a time."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"connection lost: {error}"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[at : (head + b"\r").index(b"\r", at)])
        if len(self._buffer) < end + 4 + length:
            return
        assert self._answer is not None, "an answer that nobody asked for"
        body = bytes(self._buffer[end + 4 :])
        assert len(body) == length
        self._buffer.clear()
        self._answer.set_result((int(head[9:12]), body))

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request_bytes(method, path, body, self.key))
        return await self._answer

    async def ask_json(self, method: str, path: str, body: bytes = b"") -> Any:
        status, answer = await self.ask(method, path, body)
        assert status in (200, 202), (status, answer[:500])
        return json.loads(answer)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


def request_bytes(method: str, path: str, body: bytes, key: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def connect(port: int, key: str = "") -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(key), "127.0.0.1", port)
    return connection


# ---- closed loop: as many clients, each starts a run, waits for it, and again ----


async def closed(
    port: int, component: str, clients: int, seconds: float, warm_s: float = 1.0, key: str = ""
) -> dict[str, float]:
    connections = [await connect(port, key) for _ in range(clients)]
    warmed = await _load(connections, component, warm_s)
    began = time.perf_counter()
    took = sorted(await _load(connections, component, seconds))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return {
        "per_s": len(took) / elapsed,
        "p50_ms": statistics.median(took) * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
        "runs": len(warmed) + len(took),
    }


async def _load(connections: list[Connection], component: str, seconds: float) -> list[float]:
    path = f"/v1/workflow/{component}/run"
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def client(connection: Connection, number: int) -> None:
        while (began := time.perf_counter()) < until:
            status, answer = await connection.ask("POST", path, b"%d" % number)
            took.append(time.perf_counter() - began)
            right = b'"status":"COMPLETED","output":%d}' % (number + ADDED[component])
            assert status == 200, (status, answer)
            assert answer.endswith(right), (answer, right)
            number += len(connections)

    await asyncio.gather(*(client(one, number) for number, one in enumerate(connections)))
    return took


# ---- one run at a time ----


async def once(port: int, component: str, given: Any, rounds: int) -> dict[str, Any]:
    """How long a run of a component took, and what came of it."""
    connection = await connect(port)
    path, body = f"/v1/workflow/{component}/run", json.dumps(given).encode()
    took: list[float] = []
    outputs: list[Any] = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = await connection.ask_json("POST", path, body)
        took.append(time.perf_counter() - began)
        assert answer["status"] == "COMPLETED", answer
        outputs.append(answer["output"])
    return {"took_s": took, "outputs": outputs}


# ---- questions about ended runs ----


async def mixed(
    port: int, keys: list[str], clients: int, seconds: float, questions: list[list[str]]
) -> dict[str, float]:
    """Each client asks one question after the other, each in another order. Who is told to come
    again later does."""
    until = time.perf_counter() + seconds
    took: list[float] = []
    refused: Counter[int] = Counter()

    async def client(number: int) -> None:
        connection = await connect(port, keys[number % len(keys)])
        chance = random.Random(number)
        while (began := time.perf_counter()) < until:
            method, path, body = chance.choice(questions)
            status, answer = await connection.ask(method, path, body.encode())
            if status == 200:
                took.append(time.perf_counter() - began)
                assert b'"rows":[]' not in answer, answer[:500]
            else:
                assert status in (503, 504), (status, answer[:500])
                refused[status] += 1
                await asyncio.sleep(1.0)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    took.sort()
    return {
        "per_s": len(took) / seconds,
        "p50_ms": statistics.median(took) * 1e3 if took else 0.0,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3 if took else 0.0,
        "busy": refused[503],
        "timed_out": refused[504],
    }


# ---- many starts ----


async def batch(port: int, component: str, count: int, per_request: int = 10_000) -> dict[str, Any]:
    """NDJSON, several connections: as many requests as it takes."""
    ids: set[str] = set()
    pending = [(i, min(per_request, count - i)) for i in range(0, count, per_request)]
    line = b'{"component":"%b","input":%%d}\n' % component.encode()
    bodies = [b"".join(line % i for i in range(first, first + n)) for first, n in pending]
    answers: list[bytes] = []

    async def client() -> None:
        connection = await connect(port)
        while bodies:
            status, answer = await connection.ask("POST", "/v1/runs:batch", bodies.pop())
            assert status == 200, (status, answer[-500:])
            answers.append(answer)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(2)))
    elapsed = time.perf_counter() - began
    for answer in answers:
        for line in answer.splitlines():
            started = json.loads(line)
            assert started.get("is_new") is True, started
            ids.add(started["run_id"])
    assert len(ids) == count, (len(ids), count)
    return {"per_s": count / elapsed, "elapsed_s": elapsed}


async def count_status(port: int, component: str, status: str) -> dict[str, Any]:
    """All runs of a status, page by page."""
    connection = await connect(port)
    path = f"/v1/runs?component={component}&status={status}&limit=1000"
    ids: set[str] = set()
    page = await connection.ask_json("GET", path)
    while True:
        ids.update(run["run_id"] for run in page["runs"])
        if not page.get("next_cursor"):
            return {"count": len(ids), "some": sorted(ids)[:20]}
        page = await connection.ask_json("GET", f"{path}&cursor={page['next_cursor']}")


async def until_waiting(port: int, component: str, count: int) -> dict[str, Any]:
    """Until as many runs wait; asks for the ones that are left, newest first, now and then."""
    connection = await connect(port)
    began = time.perf_counter()
    for status in ("QUEUED", "RUNNING"):
        path = f"/v1/runs?component={component}&status={status}&limit=1"
        while (await connection.ask_json("GET", path))["runs"]:  # noqa: ASYNC110 - of a process
            await asyncio.sleep(0.25)
    elapsed = time.perf_counter() - began
    found = await count_status(port, component, "WAITING")
    assert found["count"] == count, (found["count"], count)
    return {"elapsed_s": elapsed, "some": found["some"]}


async def wake(port: int, runs: list[str]) -> dict[str, Any]:
    """Signals runs that wait, and checks how they end."""
    connection = await connect(port)
    for run in runs:
        await connection.ask_json("POST", f"/v1/runs/{run}/signals/go", b"1000000")
        answer = await connection.ask_json("GET", f"/v1/result/{run}?wait_s=30")
        assert answer["status"] == "COMPLETED", answer
        assert answer["output"] >= 1_000_000, answer
    return {"woken": len(runs)}


# ---- server-sent events ----


async def events_of(port: int, path: str, body: bytes) -> AsyncIterator[tuple[float, str]]:
    """The events of a run that is started, each with the time at which it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", path, body))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert " 200 " in head.splitlines()[0], head
    yield 0.0, head
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        at = time.time()
        *complete, rest = rest.split(b"\n\n")
        for event in complete:
            yield at, event.decode()
    writer.close()


async def first_event(port: int, component: str, rounds: int) -> dict[str, float]:
    """From the time that stands in a run's first record, which is before its commit, to its event
    here: more than what is asked for, by one fsync."""
    connection = await connect(port)
    took: list[float] = []
    for number in range(rounds):
        head, came = "", 0.0
        async for at, event in events_of(port, f"/v1/workflow/{component}/stream", b"%d" % number):
            if not head:
                head = event.lower()
            elif not came and event.startswith("id: 0\n"):
                came = at
        run = head.partition("x-run-id: ")[2].partition("\r")[0]
        page = await connection.ask_json("GET", f"/v1/runs/{run}/journal?limit=1")
        took.append(came * 1e3 - page["entries"][0]["timestamp_us"] / 1e3)
    took.sort()
    return {"p50_ms": statistics.median(took), "p99_ms": took[int(len(took) * 0.99)]}


async def many_streams(port: int, component: str, streams: int) -> dict[str, float]:
    """Every stream has every record of its run once, in order, and the last says how it ended."""
    records = 0

    async def follow(number: int) -> int:
        ids: list[int] = []
        last = ""
        path = f"/v1/workflow/{component}/stream"
        async for _, event in events_of(port, path, b"%d" % number):
            if event.startswith("id: "):
                ids.append(int(event[4 : event.index("\n")]))
                last = event
        assert ids == list(range(len(ids))), ids
        assert "completed" in last.lower(), last
        return len(ids)

    began = time.perf_counter()
    for found in await asyncio.gather(*(follow(number) for number in range(streams))):
        records += found
    return {"streams": streams, "records": records, "elapsed_s": time.perf_counter() - began}


TASKS: dict[str, Callable[..., Awaitable[Any]]] = {
    "closed": closed,
    "mixed": mixed,
    "once": once,
    "batch": batch,
    "count_status": count_status,
    "until_waiting": until_waiting,
    "wake": wake,
    "first_event": first_event,
    "many_streams": many_streams,
}


def main() -> int:
    given = json.loads(sys.argv[1])
    task = TASKS[given.pop("do")](**given)

    async def bounded() -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            return await task

    sys.stdout.write(json.dumps(asyncio.run(bounded())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
