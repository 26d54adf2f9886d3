"""The runs of one tenant that are in memory, and how the others come into it: a run is what its
state row says until somebody moves it. Knows no rule, and nobody who moves runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.base.errors import UnknownRun
from engine.base.ids import RunId, run_id_text
from engine.core.state import RunState, decode_state
from engine.journal.layout import open_run_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model.runs import RunStatus
from engine.runtime.writer.live import Ending, LiveRun, ended_as

# In these no worker has the run.
STILL: Final = frozenset({RunStatus.QUEUED, RunStatus.WAITING, RunStatus.RETRYING})


class RunMemory:
    """`queues_are_long`: whether so many wait that those that do are better kept on the disk."""

    def __init__(self, journal: TenantJournal, queues_are_long: Callable[[], bool]) -> None:
        self._journal = journal
        self._queues_are_long = queues_are_long
        self._runs: dict[RunId, LiveRun] = {}

    # ---- finding ----

    def find(self, run: RunId) -> LiveRun:
        """The run, from memory or from its state row; `UnknownRun` if the tenant has none."""
        live = self.look(run)
        if not live.state.is_terminal:
            self._runs.setdefault(run, live)
        return live

    def look(self, run: RunId) -> LiveRun:
        """As `find`, for who only reads: a run that rests on the disk stays there."""
        live = self._runs.get(run) or self._load(run)
        if live is None:
            raise UnknownRun(
                f"there is no run {run_id_text(run)} here; check the id, and that the key belongs "
                "to the tenant that started it",
                run_id=run_id_text(run),
            )
        return live

    def live(self, run: RunId) -> LiveRun | None:
        """The run if it is in memory."""
        return self._runs.get(run)

    def all_live(self) -> list[LiveRun]:
        return list(self._runs.values())

    def exists(self, run: RunId) -> bool:
        live = self._runs.get(run) or self._load(run)
        return live is not None and live.state.status is not None

    def ending_of(self, run: RunId) -> Ending | None:
        """How a run ended whose last record is durable."""
        live = self._runs.get(run)
        if live is None or live.ending is None:
            live = self._load(run)
        if live is None or not live.state.is_terminal:
            return None
        return live.ending or ended_as(live)

    def _load(self, run: RunId) -> LiveRun | None:
        row = self._journal.row(open_run_key(run)) or self._journal.row(run_key(run))
        if row is None:
            return None
        return LiveRun(decode_state(row), journal=self._journal, row_bytes=len(row))

    # ---- coming ----

    def new(self, run: RunId) -> LiveRun:
        segment = self._journal.new_segment(run)
        live = LiveRun(RunState(run_id=run), segment, journal=self._journal, entries=[])
        self._runs[run] = live
        return live

    def adopt(self, state: RunState) -> LiveRun:
        """The run of a state that was just read, in memory from now on."""
        run = RunId(state.run_id)
        live = self._runs.get(run)
        if live is None:
            live = self._runs[run] = LiveRun(state, journal=self._journal)
        return live

    # ---- going ----

    def drop(self, run: RunId) -> LiveRun | None:
        return self._runs.pop(run, None)

    def put_down(self, live: LiveRun) -> None:
        """A run that nobody has needs no memory once its row has all: whoever moves it loads it. If
        it waits for a worker its id has to stay, and while few do, it stays as it is: its turn is
        near."""
        if self._runs.get(live.run_id) is not live or live.lease is not None or live.is_resting:
            return
        if not live.is_written or live.state.status not in STILL:
            return
        if not live.is_queued:
            del self._runs[live.run_id]
        elif self._queues_are_long():
            live.rest()

    def clear(self) -> None:
        for live in self._runs.values():
            live.lease, live.is_queued = None, False
        self._runs.clear()
