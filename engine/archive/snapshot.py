"""One tenant's runs at one moment, each exactly once: in the files of acknowledged batches, or in
the hot tables.

Made on the event loop's thread in microseconds; the hot tables are built when they are asked for,
on the caller's thread, from the same moment. Keep it for the length of a query: while it lives,
what retention deletes keeps its room on the disk.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.archive.batches import Batch, Manifest, ended_ms
from engine.archive.rows.reading import Pacer, hot_tables
from engine.base import limits
from engine.base.ids import RunId
from engine.journal.layout import FINISHED_TAG, OPEN_RUN_TAG
from engine.journal.store import StoreSnapshot
from engine.model.query import Window


class TenantSnapshot:
    def __init__(
        self,
        store: StoreSnapshot,
        manifest: Manifest,
        window: Window,
        uri: Callable[[Batch, str], str],
    ) -> None:
        self._store = store
        self._window = window
        batches = [
            batch
            for batch in manifest.acknowledged_in(store)
            if window.touches(batch.from_ms, batch.to_ms)
        ]
        batches.sort(key=lambda batch: (batch.day, batch.batch_id))
        self.run_files: Sequence[str] = [uri(batch, "runs") for batch in batches]
        self.step_files: Sequence[str] = [uri(batch, "steps") for batch in batches]
        # Finished runs beyond what is read into memory at most; known once the tables are built.
        self.hot_left_out = 0
        self._lock = threading.Lock()
        self._tables: dict[str, Any] | None = None

    def hot_runs(self) -> Any:
        """An Arrow table of the runs that are in no file. Blocking."""
        return self._hot()["runs"]

    def hot_steps(self) -> Any:
        return self._hot()["steps"]

    def _hot(self) -> dict[str, Any]:
        with self._lock:
            if self._tables is None:
                self._tables = hot_tables(self._hot_ids(), self._store.record_values, Pacer())
            return self._tables

    def _hot_ids(self) -> Iterator[RunId]:
        ended = [
            one
            for one in (key[1:] for key, _ in self._store.rows(FINISHED_TAG))
            if self._window.touches(ended_ms(one), ended_ms(one))
        ]
        if len(ended) > limits.archive_hot_runs_max:
            self.hot_left_out = len(ended) - limits.archive_hot_runs_max
            ended = heapq.nlargest(limits.archive_hot_runs_max, ended)
        for one in sorted(ended):
            yield RunId(one[8:])
        for key, _ in self._store.rows(OPEN_RUN_TAG):
            yield RunId(key[1:])
