"""One decision on its way to the journal: what it becomes is planned beside the run, handed over as
one transition, and only then put in the run's place. A refusal, wherever it comes from, has changed
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from engine.base.clock import Clock
from engine.core.transition import Transition, plan
from engine.core.values import Decision
from engine.journal.tenant import TenantJournal
from engine.model.effects import Effect
from engine.model.records import NewRecord
from engine.runtime.writer import appending
from engine.runtime.writer.live import LiveRun, ending_of
from engine.runtime.writer.memory import STILL
from engine.runtime.writer.performing import Call
from engine.runtime.writer.shared_state import Changes, SharedState

Row = tuple[bytes, bytes | None]


class Writer:
    """`put_down` is called for a run that nobody has, once what was written is durable."""

    def __init__(
        self, journal: TenantJournal, clock: Clock, put_down: Callable[[LiveRun], object]
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._put_down = put_down
        self.shared_state = SharedState(journal)

    def write(
        self,
        live: LiveRun,
        decision: Decision,
        payloads: Sequence[bytes],
        extra: Sequence[Effect],
        rows: Sequence[Row],
    ) -> None:
        """`AppendConflict` and `SegmentSealed` say that somebody else wrote to its journal."""
        batch = self._journal.committer.pending.batch_for(len(payloads))
        appending.make_late_row(live, batch)
        may_outgrow = appending.may_outgrow(live, payloads)
        planned = plan(live.state, decision, self._clock.now_us())
        # Opened where the state, as it is now, says that it ends.
        segment = live.segment
        changes = self.shared_state.changes_in(planned.state, planned.entries)
        released = self._released(live, planned, extra, changes)
        state_rows, late, row_bytes = appending.rows_of(
            live, planned, batch, payloads, now=may_outgrow
        )
        if late is not None:
            released.append(
                Call(live.run_id, functools.partial(appending.late_row_written, live, late))
            )
        # What is refused up to here, or here, has changed nothing.
        if changes:
            state_rows.extend(self.shared_state.rows(changes))
        segment.append_many_nowait(
            [
                NewRecord(entry.kind, payload, planned.timestamp_us)
                for entry, payload in zip(planned.entries, payloads, strict=True)
            ],
            rows=[*state_rows, *rows],
            effects=released,
            expected=planned.first_offset,
        )
        live.state, live.late, live.row_bytes = planned.accepted(), late, row_bytes
        if changes:
            self.shared_state.hold(changes)
        appending.note_resolved(live, planned.entries)
        if live.state.is_terminal:
            last = planned.entries[-1]
            live.ending = ending_of(last.kind, payloads[-1], last.payload)
        appending.note_entries(
            live, planned.entries, payloads, planned.first_offset, planned.timestamp_us
        )

    def _released(
        self, live: LiveRun, planned: Transition, extra: Sequence[Effect], changes: Changes
    ) -> list[Effect]:
        """What leaves when the transition is durable, in its order."""
        released = [
            *appending.addressed(live, planned.after_commit),
            *extra,
            *appending.deliveries(live, planned),
        ]
        if planned.state.status in STILL:
            released.append(Call(live.run_id, functools.partial(self._put_down, live)))
        if changes:
            released.append(self.shared_state.when_durable(live.run_id, changes))
        return released

    def forget(self) -> None:
        """The journal goes on from its disk."""
        self.shared_state = SharedState(self._journal)
