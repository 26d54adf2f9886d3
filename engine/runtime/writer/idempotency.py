"""Which run an idempotency key has started. A key is a row, written with the run's first record;
until that is durable it is known from memory. Knows neither how a key is made nor what a run is.
"""

from __future__ import annotations

import functools

from engine.base.clock import Clock
from engine.base.ids import RunId
from engine.journal.layout import expiry_key
from engine.journal.tenant import TenantJournal
from engine.runtime.writer.performing import Call


class IdempotencyKeys:
    def __init__(self, journal: TenantJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._pending: dict[bytes, bytes] = {}

    def entry(self, key: bytes) -> bytes | None:
        return self._pending.get(key) or self._journal.row(key)

    def take(
        self, run: RunId, key: bytes, entry: bytes
    ) -> tuple[Call, list[tuple[bytes, bytes | None]]]:
        """From now on the key has its entry; what goes with the start to keep it."""
        self._pending[key] = entry
        written = Call(run, functools.partial(self.forget, key))
        return written, [(key, entry), (expiry_key(self._clock.now_ms(), key), b"")]

    def forget(self, key: bytes) -> None:
        """It is on the disk, or its start was refused."""
        self._pending.pop(key, None)

    def clear(self) -> None:
        self._pending.clear()
