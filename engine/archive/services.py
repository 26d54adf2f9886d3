"""What the background services have in common: one look after another over all open tenants.

A store that is down is asked less and less often, up to a bound, and again at once when somebody
wants a flush. What goes wrong with one tenant is that tenant's. Knows no service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import trio

from engine.archive.tenant import TenantArchive
from engine.base import limits
from engine.base.errors import ArchiveUnreachable, EngineError, JournalClosed
from engine.base.ids import TenantId

Tenants = Mapping[TenantId, TenantArchive]

_FACTOR: Final = 2


class Backoff:
    """How long to leave a store alone that does not answer."""

    def __init__(self) -> None:
        self._delay_ms = 0

    @property
    def delay_ms(self) -> int:
        return self._delay_ms

    def failed(self) -> None:
        self._delay_ms = min(
            max(limits.archive_backoff_ms_min, self._delay_ms * _FACTOR),
            limits.archive_backoff_ms_max,
        )

    def succeeded(self) -> None:
        self._delay_ms = 0


async def for_each(
    archives: Iterable[TenantArchive], work: Callable[[TenantArchive], Awaitable[object]]
) -> bool:
    """Do it for every tenant, a few at once; whether the store answered all of them."""
    answered = True
    room = trio.Semaphore(limits.archive_tenants_at_once_max)

    async def one(archive: TenantArchive) -> None:
        nonlocal answered
        try:
            await work(archive)
        except JournalClosed:
            return  # it was closed meanwhile, and is looked after when it opens
        except EngineError as error:
            archive.failed(error)
            answered = answered and not isinstance(error, ArchiveUnreachable)
        except Exception as failure:  # noqa: BLE001 - one tenant's defect is not the others'
            archive.failed_unexpectedly(failure)
        finally:
            room.release()

    async with trio.open_nursery() as nursery:
        for archive in list(archives):
            await room.acquire()
            nursery.start_soon(one, archive)
    return answered


class Periodic:
    """A service that does its work for every tenant, and again after an interval."""

    def __init__(
        self,
        tenants: Tenants,
        work: Callable[[TenantArchive], Awaitable[object]],
        *,
        interval_ms: int,
    ) -> None:
        self._tenants = tenants
        self._work = work
        self._interval_ms = interval_ms

    async def run(self) -> None:
        while True:
            await trio.sleep(self._interval_ms / 1_000)
            await self.run_once()

    async def run_once(self) -> bool:
        """Whether the store answered."""
        return await for_each(self._tenants.values(), self._work)
