"""Ended and open runs read from the hot tier, in slices that leave the interpreter to others.

A run is read whole or not at all: RocksDB's iterators end silently at a damaged block, and a run
whose last record is missing must not be archived as if it had none. Runs on a thread of its own
beside the event loop. Knows no Parquet and no store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from engine.archive.columns import TableBuilder
from engine.base import limits
from engine.base.clock import system_clock
from engine.base.errors import EngineError, MalformedRecord
from engine.base.ids import RunId, run_id_text
from engine.ext.offsets import record_key
from engine.model.records import RecordKind

ValuesOf = Callable[[bytes, bytes], Iterator[bytes]]

LAST_KINDS: Final = frozenset(
    {RecordKind.RUN_COMPLETED, RecordKind.RUN_FAILED, RecordKind.RUN_CANCELLED}
)
# Long enough for another thread that waits for the interpreter to get it.
_PAUSE_US: Final = 50
_LATE_US: Final = 400
_SHARE_MAX: Final = 8
# In company it rests for so many times as long as it has worked, so that a batch is spread thinly
# over time and not a burst that those feel who come into it.
_REST_FACTOR: Final = 4
_REST_US_MAX: Final = 20_000

_log: Final = logging.getLogger(__name__)


class Stopped(Exception):
    """Whoever reads was told to stop."""


class Pacer:
    """Gives the interpreter away after each slice of work, and says when to stop.

    Who comes back late from a pause has met others that want the interpreter, and works in smaller
    slices and with rests from then on; alone, in larger ones and without. `hurried`: so much waits
    that it may not rest.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._share = 1  # of a whole slice: a half, a quarter...
        self._resumed_us = system_clock.monotonic_us()
        self.hurried = False
        self._runs = 0
        self._bytes = 0

    def stop(self) -> None:
        self._stopped.set()

    def worked(self, size: int) -> None:
        self._runs += 1
        self._bytes += size
        if (
            self._runs * self._share >= limits.archive_slice_runs_max
            or self._bytes * self._share >= limits.archive_slice_bytes_max
        ):
            self.pause()

    def between(self) -> None:
        """Between two pieces of work that are a slice each if there are others, and not if not."""
        if self._share > 1:
            self.pause()

    def pause(self) -> None:
        self._runs = self._bytes = 0
        began_us = system_clock.monotonic_us()
        rest_us = _PAUSE_US
        if self._share > 1 and not self.hurried:
            rest_us = min(_REST_FACTOR * (began_us - self._resumed_us), _REST_US_MAX)
        if self._stopped.wait(rest_us / 1e6):
            raise Stopped
        self._resumed_us = system_clock.monotonic_us()
        is_late = self._resumed_us - began_us - rest_us > _LATE_US
        self._share = min(2 * self._share, _SHARE_MAX) if is_late else max(1, self._share // 2)


def read_run(run: RunId, values_of: ValuesOf) -> list[bytes]:
    """All records of an ended run."""
    values = list(values_of(record_key(run, 0), run + b"\xff" * 8 + b"\x00"))
    if not values or values[-1][1] not in LAST_KINDS:
        raise MalformedRecord(
            f"run {run_id_text(run)} has ended, but its last record is missing; it is not archived "
            "and stays in the hot tier: run `engine journal verify`",
            run_id=run_id_text(run),
        )
    return values


def _unforeseen(run: RunId, failure: Exception) -> MalformedRecord:
    _log.error("run %s cannot be made rows of", run_id_text(run), exc_info=failure)
    return MalformedRecord(
        f"run {run_id_text(run)} has values that nobody foresaw ({type(failure).__name__}); it is "
        "not archived and stays in the hot tier, and the runtime's log says more",
        run_id=run_id_text(run),
    )


def read_runs(
    runs: Iterable[RunId],
    values_of: ValuesOf,
    pacer: Pacer,
    refused: Callable[[RunId, EngineError], None],
) -> Iterator[tuple[RunId, list[bytes]]]:
    """Each with its records; who cannot be read is refused and left out."""
    for run in runs:
        try:
            values = read_run(run, values_of)
        except MalformedRecord as error:
            refused(run, error)
            continue
        yield run, values
        pacer.worked(sum(map(len, values)))


def portions(
    runs: Iterable[tuple[RunId, list[bytes]]],
    pause: Callable[[], None],
    refused: Callable[[RunId, EngineError], None],
) -> Iterator[Mapping[str, pa.Table]]:
    """Tables of all data sets, each of at most a portion of runs; who cannot be made rows of is
    refused and left out."""
    builder = TableBuilder(with_journal=True)
    for run, values in runs:
        try:
            builder.add(run, values)
        except MalformedRecord as error:
            refused(run, error)
            continue
        except EngineError:
            raise
        except Exception as failure:  # noqa: BLE001 - one run's values are not the others' matter
            refused(run, _unforeseen(run, failure))
            continue
        if (
            builder.runs >= limits.archive_portion_runs_max
            or builder.bytes >= limits.archive_portion_bytes_max
        ):
            yield builder.tables(pause)
    if builder.runs:
        yield builder.tables(pause)


def hot_tables(runs: Iterable[RunId], values_of: ValuesOf, pacer: Pacer) -> dict[str, Any]:
    """The tables `runs` and `steps` of runs that may still be going on. Who cannot be read is left
    out: it is in no table before the journal is mended."""
    builder = TableBuilder(with_journal=False)
    for run in runs:
        values = list(values_of(record_key(run, 0), run + b"\xff" * 8 + b"\x00"))
        try:
            builder.add(run, values)
        except MalformedRecord:
            continue
        pacer.worked(sum(map(len, values)))
    return builder.tables(pacer.between)
