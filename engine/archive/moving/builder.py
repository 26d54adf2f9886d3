"""The program that makes Parquet files of ended runs, beside the engine: `builder_child.py`.

Records become rows and columns in it and not in the engine's interpreter, which workflows need
meanwhile. One batch at a time; begun with the first, ended when there was none for long. What it
could not make rows of comes back by name. Knows no journal and no store.
"""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from engine.archive.files.parquet import WrittenFile, path_in
from engine.archive.rows.schema import DATA_SETS, UPLOAD_ORDER
from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import EngineError, MalformedRecord, StorageFailed
from engine.base.ids import RunId
from engine.processes import frames, process
from engine.processes.process import ChildProcess

_log: Final = logging.getLogger(__name__)
_MODULE: Final = "engine.archive.moving.builder_child"
_FOLDER: Final = "builder"

Result = TypeVar("Result")


class Kind(IntEnum):
    # To the program.
    BEGIN = 1
    PIECE = 6
    RUNS = 2  # the last piece of them
    END = 3  # of the runs
    FINISH = 4  # the files, with what their footers say
    ABANDON = 5
    # From it.
    GATHERED = 16
    WRITTEN = 17
    FAILED = 18


class Begin(msgspec.Struct, frozen=True):
    folder: str
    runs: int


class Gathered(msgspec.Struct, frozen=True):
    refused: dict[bytes, str]  # runs, each with the reason
    told: tuple[str, ...]  # for the log


class Written(msgspec.Struct, frozen=True):
    bytes: int
    rows: int
    checksum: int


encode: Final = msgspec.msgpack.Encoder().encode
decode_begin: Final = msgspec.msgpack.Decoder(Begin).decode
decode_runs: Final = msgspec.msgpack.Decoder(list[tuple[bytes, list[bytes]]]).decode
decode_facts: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode
decode_gathered: Final = msgspec.msgpack.Decoder(Gathered).decode
decode_written: Final = msgspec.msgpack.Decoder(dict[str, Written]).decode
decode_failed: Final = msgspec.msgpack.Decoder(str).decode


class _Process(ChildProcess):
    """What it says is believed as far as it can be: where its files are is known here, and the rest
    is held against them when they have arrived."""

    async def begin_batch(self, folder: Path, runs: int) -> None:
        self._folder = folder
        await self._send(Kind.BEGIN, encode(Begin(str(folder), runs)))

    async def add(self, encoded: bytes) -> None:
        *some, last = frames.pieces(encoded)
        for piece in some:
            await self._send(Kind.PIECE, piece)
        await self._send(Kind.RUNS, last)

    async def gathered(self) -> dict[RunId, EngineError]:
        """Whom it has refused of those that it was given."""
        await self._send(Kind.END)
        gathered = await self._answer(Kind.GATHERED, decode_gathered)
        for said in gathered.told:
            _log.error("%s", said)
        return {RunId(run): MalformedRecord(reason) for run, reason in gathered.refused.items()}

    async def finish(self, facts: Mapping[str, Any]) -> dict[str, WrittenFile]:
        await self._send(Kind.FINISH, encode(facts))
        written = await self._answer(Kind.WRITTEN, decode_written)
        if written.keys() != DATA_SETS.keys():
            raise self._broken(f"files of {', '.join(sorted(written))[:200]}")
        return {
            name: WrittenFile(
                path_in(self._folder, name),
                written[name].bytes,
                written[name].rows,
                written[name].checksum,
            )
            for name in UPLOAD_ORDER
        }

    async def abandon(self) -> None:
        await self._send(Kind.ABANDON)

    async def _answer(self, wanted: Kind, decode: Callable[[bytes], Result]) -> Result:
        with self._patience():
            kind, data = await self._frame()
        try:
            if kind == wanted:
                return decode(data)
            if kind == Kind.FAILED:
                raise StorageFailed(decode_failed(data))
        except msgspec.MsgspecError as error:
            raise self._broken(f"a frame of kind {kind} that is none: {error}") from error
        raise self._broken(f"a frame of kind {kind}")

    async def _send(self, kind: int, data: bytes | memoryview = b"") -> None:
        with self._patience():
            await super()._send(kind, data)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """All tenants wait for this one program."""
        with trio.move_on_after(limits.archive_builder_silence_ms / 1_000) as scope:
            yield
        if scope.cancelled_caught:
            self.end()
            raise StorageFailed(
                "the program that makes files of ended runs did nothing for "
                f"{limits.archive_builder_silence_ms // 1_000} s and was ended; the runs stay in "
                "the hot tier, and it is tried again"
            )

    def _ended_error(self, code: int) -> EngineError:
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        _log.error("the program that makes files of runs ended: %s %s", name, self._said())
        return StorageFailed(
            f"the program that makes files of ended runs ended by itself ({name}); the runs stay "
            "in the hot tier, and it is tried again"
        )

    def _broken(self, said: str) -> EngineError:
        self.end()
        return StorageFailed(f"the program that makes files of ended runs sent {said}")


class Builder:
    """One for all tenants, one batch at a time."""

    def __init__(self, outgoing: Path, clock: Clock) -> None:
        self._folder = outgoing / _FOLDER
        self._clock = clock
        self._turn = trio.Lock()
        self._process: _Process | None = None
        self._used_us = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @asynccontextmanager
    async def batch(self, folder: Path, runs: int) -> AsyncIterator[_Process]:
        """The program, for one batch. Whoever does not come to the end of it leaves none."""
        async with self._turn:
            if self._process is None or self._process.is_ended:
                await self._begin()
            using = self._process
            assert using is not None
            try:
                await using.begin_batch(folder, runs)
                yield using
            except BaseException:
                using.end()
                raise
            finally:
                self._used_us = self._clock.monotonic_us()
                if using.is_ended:
                    await self._close()

    async def end_if_unused(self) -> None:
        unused_us = self._clock.monotonic_us() - self._used_us
        if not self._turn.locked() and unused_us > limits.archive_builder_idle_ms * 1_000:
            await self._close()

    async def aclose(self) -> None:
        await self._close()

    async def _begin(self) -> None:
        await self._close()
        await trio.to_thread.run_sync(self._make_room)
        self._process = _Process(process.begin(_MODULE, self._folder))

    def _make_room(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)

    async def _close(self) -> None:
        ending, self._process = self._process, None
        if ending is not None:
            await ending.aclose()


def encoded_slices(runs: Iterable[tuple[RunId, Sequence[bytes]]]) -> Iterator[bytes]:
    """The runs with their records, as many together as are read in one go."""
    some: list[tuple[bytes, Sequence[bytes]]] = []
    size = 0
    for run, values in runs:
        some.append((bytes(run), values))
        size += sum(map(len, values))
        if len(some) >= limits.archive_slice_runs_max or size >= limits.archive_slice_bytes_max:
            yield encode(some)
            some, size = [], 0
    if some:
        yield encode(some)
