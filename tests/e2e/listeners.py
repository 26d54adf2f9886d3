"""A thousand readers of event streams in one process, for `test_streams.py`.

`python -m tests.e2e.listeners HOST:PORT` reads a plan from its input, a JSON list with one object a
stream: the run, and after how many events the reader hangs up and comes back with `Last-Event-ID`
(0: it stays). Says `ready` when every stream has had its first event, and prints what each one saw
when all have ended. It speaks HTTP by hand: a client library would be what this measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


class Reader:
    def __init__(self, host: str, port: int, run: str, leaves_after: int) -> None:
        self._address = (host, port)
        self._run = run
        self._leaves_after = leaves_after
        self.seen: list[tuple[int, str]] = []
        self.connections = 0
        self.has_begun = asyncio.Event()

    async def read(self) -> None:
        while not self.seen or not self.seen[-1][1].startswith("run.completed"):
            await self._read_once()

    async def _read_once(self) -> None:
        self.connections += 1
        reader, writer = await asyncio.open_connection(*self._address)
        resumed = f"Last-Event-ID: {self.seen[-1][0]}\r\n" if self.seen else ""
        writer.write(
            f"GET /v1/runs/{self._run}/events HTTP/1.1\r\nHost: localhost\r\n{resumed}\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await self._read_events(reader)
        finally:
            writer.close()

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        """To the end of the stream, or until it is time to leave in the middle of it."""
        buffer = b""
        while size := int(await reader.readline(), 16):
            buffer += await reader.readexactly(size)
            await reader.readexactly(2)
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                self._take(event.decode())
                if len(self.seen) == self._leaves_after and self.connections == 1:
                    return

    def _take(self, event: str) -> None:
        lines = event.strip().splitlines()
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        if "id" in fields:  # the others are heartbeats and live events
            self.seen.append((int(fields["id"]), fields["event"]))
            self.has_begun.set()


async def main(host: str, port: int, plan: list[tuple[str, int]]) -> list[dict[str, Any]]:
    readers = [Reader(host, port, run, leaves_after) for run, leaves_after in plan]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read())
        for reader in readers:
            await reader.has_begun.wait()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    return [{"seen": reader.seen, "connections": reader.connections} for reader in readers]


if __name__ == "__main__":
    here, _, at = sys.argv[1].rpartition(":")
    found = asyncio.run(main(here, int(at), json.loads(sys.stdin.readline())))
    sys.stdout.write(json.dumps(found))
