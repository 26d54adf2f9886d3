"""Stores with behaviour: one in memory, and the real one, both behind a gate that holds a commit
back until it is told, makes it fail, and counts what was made durable how.

A shut gate sends commits to a thread, as a RocksDB that stalls does; so the event loop goes on
and a test can look at what happens before a commit is done.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import trio

from engine.base.errors import EngineError
from engine.ext.append import PendingBatch
from engine.journal.faults import StoreStalled
from engine.journal.store import OpenMode, Store, StoreResources
from engine.model.rows import made

PATIENCE_S = 60  # for what happens at once unless something is broken


class Gate:
    def __init__(self) -> None:
        self._is_open = threading.Event()
        self._is_open.set()
        self._arrived = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.standing = 0  # commits before the shut gate
        self._failure: EngineError | None = None
        self._fails_once = False
        self._late_failure: EngineError | None = None
        self.writes_synced = 0
        self.writes_unsynced = 0
        self.wal_syncs = 0

    def shut(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    def fail_with(self, failure: EngineError | None) -> None:
        self._failure, self._fails_once = failure, False

    def fail_late_with(self, failure: EngineError) -> None:
        """Once: the write is done, and says that it is not."""
        self._late_failure = failure

    def fail_once_with(self, failure: EngineError) -> None:
        self._failure, self._fails_once = failure, True

    def _stand(self) -> None:
        with self._lock:
            self.standing += 1
        self._arrived.release()
        assert self._is_open.wait(PATIENCE_S), "nobody opened the gate"
        with self._lock:
            self.standing -= 1

    async def wait_for_arrival(self) -> None:
        """Until one more commit stands before the shut gate."""
        assert await trio.to_thread.run_sync(self._arrived.acquire, True, PATIENCE_S)

    def pass_write(self, *, sync: bool, may_stall: bool) -> None:
        self._pass(may_stall=may_stall)
        if sync:
            self.writes_synced += 1
        else:
            self.writes_unsynced += 1

    def after_write(self) -> None:
        failure, self._late_failure = self._late_failure, None
        if failure is not None:
            raise failure

    def pass_sync(self) -> None:
        self._pass(may_stall=True)
        self.wal_syncs += 1

    def _pass(self, *, may_stall: bool) -> None:
        if not self._is_open.is_set():
            if not may_stall:
                raise StoreStalled
            self._stand()
        failure = self._failure
        if self._fails_once:
            self._failure = None
        if failure is not None:
            raise failure


class Written(msgspec.Struct, frozen=True):
    keys: list[bytes]
    values: list[bytes]
    rows: list[tuple[bytes, bytes | None]]


class MemoryStore:
    """What a committer needs of a store; `written` has a batch once its write has returned."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.written: list[Written] = []
        self.on_loop_thread: list[bool] = []
        self._loop_thread = threading.get_ident()

    def prepare(self, batch: PendingBatch) -> Written:
        return Written(list(batch.keys), list(batch.values), made(batch.rows))

    def write(self, prepared: Written, *, sync: bool, may_stall: bool = True) -> None:
        self._gate.pass_write(sync=sync, may_stall=may_stall)
        self.on_loop_thread.append(threading.get_ident() == self._loop_thread)
        self.written.append(prepared)

    def sync_wal(self) -> None:
        self._gate.pass_sync()


class GatedStore(Store):
    """The real store behind a gate."""

    def __init__(
        self, path: Path, resources: StoreResources, mode: OpenMode, *, gate: Gate
    ) -> None:
        super().__init__(path, resources, mode)
        self._gate = gate

    def write(self, prepared: Any, *, sync: bool, may_stall: bool = True) -> None:
        self._gate.pass_write(sync=sync, may_stall=may_stall)
        super().write(prepared, sync=sync, may_stall=may_stall)
        self._gate.after_write()

    def sync_wal(self) -> None:
        self._gate.pass_sync()
        super().sync_wal()
