"""Makes Parquet files of ended runs, beside the engine.

    python -m engine.archive.moving.builder_child SOCKET PARENT

One batch after the other, of records that come over the socket. A run that no rows can be made of
is left out and named; a disk that does not take the files is told at the end. Knows no journal and
no store, and ends when the engine does.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.archive.files.parquet import BatchWriter
from engine.archive.moving import builder
from engine.archive.moving.builder import Kind
from engine.archive.rows.columns import go_on
from engine.archive.rows.reading import portions
from engine.base import limits
from engine.base.errors import EngineError
from engine.base.ids import RunId
from engine.processes import behind
from engine.processes.line import Line


class _Told(logging.Handler):
    """What is logged here, for the log of the engine."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def take(self) -> tuple[str, ...]:
        taken, self._lines = tuple(self._lines), []
        return taken


class _Engine(Line):
    """The socket, and whether the other side waits for an answer."""

    waits = False

    def receive(self) -> tuple[int, bytes]:
        kind, data = super().receive()
        self.waits = kind in (Kind.END, Kind.FINISH)
        return kind, data


_told: Final = _Told()


def _serve(line: _Engine) -> None:
    while True:
        kind, data = line.receive()
        assert kind == Kind.BEGIN, kind
        begin = builder.decode_begin(data)
        try:
            _batch(line, begin)
        except EngineError as error:
            while not line.waits:  # it does not listen before it has sent everything
                line.receive()
            line.send(Kind.FAILED, builder.encode(error.message))


def _batch(line: Line, begin: builder.Begin) -> None:
    refused: dict[RunId, EngineError] = {}
    writer = BatchWriter(Path(begin.folder), runs=begin.runs)
    try:
        for tables in portions(_received(line), go_on, refused.__setitem__):
            writer.write(tables)
        reasons = {bytes(run): error.message for run, error in refused.items()}
        line.send(Kind.GATHERED, builder.encode(builder.Gathered(reasons, _told.take())))
        kind, data = line.receive()
        if kind != Kind.FINISH:
            assert kind == Kind.ABANDON, kind
            writer.abandon()
            return
    except BaseException:
        writer.abandon()
        raise
    files = writer.finish(builder.decode_facts(data))
    written = {
        name: builder.Written(file.bytes, file.rows, file.checksum) for name, file in files.items()
    }
    line.send(Kind.WRITTEN, builder.encode(written))


def _received(line: Line) -> Iterator[tuple[RunId, list[bytes]]]:
    pieces: list[bytes] = []
    while True:
        kind, data = line.receive()
        if kind == Kind.END:
            return
        pieces.append(data)
        if kind == Kind.RUNS:
            for run, values in builder.decode_runs(b"".join(pieces)):
                yield RunId(run), values
            pieces = []


if __name__ == "__main__":
    behind.end_with_parent(int(sys.argv[2]))
    behind.step_back(limits.archive_builder_niceness)
    logging.basicConfig(handlers=[_told])
    try:
        _serve(_Engine(socket.socket(fileno=int(sys.argv[1]))))
    except (EOFError, ConnectionError):
        pass  # the engine has ended, or does not want this process any more
    except BaseException:  # noqa: BLE001 - said where the engine looks for it
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
