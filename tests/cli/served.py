"""The gateway in a thread of the test's own process, with the fake runtime behind it: for commands
whose answers a test wants to choose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio
from click.testing import CliRunner, Result

from engine.cli.main import engine
from engine.sdk import Client
from tests.gateway import conftest
from tests.gateway.fake_handle import ECHO, FAIL, FakeHandle

READY_S_MAX = 30.0


class Served(NamedTuple):
    url: str
    handle: FakeHandle

    def invoke(self, *words: str, given: str | None = None) -> Result:
        arguments = [*words, "--url", self.url]
        return CliRunner().invoke(engine, arguments, input=given, catch_exceptions=False)

    def said(self, *words: str, exit_code: int = 0, given: str | None = None) -> str:
        """What went to standard output; all of it where the command fails."""
        result = self.invoke(*words, given=given)
        assert result.exit_code == exit_code, result.output
        return result.stdout if exit_code == 0 else result.output

    def start_three(self) -> None:
        with Client(self.url) as client:
            for component in (ECHO, ECHO, FAIL):
                client.submit(component, {}, tags={"team": "a"})


@contextmanager
def serving() -> Iterator[Served]:
    found: list[Served] = []
    is_up, stop = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            port = await nursery.start(_serve, found)
            assert port
            is_up.set()
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=[main])
    thread.start()
    try:
        assert is_up.wait(READY_S_MAX)
        yield found[0]
    finally:
        tokens[0].run_sync_soon(stop.set)
        thread.join()


async def _serve(
    found: list[Served], task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    async with conftest.running() as gateway:
        found.append(Served(f"http://127.0.0.1:{gateway.port}", gateway.handle))
        task_status.started(gateway.port)
        await trio.sleep_forever()
