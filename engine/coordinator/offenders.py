"""Workers on whose frames the engine failed: for how long each is not let in again.

Such a worker comes back with the same, at once and under the name that it has. Each time it is
kept out for longer, so that a defect costs a failure a minute and not a thousand a second. Only
that name is: the tenant's other workers, and sessions that are under way, know nothing of it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import InternalFailure
from engine.base.ids import TenantId

DEFECT: Final = (
    "the engine failed on what this worker sent, which is a defect; the engine's log has the cause"
)


class _Offences(msgspec.Struct):
    count: int
    last_us: int


class Offenders:
    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._known: Final[dict[tuple[TenantId, str], _Offences]] = {}  # the latest at the end

    def __len__(self) -> int:
        return len(self._known)

    def note(self, tenant_id: TenantId, worker_id: str) -> None:
        now_us = self._clock.monotonic_us()
        offences = self._known.pop((tenant_id, worker_id), None)
        if offences is None or now_us - offences.last_us >= limits.offender_forgiven_ms * 1_000:
            offences = _Offences(0, now_us)
        self._known[tenant_id, worker_id] = _Offences(offences.count + 1, now_us)
        if len(self._known) > limits.offenders_kept_max:
            del self._known[next(iter(self._known))]

    def check(self, tenant_id: TenantId, worker_id: str) -> None:
        wait_ms = self.wait_ms(tenant_id, worker_id)
        if wait_ms:
            raise InternalFailure(
                f"{DEFECT}; since this has happened before, it is let in again in "
                f"{-(-wait_ms // 1_000)} s"
            )

    def wait_ms(self, tenant_id: TenantId, worker_id: str) -> int:
        """How long it is not let in from now on; 0 if it is."""
        offences = self._known.get((tenant_id, worker_id))
        if offences is None:
            return 0
        doubled_ms = limits.offender_wait_ms_initial << min(offences.count - 1, 32)
        waited_ms = (self._clock.monotonic_us() - offences.last_us) // 1_000
        return max(min(doubled_ms, limits.offender_wait_ms_max) - waited_ms, 0)
