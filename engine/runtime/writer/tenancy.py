"""What the parts of a tenant's runtime may ask of the whole: bookkeeping, performing and recovery
see this, and not the class, which knows them. Owns no behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.base.clock import Clock
from engine.base.errors import EngineError
from engine.base.ids import RunId, TenantId
from engine.core.state import RunState
from engine.journal.tenant import TenantJournal
from engine.model.commands import Command
from engine.model.effects import Effect
from engine.model.payloads import RunAccepted
from engine.runtime.pools import WorkerPools
from engine.runtime.queues import RunQueues
from engine.runtime.writer.live import Ending, LiveRun, RunEnded
from engine.runtime.writer.waiters import Waiters


class Tenancy(Protocol):
    tenant_id: TenantId
    journal: TenantJournal
    clock: Clock
    pools: WorkerPools
    queues: RunQueues
    waiters: Waiters
    unrecovered: dict[RunId, EngineError]
    subscribers: list[Callable[[RunEnded], object]]

    def find(self, run: RunId) -> LiveRun: ...

    def live(self, run: RunId) -> LiveRun | None: ...

    def exists(self, run: RunId) -> bool: ...

    def adopt(self, state: RunState) -> LiveRun: ...

    def enqueue_taken_up(self, live: LiveRun) -> None: ...

    def ending_of(self, run: RunId) -> Ending | None: ...

    def forget(self, run: RunId) -> None: ...

    def start_child(self, run: RunId, accepted: RunAccepted) -> LiveRun: ...

    def carry_out(
        self,
        live: LiveRun,
        command: Command,
        extra: Sequence[Effect] = (),
        rows: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> None: ...

    def look_at(self, due_ms: int, run: RunId) -> None: ...

    def failed_unexpectedly(self, failure: Exception, doing: str) -> EngineError: ...
